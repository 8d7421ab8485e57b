"""Accuracy against cost: what a router's threshold buys (RIDE, Wang et al., ICLR 2021, arXiv 2010.01809: the routing stage).

Expert 0 sees every image. While the sigmoid of score i exceeds the threshold the image goes on to expert i + 1; its answer is the mean of the
logits of the experts it was given. The threshold is a free operating point, 0.5 in the official code.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lt_pipeline.errors import LongTailError
from lt_pipeline.evaluation.accuracy import GROUPS, class_recalls, masked_mean


def expected_macs(percent: Sequence[float] | NDArray[np.float64], macs_per_depth: Sequence[float] | NDArray[np.float64]) -> float:
    """Mean multiply-accumulates of one image.

    Args:
        percent: percentage of images that stop after 1..K experts [K]; sums to 100 (half a percent of rounding is allowed).
        macs_per_depth: cost of one image after 1..K experts [K].

    Raises:
        LongTailError: if lengths differ or the percentages do not sum to 100.
    """
    share, macs = np.asarray(percent, np.float64), np.asarray(macs_per_depth, np.float64)
    if share.shape != macs.shape:
        raise LongTailError(f"There are {share.size} percentages for {macs.size} depths; each depth needs one.")
    if share.min() < 0 or abs(share.sum() - 100) > 0.5:
        raise LongTailError(
            f"The percentages of images that stop at each depth sum to {share.sum():g}; they must be non-negative and sum to 100."
        )
    return float((share / 100 * macs).sum())


def depth_percent(experts_used: NDArray[np.int64], experts: int) -> NDArray[np.float64]:
    """Percentage of images that stop after 1..K experts, [K]."""
    return 100 * np.bincount(experts_used - 1, minlength=experts).astype(np.float64) / len(experts_used)


def experts_needed(router_scores: NDArray[np.float32], threshold: float) -> NDArray[np.int64]:
    """Number of experts each image is given, int64 [N] in 1..K: one more for each leading score with sigmoid(score) > threshold.

    Compared as score > logit(threshold), so that 0 gives every image all experts and 1 only the first, without rounding in between.

    Raises:
        LongTailError: if the threshold lies outside 0..1.
    """
    if not 0 <= threshold <= 1:
        raise LongTailError(f"The router's threshold is {threshold}; allowed is 0 (all experts, always) to 1 (the first expert only).")
    with np.errstate(divide="ignore"):
        bound = np.log(np.float64(threshold)) - np.log1p(-np.float64(threshold))
    goes_on = router_scores.astype(np.float64) > bound
    return 1 + np.logical_and.accumulate(goes_on, axis=1).sum(axis=1)


def route(
    expert_logits: NDArray[np.float32], router_scores: NDArray[np.float32], threshold: float = 0.5
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Route each image and average the logits of the experts it was given.

    Args:
        expert_logits: [K, N, C].
        router_scores: [N, K-1].
        threshold: operating point in 0..1.

    Returns:
        Logits [N, C] and the number of experts used [N].

    Raises:
        LongTailError: if the threshold lies outside 0..1.
    """
    used = experts_needed(router_scores, threshold)
    total = np.zeros(expert_logits.shape[1:], np.float32)
    for index, logits in enumerate(expert_logits):
        rows = used > index
        total[rows] += logits[rows]
    total /= used[:, None].astype(np.float32)
    return total, used


def prefix_decisions(expert_logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """Class predicted by the mean of the first 1..K experts, int64 [K, N]."""
    total = np.zeros(expert_logits.shape[1:], np.float32)
    decisions = np.empty(expert_logits.shape[:2], np.int64)
    for index, logits in enumerate(expert_logits):
        total += logits
        decisions[index] = total.argmax(axis=1)
    return decisions


def cost_curve(
    expert_logits: NDArray[np.float32],
    router_scores: NDArray[np.float32],
    targets: NDArray[np.int64],
    macs_per_depth: NDArray[np.float64] | None,
    groups: dict[str, NDArray[np.bool_]],
    points: int = 101,
) -> pd.DataFrame:
    """Accuracy and mean cost over the router's whole range of thresholds.

    Args:
        expert_logits: [K, N, C].
        router_scores: [N, K-1].
        targets: true classes [N].
        macs_per_depth: [K]; where unknown the cost is counted in experts alone.
        groups: class masks [C] of the shot groups.
        points: thresholds to try besides 0, 0.5 and 1: quantiles of the scores, so that each step moves about as many images.

    Returns:
        Rows by rising cost: threshold, mean_experts, mean_macs (missing if unknown), all, many, medium, few (absent for an empty group).
    """
    classes = expert_logits.shape[2]
    correct = prefix_decisions(expert_logits) == targets
    quantiles = np.quantile(router_scores.astype(np.float64), np.linspace(0, 1, points))
    thresholds = np.unique(np.concatenate([[0.0, 0.5, 1.0], 1 / (1 + np.exp(-quantiles))]))[::-1]
    rows = []
    for threshold in thresholds:
        used = experts_needed(router_scores, float(threshold))
        hits = np.take_along_axis(correct, used[None] - 1, axis=0)[0]
        recalls = class_recalls(targets, hits, classes)
        percent = depth_percent(used, len(expert_logits))
        row = {
            "threshold": float(threshold),
            "mean_experts": float(used.mean()),
            "mean_macs": float("nan") if macs_per_depth is None else expected_macs(percent, macs_per_depth),
            "all": float(hits.mean()),
        }
        rows.append(row | {name: masked_mean(recalls, groups[name]) for name in GROUPS if name in groups})
    return pd.DataFrame(rows).dropna(axis="columns", how="all").sort_values(["mean_experts", "all"], ignore_index=True)
