"""Cross-entropy and its long-tailed relatives. Logits are [B, C], targets int64 [B], counts and class weights [C]; results are scalars."""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lt_pipeline.losses.counts import Counts, positive_counts
from lt_pipeline.losses.precision import full_precision
from lt_pipeline.losses.reweighting import weighted_mean

PriorForm = Literal["freq", "counts_pow"]


@full_precision
def cross_entropy(logits: Tensor, target: Tensor, weight: Tensor | None = None, across_ranks: bool = False) -> Tensor:
    """Return softmax cross-entropy, averaged over the batch; with class weights the mean divides by the sum of the samples' weights.

    ``across_ranks`` divides by the weights of all ranks: see :func:`~lt_pipeline.losses.reweighting.weighted_mean`.
    """
    if weight is None:
        return F.cross_entropy(logits, target)
    return weighted_mean(F.cross_entropy(logits, target, reduction="none"), weight.to(logits.dtype)[target], across_ranks)


@full_precision
def soft_cross_entropy(
    logits: Tensor,
    target: Tensor,
    smoothing: float = 0.0,
    weight: Tensor | None = None,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """Return cross-entropy with mixed or smoothed targets.

    Args:
        logits: [B, C].
        target: distributions [B, C], used as given, or labels [B].
        smoothing: s of label smoothing, ``q (1 - s) + s / C``.
        weight: class weights [C]. With distributions the mean divides by B, with labels by the sum of the samples' weights.
        reduction: over the batch.
    """
    return F.cross_entropy(
        logits, target.to(logits.dtype) if target.is_floating_point() else target, weight, reduction=reduction, label_smoothing=smoothing
    )


@full_precision
def focal_loss(logits: Tensor, target: Tensor, gamma: float = 1.0, weight: Tensor | None = None) -> Tensor:
    """Return the focal loss (Lin et al., ICCV 2017, eq. 4) as LDAM-DRW computes it: plain mean of ``(1 - exp(-l))^gamma l``.

    ``l`` is the cross-entropy of the sample, class weight included, so the weight also enters the focusing factor.
    """
    losses = F.cross_entropy(logits, target, weight=weight, reduction="none")
    focus = (-torch.expm1(-losses)).clamp_min(torch.finfo(losses.dtype).eps)  # 0^gamma has no finite slope for gamma < 1
    return (focus**gamma * losses).mean()


def log_prior(counts: Counts, tau: float = 1.0, form: PriorForm = "counts_pow", eps: float = 1e-9) -> Tensor:
    """Return the logit offset of each class, float32 [C].

    ``freq``: ``tau log(n / N + eps)``; ``counts_pow``: ``log(n^tau + eps)``. For softmax they differ by ``eps`` alone, which with frequencies is
    no longer small beside rare classes of large data sets.

    Raises:
        LongTailError: if a class has no training image.
    """
    numbers = positive_counts(counts)
    offsets = tau * np.log(numbers / numbers.sum() + eps) if form == "freq" else np.log(numbers**tau + eps)
    return torch.from_numpy(offsets).float()


@full_precision
def logit_adjusted_cross_entropy(logits: Tensor, target: Tensor, prior: Tensor) -> Tensor:
    """Return cross-entropy of ``logits + prior`` (Menon et al., ICLR 2021, arXiv 2007.07314, eq. 10); raw logits predict.

    With ``prior = log_prior(counts)`` this is balanced softmax (Ren et al., NeurIPS 2020, arXiv 2007.10740, eq. 3).
    """
    return F.cross_entropy(logits + prior, target)


def tau_normalise(weight: Tensor, tau: float) -> Tensor:
    """Return linear classifier rows [C, D] divided by their L2 norm to the power ``tau`` (Kang et al., ICLR 2020, section 4.2).

    The bias is to be zeroed; for a cosine head, which normalises anyway, this means nothing.
    """
    return weight / weight.norm(dim=1, keepdim=True).clamp_min(1e-12) ** tau
