"""From predictions to metrics: flat, JSON-able, the same keys for every method, and every set of numbers says where it comes from.

Keys (fractions of 1, not percent; a shot group without classes is absent):

* ``accuracy/all`` (pooled), ``accuracy/{many,medium,few}`` (mean of class recalls), each with ``.../ci_low`` and ``.../ci_high`` (95 %, test
  images only), ``macro_accuracy``, ``macro_f1``, ``top5`` (with more than 5 classes), ``nll`` (nats), ``brier``, ``ece``, ``ece/{many,medium,few}``;
* ``ranked/{head,mid,tail}``: mean of class recalls by rank of the training counts, where the benchmark has ``rank_groups``;
* ``expert_<i>/...`` and ``ensemble/...`` (mean of all experts): the same without intervals, where the model has experts;
* ``router/mean_experts``, ``router/percent_<depth>``, ``macs/mean``, ``macs/depth_<depth>``, where known;
* ``<label>/...``: further selections of the same run (chosen on validation, best on test), see :func:`evaluate_many`;
* ``metadata/<part>/...``, ``by/<column>/<value>/...``: see :func:`~lt_pipeline.evaluation.metadata.metadata_scores`;
* context: ``method benchmark imbalance_factor seed split_hash protocol precision ...`` and every other plain value among the facts.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lt_pipeline.data.shots import shot_masks
from lt_pipeline.errors import LongTailError
from lt_pipeline.evaluation.accuracy import GROUPS, bootstrap_intervals, macro_f1, per_class_table, top_k_accuracy
from lt_pipeline.evaluation.calibration import expected_calibration_error, reliability_bins, row_scores
from lt_pipeline.evaluation.metadata import metadata_scores
from lt_pipeline.evaluation.predictions import Predictions
from lt_pipeline.evaluation.routing import depth_percent, expected_macs, experts_needed

CONTEXT = ("method", "benchmark", "imbalance_factor", "seed", "split_hash", "protocol", "precision")
"""Facts that every metrics file has, null where unknown."""

LAST_EPOCH = "last epoch"


def evaluate(predictions: Predictions, draws: int = 1000) -> tuple[dict[str, Any], pd.DataFrame]:
    """Score predictions.

    Args:
        predictions: images without a label are left out and counted under ``unlabelled_images``.
        draws: bootstrap draws for the 95 % intervals; 0 leaves the intervals out.

    Returns:
        The metrics (see the module's text) and one row a class (see :func:`~lt_pipeline.evaluation.accuracy.per_class_table`).

    Raises:
        LongTailError: if no image has a label or the facts lack ``train_counts``.
    """
    unlabelled = int((predictions.labels < 0).sum())
    p = predictions.labelled()
    groups = shot_groups(p)
    decisions = p.logits.argmax(axis=1)
    per_class = per_class_table(p.labels, decisions, p.train_counts, p.class_names, groups)

    metrics = _context(p) | {"classes": p.num_classes, "test_images": len(p), "unlabelled_images": unlabelled, "experts": p.num_experts}
    metrics |= {f"classes/{name}": int(mask.sum()) for name, mask in groups.items()}
    metrics |= _scores(p, p.logits, groups)
    for name, (low, high) in bootstrap_intervals(per_class, groups, draws=draws).items() if draws else ():
        metrics |= {f"accuracy/{name}/ci_low": low, f"accuracy/{name}/ci_high": high}
    if p.expert_logits is not None:
        members = {f"expert_{index}": logits for index, logits in enumerate(p.expert_logits)} | {"ensemble": p.expert_logits.mean(axis=0)}
        for name, logits in members.items():
            metrics |= {f"{name}/{key}": value for key, value in _scores(p, logits, groups).items()}
    return metrics | metadata_scores(p, groups) | _cost(p), per_class


def evaluate_many(selections: Mapping[str, Predictions]) -> tuple[dict[str, Any], pd.DataFrame]:
    """Score several checkpoints of one run side by side; the first is the primary one (last epoch) and keeps the plain keys.

    Args:
        selections: label of the protocol -> predictions, for instance ``{"last epoch": ..., "chosen on validation": ..., "best on test": ...}``.

    Returns:
        Metrics as of :func:`evaluate`, plus ``<label>/accuracy/all`` etc. for the others and their labels under ``selections``; the primary
        per-class table.

    Raises:
        LongTailError: if there are no predictions, or they come from different splits.
    """
    if not selections:
        raise LongTailError("There are no predictions to evaluate.")
    (primary, first), *others = selections.items()
    metrics, per_class = evaluate(first)
    metrics["protocol"] = primary
    metrics["selections"] = list(selections)
    for label, predictions in others:
        if predictions.facts.get("split_hash") != first.facts.get("split_hash"):
            raise LongTailError(
                f"The predictions {label!r} come from the split {predictions.facts.get('split_hash')}, not from {metrics['split_hash']}."
            )
        p = predictions.labelled()
        metrics |= {f"{label}/{key}": value for key, value in _scores(p, p.logits, shot_groups(p)).items()}
    return metrics, per_class


def shot_groups(predictions: Predictions) -> dict[str, NDArray[np.bool_]]:
    """Class masks [C] of the shot groups that have classes, by the convention and thresholds among the facts (strict, 100, 20)."""
    facts = predictions.facts
    convention = str(facts.get("shot_convention") or "strict").removesuffix("100")
    masks = shot_masks(predictions.train_counts, convention, int(facts.get("shot_many") or 100), int(facts.get("shot_few") or 20))
    return {name: masks[name] for name in GROUPS if masks[name].any()}


def rank_groups(predictions: Predictions) -> dict[str, NDArray[np.bool_]]:
    """Class masks [C] of head, mid and tail by rank of the training counts, where the facts say how many classes come before mid and tail.

    Equal counts keep their class order.

    Raises:
        LongTailError: if there are fewer classes.
    """
    borders = predictions.facts.get("rank_groups")
    if borders is None:
        return {}
    rank = np.empty(predictions.num_classes, np.int64)
    rank[np.argsort(-predictions.train_counts, kind="stable")] = np.arange(predictions.num_classes)
    start, end = borders
    if end >= predictions.num_classes:
        raise LongTailError(f"benchmark.rank_groups is {list(borders)}, but there are only {predictions.num_classes} classes.")
    return {"head": rank < start, "mid": (rank >= start) & (rank < end), "tail": rank >= end}


def _scores(p: Predictions, logits: NDArray[np.float32], groups: dict[str, NDArray[np.bool_]]) -> dict[str, float]:
    decisions = logits.argmax(axis=1)
    correct = decisions == p.labels
    table = per_class_table(p.labels, decisions, p.train_counts, p.class_names, groups)
    rows = row_scores(logits, p.labels)
    scores = {"accuracy/all": float(correct.mean())}
    for name, mask in groups.items():
        scores[f"accuracy/{name}"] = float(table["accuracy"][mask].mean())
    scores |= {
        "macro_accuracy": float(table["accuracy"].mean()),
        "macro_f1": macro_f1(table),
        **({"top5": top_k_accuracy(logits, p.labels)} if logits.shape[1] > 5 else {}),
        "nll": float(rows.nll.mean()),
        "brier": float(rows.brier.mean()),
        "ece": expected_calibration_error(reliability_bins(rows.confidence, correct)),
    }
    for name, mask in rank_groups(p).items():
        scores[f"ranked/{name}"] = float(table["accuracy"][mask].mean())
    for name, mask in groups.items():
        members = mask[p.labels]
        if members.any():
            scores[f"ece/{name}"] = expected_calibration_error(reliability_bins(rows.confidence[members], correct[members]))
    return {key: value for key, value in scores.items() if np.isfinite(value)}


def _cost(p: Predictions) -> dict[str, float]:
    cost: dict[str, float] = {}
    used = p.experts_used
    if used is None and p.router_scores is not None and p.facts.get("router_threshold") is not None:
        used = experts_needed(p.router_scores, float(p.facts["router_threshold"]))
    if p.macs_per_depth is not None:
        cost |= {f"macs/depth_{depth}": float(macs) for depth, macs in enumerate(p.macs_per_depth, 1)}
        cost["macs/mean"] = float(p.macs_per_depth[-1])
    if used is not None:
        percent = depth_percent(used, p.num_experts)
        cost["router/mean_experts"] = float(used.mean())
        cost |= {f"router/percent_{depth}": float(share) for depth, share in enumerate(percent, 1)}
        if p.macs_per_depth is not None:
            cost["macs/mean"] = expected_macs(percent, p.macs_per_depth)
    return cost


def _context(p: Predictions) -> dict[str, Any]:
    context: dict[str, Any] = dict.fromkeys(CONTEXT) | {"shot_convention": "strict", "shot_many": 100, "shot_few": 20}
    context |= {key: value for key, value in p.facts.items() if isinstance(value, str | int | float)}
    if p.facts.get("expert_names"):
        context["expert_names"] = list(p.facts["expert_names"])
    context["protocol"] = context["protocol"] or LAST_EPOCH
    return context
