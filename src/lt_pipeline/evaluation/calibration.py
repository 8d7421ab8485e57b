"""Does the model know how sure it may be: likelihood, Brier score and calibration error, in float64.

Sources: Brier, Monthly Weather Review 78 (1950); Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, arXiv 1706.04599, §2
(reliability diagram, eq. 3: expected calibration error).
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

BINS = 15
_CHUNK = 2**22  # logits turned to float64 at once: 32 MB, whatever the size of the test set


class RowScores(NamedTuple):
    """What the softmax of each image's logits is worth; float64 [N] each."""

    nll: NDArray[np.float64]
    """-log p(true class), in nats."""
    brier: NDArray[np.float64]
    """Squared distance between probabilities and truth, summed over classes (0 best, 2 worst)."""
    confidence: NDArray[np.float64]
    """Probability of the predicted class."""


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Row-wise log-softmax in float64 [N, C]: logits of ±45 leave float32 no digits for the small probabilities."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def row_scores(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> RowScores:
    """Score each image; the means of ``nll`` and ``brier`` are the test set's NLL and (multi-class, unhalved) Brier score.

    Args:
        logits: [N, C].
        targets: true classes [N].
    """
    n, classes = logits.shape
    result = RowScores(np.empty(n), np.empty(n), np.empty(n))
    step = max(1, _CHUNK // classes)
    for start in range(0, n, step):
        rows = slice(start, start + step)
        log_p = log_softmax(logits[rows])
        p = np.exp(log_p)
        own = np.take_along_axis(log_p, targets[rows, None], axis=1)[:, 0]
        result.nll[rows] = -own
        result.brier[rows] = np.einsum("nc,nc->n", p, p) - 2 * np.exp(own) + 1
        result.confidence[rows] = p.max(axis=1)
    return result


def reliability_bins(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = BINS) -> pd.DataFrame:
    """Top-label reliability over equal-width bins (low, high].

    Returns:
        One row a bin: low, high, count, confidence and accuracy (means; missing for an empty bin), gap = accuracy - confidence.
    """
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(place, confidence, minlength=bins) / count
        accuracy = np.bincount(place, correct, minlength=bins) / count
    edges = np.linspace(0, 1, bins + 1)
    return pd.DataFrame(
        {
            "low": edges[:-1],
            "high": edges[1:],
            "count": count,
            "confidence": mean_confidence,
            "accuracy": accuracy,
            "gap": accuracy - mean_confidence,
        }
    )


def expected_calibration_error(bins: pd.DataFrame) -> float:
    """Mean of |accuracy - confidence| over the bins of :func:`reliability_bins`, weighted by their images; between 0 and 1."""
    return float((bins["gap"].abs().fillna(0) * bins["count"]).sum() / bins["count"].sum())
