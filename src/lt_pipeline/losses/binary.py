"""Losses that treat every class as a question of its own."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lt_pipeline.losses.precision import full_precision


@full_precision
def binary_cross_entropy(logits: Tensor, target: Tensor, smoothing: float = 0.0, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
    """Return sigmoid cross-entropy.

    Args:
        logits: [B, C].
        target: distributions [B, C].
        smoothing: s of label smoothing, ``q (1 - s) + s / C``.
        reduction: ``mean`` over all entries, or their ``sum`` divided by the sum of the targets.
    """
    smoothed = target * (1 - smoothing) + smoothing / target.shape[1]
    if reduction == "mean":
        return F.binary_cross_entropy_with_logits(logits, smoothed)
    return F.binary_cross_entropy_with_logits(logits, smoothed, reduction="sum") / smoothed.sum()


@full_precision
def gumbel_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor | None = None, clamp: float = 10.0) -> Tensor:
    """Return cross-entropy under the Gumbel activation ``exp(-e^-z)``, the limit of APA for lambda to 0: summed over classes, averaged over rows.

    Args:
        logits: z [N, C].
        target: in [0, 1], [N, C]; all zeros is background.
        weight: of each entry [N, C]; None is 1 everywhere.
        clamp: z is kept within plus and minus this.
    """
    exponent = (-logits.clamp(-clamp, clamp)).exp()
    losses = target * exponent - (1 - target) * (-torch.expm1(-exponent)).log()
    return (losses if weight is None else losses * weight).sum() / len(logits)


def gumbel_scores(logits: Tensor) -> Tensor:
    """Return ``exp(-e^-z)`` of logits z, between 0 and 1."""
    return (-(-logits).exp()).exp()
