"""Inverse image frequency: offsets for the logits of a plainly trained classifier, in the variants of the code of APA (Alexandridis et al.,
ECCV 2024, arXiv 2407.08567). Rare classes gain.
"""

from typing import Literal

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from lt_pipeline.errors import LongTailError
from lt_pipeline.losses.counts import Counts, positive_counts

Variant = Literal["rel", "raw", "smooth", "normit", "gombit", "base2", "base10"]


def inverse_image_frequency(counts: Counts, variant: Variant = "rel") -> Tensor:
    """Return what is added to each class's logit after training, float32 [C].

    With share p = n_c / N: ``rel`` ln((1 - p) / p); ``raw`` -ln p, which is logit adjustment at temperature 1; ``smooth``
    ln((N + 1) / (n_c + 1)) + 1; ``normit`` minus the normal quantile of p; ``gombit`` -ln(-ln(1 - p)); ``base2`` and ``base10`` are ``raw`` in
    another base.

    Raises:
        LongTailError: if a class has no training image, or there is only one class.
    """
    numbers = positive_counts(counts)
    if len(numbers) < 2:
        raise LongTailError("Inverse image frequency needs at least 2 classes.")
    total = numbers.sum()
    share = numbers / total
    match variant:
        case "rel":
            offsets = np.log((total - numbers) / numbers)
        case "raw":
            offsets = -np.log(share)
        case "smooth":
            offsets = np.log((total + 1) / (numbers + 1)) + 1
        case "normit":
            offsets = -ndtri(share)
        case "gombit":
            offsets = -np.log(-np.log1p(-share))
        case "base2":
            offsets = -np.log2(share)
        case "base10":
            offsets = -np.log10(share)
    return torch.from_numpy(offsets).float()
