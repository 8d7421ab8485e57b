import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_score, top_k_accuracy_score

from lt_pipeline.errors import LongTailError
from lt_pipeline.evaluation.accuracy import (
    bootstrap_intervals,
    hardest_confusions,
    macro_f1,
    per_class_table,
    shot_accuracy,
    top_k_accuracy,
)

COUNTS = np.array([500, 100, 60, 20, 5])


def test_groups_are_means_of_class_recalls_by_hand():
    targets = np.array([0, 0, 0, 0, 1, 1, 2, 2, 3, 4])
    guesses = np.array([0, 0, 0, 1, 1, 0, 2, 0, 3, 0])
    result = shot_accuracy(COUNTS, targets, guesses, "strict")
    np.testing.assert_allclose(result.acc_per_class, [0.75, 0.5, 0.5, 1.0, 0.0])
    assert (result.many, result.medium, result.few) == pytest.approx((0.75, 2 / 3, 0.0))
    assert result.group_sizes == (1, 3, 1)
    assert result.overall == pytest.approx(6 / 10)  # pooled, unlike
    assert result.class_mean == pytest.approx(2.75 / 5)


def test_convention_moves_classes_with_exactly_100_and_20_images():
    targets = guesses = np.arange(5)
    guesses = np.where(targets == 1, 0, guesses)
    assert shot_accuracy(COUNTS, targets, guesses, "inclusive100").group_sizes == (2, 1, 2)
    assert shot_accuracy(COUNTS, targets, guesses, "inclusive100").many == pytest.approx(0.5)
    assert shot_accuracy(COUNTS, targets, guesses, "strict100").many == pytest.approx(1.0)


def test_empty_group_and_untested_class_are_missing_not_zero():
    result = shot_accuracy(np.array([500, 300, 200]), np.array([0, 1]), np.array([0, 0]))
    assert np.isnan(result.few) and np.isnan(result.medium) and np.isnan(result.acc_per_class[2])
    assert result.many == pytest.approx(0.5) and result.class_mean == pytest.approx(0.5)


def test_no_images_and_wrong_class_count_are_refused():
    with pytest.raises(LongTailError, match="no test images"):
        shot_accuracy(COUNTS, np.array([], int), np.array([], int))
    with pytest.raises(LongTailError, match="5 classes, but 6"):
        shot_accuracy(COUNTS, np.array([0]), np.array([0]), num_classes=6)


labels = st.integers(1, 60).flatmap(lambda n: st.tuples(*[st.lists(st.integers(0, 4), min_size=n, max_size=n)] * 2))


@given(labels, st.randoms(use_true_random=False))
def test_order_of_images_does_not_matter(pairs, random):
    targets, guesses = np.array(pairs[0]), np.array(pairs[1])
    order = np.array(random.sample(range(len(targets)), len(targets)))
    first, second = shot_accuracy(COUNTS, targets, guesses), shot_accuracy(COUNTS, targets[order], guesses[order])
    np.testing.assert_array_equal(first.acc_per_class, second.acc_per_class)
    np.testing.assert_array_equal(
        [first.many, first.medium, first.few, first.overall], [second.many, second.medium, second.few, second.overall]
    )


def table_of(targets, guesses) -> pd.DataFrame:
    groups = {"many": np.array([True, False, False, False, False]), "medium": np.array([False, True, True, True, False])}
    return per_class_table(targets, guesses, COUNTS, list("abcde"), groups | {"few": np.arange(5) == 4})


@given(labels)
@pytest.mark.filterwarnings("ignore")
def test_scores_agree_with_scikit_learn(pairs):
    targets, guesses = np.array(pairs[0]), np.array(pairs[1])
    table = table_of(targets, guesses)
    assert table["accuracy"].mean() == pytest.approx(balanced_accuracy_score(targets, guesses))
    assert macro_f1(table) == pytest.approx(f1_score(targets, guesses, average="macro", zero_division=0))
    reference = precision_score(targets, guesses, labels=range(5), average=None, zero_division=np.nan)
    np.testing.assert_allclose(table["precision"], reference)


def test_per_class_table_by_hand():
    table = table_of(np.array([0, 0, 1, 4]), np.array([0, 1, 1, 0]))
    assert table["group"].tolist() == ["many", "medium", "medium", "medium", "few"]
    assert table["test_count"].tolist() == [2, 1, 0, 0, 1]
    np.testing.assert_array_equal(table["accuracy"], [0.5, 1, np.nan, np.nan, 0])
    np.testing.assert_array_equal(table["precision"], [0.5, 0.5, np.nan, np.nan, np.nan])


def test_top_k_against_scikit_learn():
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(200, 12)).astype(np.float32), rng.integers(0, 12, 200)
    for k in (1, 3, 5):
        assert top_k_accuracy(logits, targets, k) == pytest.approx(top_k_accuracy_score(targets, logits, k=k, labels=range(12)))
    with pytest.raises(LongTailError, match="at least 5 classes; there are 3"):
        top_k_accuracy(logits[:, :3], targets % 3, 5)
    assert top_k_accuracy(np.zeros((200, 12), np.float32), targets) == 0.0


def test_hardest_confusions_by_rate_then_count():
    targets = np.array([0] * 10 + [1] * 2 + [2] * 4)
    guesses = np.array([1] * 4 + [0] * 6 + [0, 1] + [0, 0, 2, 2])
    table = hardest_confusions(targets, guesses, ["a", "b", "c"])
    assert table[["true_name", "predicted_name", "count"]].to_numpy().tolist() == [["c", "a", 2], ["b", "a", 1], ["a", "b", 4]]
    np.testing.assert_allclose(table["rate"], [0.5, 0.5, 0.4])
    assert len(hardest_confusions(targets, targets, ["a", "b", "c"])) == 0


def test_bootstrap_equals_resampling_images():
    rng = np.random.default_rng(1)
    targets = np.repeat([0, 1], [300, 100])
    guesses = np.where(rng.random(400) < 0.7, targets, 2)
    table = per_class_table(
        targets,
        guesses,
        np.array([500, 400, 300]),
        list("abc"),
        {"many": np.ones(3, bool), "medium": np.zeros(3, bool), "few": np.zeros(3, bool)},
    )
    groups = {"many": np.ones(3, bool)}
    intervals = bootstrap_intervals(table, groups, draws=20000)
    correct = targets == guesses
    slow_all = np.quantile(rng.choice(correct, (20000, 400)).mean(1), (0.025, 0.975))
    slow_group = np.quantile(
        (rng.choice(correct[:300], (20000, 300)).mean(1) + rng.choice(correct[300:], (20000, 100)).mean(1)) / 2, (0.025, 0.975)
    )
    np.testing.assert_allclose(intervals["all"], slow_all, atol=0.004)
    np.testing.assert_allclose(intervals["many"], slow_group, atol=0.004)
    assert intervals == bootstrap_intervals(table, groups, draws=20000)
