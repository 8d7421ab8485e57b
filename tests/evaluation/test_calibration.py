import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import log_loss

from lt_pipeline.evaluation import calibration
from lt_pipeline.evaluation.calibration import expected_calibration_error, log_softmax, reliability_bins, row_scores

LOGITS = hnp.arrays(np.float32, st.tuples(st.integers(1, 40), st.just(4)), elements=st.floats(-45, 45, width=32))


def test_scores_of_one_image_by_hand():
    logits = np.log(np.array([[0.7, 0.2, 0.1]])).astype(np.float32)
    rows = row_scores(logits, np.array([1]))
    assert rows.nll[0] == pytest.approx(-np.log(0.2), rel=1e-6)
    assert rows.brier[0] == pytest.approx(0.49 + 0.64 + 0.01, rel=1e-6)
    assert rows.confidence[0] == pytest.approx(0.7, rel=1e-6)


def test_calibration_error_by_hand():
    # bin (0.6, 0.7]: two images at 0.65, one right; bin (0.9, 1]: one image at 0.95, right
    bins = reliability_bins(np.array([0.65, 0.65, 0.95]), np.array([True, False, True]), bins=10)
    assert bins["count"].tolist() == [0, 0, 0, 0, 0, 0, 2, 0, 0, 1]
    assert expected_calibration_error(bins) == pytest.approx((2 * 0.15 + 0.05) / 3)
    assert np.isnan(bins["accuracy"][0])


def test_edges_belong_to_the_lower_bin():
    bins = reliability_bins(np.array([0.0, 0.5, 1.0]), np.array([False, False, True]), bins=2)
    assert bins["count"].tolist() == [2, 1]


@given(LOGITS, st.data())
def test_against_scikit_learn(logits, data):
    targets = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(logits), max_size=len(logits))))
    rows = row_scores(logits, targets)
    probabilities = np.exp(log_softmax(logits))
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(rows.brier, ((probabilities - np.eye(4)[targets]) ** 2).sum(1), atol=1e-12)
    if (probabilities.min(axis=1) > 1e-15).all():  # scikit-learn clips beyond
        assert rows.nll.mean() == pytest.approx(log_loss(targets, probabilities, labels=range(4)), rel=1e-9, abs=1e-12)
    ece = expected_calibration_error(reliability_bins(rows.confidence, logits.argmax(1) == targets))
    assert 0 <= ece <= 1


def test_large_logits_stay_finite_and_exact():
    rows = row_scores(np.array([[900.0, -900.0], [45.0, -45.0]], np.float32), np.array([1, 1]))
    assert rows.nll.tolist() == [1800.0, 90.0]


def test_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(101, 7)).astype(np.float32), rng.integers(0, 7, 101)
    whole = row_scores(logits, targets)
    monkeypatch.setattr(calibration, "_CHUNK", 70)
    for a, b in zip(whole, row_scores(logits, targets), strict=True):
        np.testing.assert_array_equal(a, b)
