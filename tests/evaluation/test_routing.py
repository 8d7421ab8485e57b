import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lt_pipeline.errors import LongTailError
from lt_pipeline.evaluation.metrics import evaluate, shot_groups
from lt_pipeline.evaluation.routing import cost_curve, depth_percent, expected_macs, experts_needed, route

MACS = [5.05658720e7, 7.63763090e7, 1.02186746e8]
SCORES = hnp.arrays(np.float32, (9, 2), elements=st.floats(-1e6, 1e6, width=32))


def test_cost_of_the_official_example():
    # 40.99 / 9.47 / 49.54 % stopping after 1 / 2 / 3 experts: 0.0786 GMACs
    assert expected_macs([40.99, 9.47, 49.54], MACS) == pytest.approx(78583101.36, rel=1e-9)
    assert expected_macs([0, 0, 100], MACS) == MACS[2]


@pytest.mark.parametrize("percent", [[50, 50], [50, 20, 20], [-10, 60, 50]])
def test_percentages_that_do_not_add_up_are_refused(percent):
    with pytest.raises(LongTailError):
        expected_macs(percent, MACS)


def test_routing_by_hand():
    experts = np.array([[[1, 0]], [[0, 4]], [[5, 5]]], np.float32).repeat(4, axis=1)
    scores = np.array([[-1, 9], [1, -1], [1, 1], [0, 9]], np.float32)  # the last is exactly at the threshold: strict, so it stops
    logits, used = route(experts, scores, 0.5)
    assert used.tolist() == [1, 2, 3, 1]
    np.testing.assert_allclose(logits, [[1, 0], [0.5, 2], [2, 3], [1, 0]])
    assert depth_percent(used, 3).tolist() == [50, 25, 25]


@given(SCORES)
def test_limits_of_the_threshold(scores):
    assert (experts_needed(scores, 0) == 3).all()
    assert (experts_needed(scores, 1) == 1).all()


@given(SCORES, st.floats(0, 1), st.floats(0, 1))
def test_lower_threshold_never_uses_fewer_experts(scores, a, b):
    assert (experts_needed(scores, min(a, b)) >= experts_needed(scores, max(a, b))).all()


@given(
    hnp.arrays(np.float32, (3, 6, 4), elements=st.floats(-45, 45, width=32)),
    hnp.arrays(np.float32, (6, 2), elements=st.floats(-5, 5, width=32)),
    st.floats(0, 1),
    st.permutations(range(6)),
)
def test_each_image_is_routed_for_itself(experts, scores, threshold, order):
    logits, used = route(experts, scores, threshold)
    again, used_again = route(experts[:, order], scores[order], threshold)
    np.testing.assert_array_equal(logits[order], again)
    np.testing.assert_array_equal(used[order], used_again)
    for row in range(6):
        np.testing.assert_allclose(logits[row], experts[: used[row], row].mean(0), atol=1e-5)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_threshold_out_of_range_is_refused(threshold):
    with pytest.raises(LongTailError, match="allowed is 0"):
        experts_needed(np.zeros((2, 1), np.float32), threshold)


def test_cost_curve_runs_from_first_expert_to_all(routed, routed_result):
    metrics, _ = routed_result
    curve = cost_curve(routed.expert_logits, routed.router_scores, routed.labels, routed.macs_per_depth, shot_groups(routed))
    assert curve["mean_macs"].is_monotonic_increasing
    first, last = curve.iloc[0], curve.iloc[-1]
    assert (first["mean_experts"], last["mean_experts"]) == (1, 3)
    assert first["mean_macs"] == routed.macs_per_depth[0] and last["mean_macs"] == pytest.approx(routed.macs_per_depth[2])
    for group in ("all", "many", "medium", "few"):
        assert first[group] == pytest.approx(metrics[f"expert_0/accuracy/{group}"])
        assert last[group] == pytest.approx(metrics[f"ensemble/accuracy/{group}"])
    point = curve[curve["threshold"] == 0.5].iloc[0]
    assert point["all"] == pytest.approx(metrics["accuracy/all"])
    assert point["mean_macs"] == pytest.approx(metrics["macs/mean"])


def test_cost_curve_without_macs_counts_experts(routed):
    curve = cost_curve(routed.expert_logits, routed.router_scores, routed.labels, None, {})
    assert "mean_macs" not in curve and {"mean_experts", "all"} <= set(curve)


def test_final_metrics_are_those_of_the_routed_logits(routed, routed_result):
    logits, used = route(routed.expert_logits, routed.router_scores, 0.5)
    np.testing.assert_array_equal(logits, routed.logits)
    assert evaluate(routed)[0]["router/mean_experts"] == pytest.approx(used.mean())
