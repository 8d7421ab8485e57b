"""Accuracy along the tail: overall, by shot group, by class, and which classes are taken for which.

A group's accuracy is the unweighted mean of its classes' recalls, never pooled over images (Liu et al., CVPR 2019, arXiv 1904.05160; Kang et
al., ICLR 2020, arXiv 1910.09217); the groups come from the *training* counts. "strict" thresholds (many > 100, few < 20) and "inclusive" ones
(many >= 100, few <= 20) both occur in the literature and move tables by tenths of a point.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lt_pipeline.data.shots import shot_masks
from lt_pipeline.errors import LongTailError

GROUPS = ("many", "medium", "few")


@dataclass(frozen=True)
class ShotAccuracy:
    """Accuracies as fractions; NaN where a class has no test image or a group no class."""

    acc_per_class: NDArray[np.float64]
    """Recall of each class [C]."""
    many: float
    medium: float
    few: float
    overall: float
    """Pooled over test images."""
    class_mean: float
    """Unweighted mean of the recalls of classes with test images (macro, balanced accuracy)."""
    group_sizes: tuple[int, int, int]
    """Number of classes in many, medium, few."""


def shot_accuracy(
    train_counts: NDArray[np.int64],
    targets: NDArray[np.int64],
    predictions: NDArray[np.int64],
    convention: str = "strict",
    num_classes: int | None = None,
    many: int = 100,
    few: int = 20,
) -> ShotAccuracy:
    """Top-1 accuracy overall, per class and per shot group.

    Args:
        train_counts: training images per class [C].
        targets: true classes of the test images [N].
        predictions: predicted classes [N].
        convention: ``strict`` or ``inclusive`` (also ``strict100``, ``inclusive100``).
        num_classes: C; by default the length of ``train_counts``.
        many, few: thresholds of the groups in training images.

    Raises:
        LongTailError: if there is no image, or the number of classes disagrees with the counts.
    """
    counts, targets, predictions = np.asarray(train_counts), np.asarray(targets), np.asarray(predictions)
    classes = len(counts) if num_classes is None else num_classes
    if classes != len(counts):
        raise LongTailError(f"There are training counts for {len(counts)} classes, but {classes} classes to evaluate.")
    if not len(targets):
        raise LongTailError("There are no test images, so there is no accuracy.")
    recalls = class_recalls(targets, predictions == targets, classes)
    masks = shot_masks(counts, convention.removesuffix("100"), many, few)
    groups = {name: masked_mean(recalls, masks[name]) for name in GROUPS}
    return ShotAccuracy(
        acc_per_class=recalls,
        **groups,
        overall=float((predictions == targets).mean()),
        class_mean=float(np.nanmean(recalls)),
        group_sizes=(int(masks["many"].sum()), int(masks["medium"].sum()), int(masks["few"].sum())),
    )


def class_recalls(targets: NDArray[np.int64], correct: NDArray[np.bool_], classes: int) -> NDArray[np.float64]:
    """Recall of each class [C]; NaN for a class without test images."""
    tests = np.bincount(targets, minlength=classes)
    with np.errstate(invalid="ignore"):
        return np.bincount(targets[correct], minlength=classes) / tests


def masked_mean(values: NDArray[np.float64], mask: NDArray[np.bool_]) -> float:
    """Mean of the finite values under the mask; NaN if there is none."""
    chosen = values[mask & np.isfinite(values)]
    return float(chosen.mean()) if chosen.size else float("nan")


def per_class_table(
    targets: NDArray[np.int64],
    predictions: NDArray[np.int64],
    train_counts: NDArray[np.int64],
    names: list[str],
    groups: dict[str, NDArray[np.bool_]],
) -> pd.DataFrame:
    """One row a class: class, name, train_count, test_count, accuracy (recall), group, precision, f1.

    Accuracy is missing for a class without test images, precision for one that is never predicted.
    """
    classes = len(names)
    hits = np.bincount(targets[predictions == targets], minlength=classes)
    tests, guesses = np.bincount(targets, minlength=classes), np.bincount(predictions, minlength=classes)
    group = np.select(list(groups.values()), list(groups), default="")
    with np.errstate(invalid="ignore"):
        return pd.DataFrame(
            {
                "class": np.arange(classes),
                "name": names,
                "train_count": train_counts,
                "test_count": tests,
                "accuracy": hits / tests,
                "group": group,
                "precision": hits / guesses,
                "f1": 2 * hits / (tests + guesses),
            }
        )


def top_k_accuracy(logits: NDArray[np.float32], targets: NDArray[np.int64], k: int = 5) -> float:
    """Return the share of images whose class is among the k highest logits; ties count against the model, so that constant logits earn nothing.

    Raises:
        LongTailError: if there are fewer than k classes.
    """
    if k > logits.shape[1]:
        raise LongTailError(f"Top-{k} accuracy needs at least {k} classes; there are {logits.shape[1]}.")
    own = np.take_along_axis(logits, targets[:, None], axis=1)
    return float(((logits >= own).sum(axis=1) <= k).mean())


def macro_f1(per_class: pd.DataFrame) -> float:
    """Unweighted mean of the classes' F1 scores over classes that occur in the test set or are predicted (as scikit-learn)."""
    return float(per_class["f1"].mean())


def hardest_confusions(targets: NDArray[np.int64], predictions: NDArray[np.int64], names: list[str], top: int = 15) -> pd.DataFrame:
    """The ``top`` ordered pairs of classes that are confused at the highest rate.

    Columns: true, predicted, true_name, predicted_name, count, rate (count / test images of the true class). Equal rates: more images first,
    then class order. Memory grows with the number of *different* errors, not with C².
    """
    classes = len(names)
    wrong = predictions != targets
    pairs, counts = np.unique(targets[wrong].astype(np.int64) * classes + predictions[wrong], return_counts=True)
    true, predicted = np.divmod(pairs, classes)
    rates = counts / np.bincount(targets, minlength=classes)[true]
    order = np.lexsort((pairs, -counts, -rates))[:top]
    name = np.asarray(names, dtype=object)
    return pd.DataFrame(
        {
            "true": true[order],
            "predicted": predicted[order],
            "true_name": name[true[order]],
            "predicted_name": name[predicted[order]],
            "count": counts[order],
            "rate": rates[order],
        }
    )


def bootstrap_intervals(
    per_class: pd.DataFrame, groups: dict[str, NDArray[np.bool_]], seed: int = 0, draws: int = 1000
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of overall and group accuracy for the finite number of test images.

    Resampling n images with replacement and counting the hits *is* a binomial draw, so the bootstrap needs no loop over images: pooled accuracy
    resamples the whole test set, group accuracy each class for itself (Efron & Tibshirani, An Introduction to the Bootstrap, 1993). It says
    nothing about the spread between training seeds, and it is too narrow where a class has only a handful of test images.

    Returns:
        ``{"all": (low, high), "many": ...}``; empty groups are absent.
    """
    rng = np.random.default_rng(seed)
    tests = per_class["test_count"].to_numpy()
    recalls = per_class["accuracy"].fillna(0).to_numpy(float)
    total = int(tests.sum())
    samples = {"all": rng.binomial(total, float((recalls * tests).sum() / total), draws) / total}
    for name, mask in groups.items():
        members = mask & (tests > 0)
        if members.any():
            samples[name] = (rng.binomial(tests[members], recalls[members], (draws, int(members.sum()))) / tests[members]).mean(axis=1)
    return {name: (float(low), float(high)) for name, (low, high) in ((k, np.quantile(v, (0.025, 0.975))) for k, v in samples.items())}
