"""Class counts as the losses take them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lt_pipeline.errors import LongTailError

Counts = Sequence[int] | NDArray[np.int64] | Tensor
"""Training images of each class, [C]."""


def positive_counts(counts: Counts) -> NDArray[np.float64]:
    """Return the counts as float64 [C].

    Raises:
        LongTailError: if a class has no training image: its margin, weight and prior would be infinite.
    """
    array = np.asarray(_plain(counts), dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise LongTailError(f"Class counts must be one number per class, not an array of shape {array.shape}.")
    if not (array > 0).all():
        label = int(np.argmin(array))
        raise LongTailError(
            f"Class {label} has {array[label]:g} training images, but margins, weights and priors need at least 1 for each class; "
            "lower the imbalance factor or drop the class."
        )
    return array


def _plain(counts: Counts) -> ArrayLike:
    return counts.detach().cpu().numpy() if isinstance(counts, Tensor) else counts
