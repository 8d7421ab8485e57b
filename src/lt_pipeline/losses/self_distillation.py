"""Diverse experts with consistency self-distillation (MDCS, Zhao et al., ICCV 2023, arXiv 2308.09922, sections 3.2 and 3.3).

Each expert is trained under a prior of another strength and thereby leans towards head, middle or tail; and what it says of the weak view of an
image teaches what it says of the strong view, where the weak view is classified correctly. Logits are [K, B, C].
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lt_pipeline.losses.classification import log_prior
from lt_pipeline.losses.counts import Counts
from lt_pipeline.losses.precision import full_precision


def expert_priors(counts: Counts, exponents: Sequence[float], eps: float = 1e-9) -> Tensor:
    """Return the logit offset ``log(n^e + eps)`` of each class under each expert, float32 [K, C].

    Args:
        counts: training images of each class [C].
        exponents: e of each expert [K]; negative leans to the head, 1 is balanced softmax, more leans to the tail.
        eps: keeps the logarithm finite.

    Raises:
        LongTailError: if a class has no training image.
    """
    return torch.stack([log_prior(counts, exponent, "counts_pow", eps) for exponent in exponents])


@full_precision
def adjusted_logits(expert_logits: Tensor, priors: Tensor) -> Tensor:
    """Return expert_logits [K, B, C] plus each expert's priors [K, C]."""
    return expert_logits + priors[:, None]


@full_precision
def diversity_loss(adjusted: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of each expert [K], averaged over the batch, from adjusted logits [K, B, C] and labels [B]."""
    rows = F.cross_entropy(adjusted.flatten(0, 1), target.repeat(len(adjusted)), reduction="none")
    return rows.view(len(adjusted), -1).mean(1)


@full_precision
def consistency_loss(weak: Tensor, strong: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the divergence of each expert's strong view from its weak one [K], and which images counted, bool [K, B].

    Only images that the expert classifies correctly in the weak view count (confident instance sampling); the mean is over those alone, and 0
    where there is none. The weak view is the teacher and gets no gradient.

    Args:
        weak: adjusted logits of the weak views [K, B, C].
        strong: of the strong views of the same images [K, B, C].
        target: labels [B].
    """
    teacher = weak.detach()
    confident = teacher.argmax(-1) == target
    p, q = teacher.log_softmax(-1), strong.log_softmax(-1)
    divergence = F.kl_div(q, p, reduction="none", log_target=True).sum(-1)
    return (divergence * confident).sum(1) / confident.sum(1).clamp(min=1), confident


def consistency_weight(epoch: int, factor: float = 0.6, warmup_epochs: int = 20) -> float:
    """Return the weight of the consistency loss in ``epoch`` (1-based): it rises in a straight line over the warm-up."""
    return factor * min(epoch / warmup_epochs, 1.0) if warmup_epochs else factor
