"""Label-distribution-aware margins (LDAM, Cao et al., NeurIPS 2019, arXiv 1906.07413, eqs. 10 and 13), with deferred re-weighting."""

import torch
from torch import Tensor, nn

from lt_pipeline.losses.classification import cross_entropy
from lt_pipeline.losses.counts import Counts, positive_counts
from lt_pipeline.losses.precision import full_precision
from lt_pipeline.losses.reweighting import BETA, effective_number_weights, reweighting_active


def ldam_margins(counts: Counts, max_margin: float = 0.5) -> Tensor:
    """Return ``max_margin n^(-1/4) / max_j n_j^(-1/4)``, float32 [C]: the rarest class has the whole margin.

    Raises:
        LongTailError: if a class has no training image.
    """
    numbers = positive_counts(counts)
    return torch.from_numpy(max_margin * (numbers.min() / numbers) ** 0.25).float()


def subtract_margins(logits: Tensor, target: Tensor, margins: Tensor) -> Tensor:
    """Return the logits [..., B, C] with the margin [C] of its own class taken from each row's target logit."""
    index = target.expand(logits.shape[:-1]).unsqueeze(-1)
    shift = -margins.to(logits.dtype)[index]
    return logits.scatter_add(-1, index, shift)


@full_precision
def ldam_loss(
    logits: Tensor, target: Tensor, margins: Tensor, scale: float = 30.0, weight: Tensor | None = None, across_ranks: bool = False
) -> Tensor:
    """Return (weighted) cross-entropy with ``scale * margin`` taken from the target logit.

    Args:
        logits: [B, C], already times ``scale`` by the cosine head.
        target: labels [B].
        margins: [C].
        scale: s of the head, 1 for a linear one.
        weight: class weights [C]; the mean divides by the sum of the samples' weights.
        across_ranks: see :func:`~lt_pipeline.losses.classification.cross_entropy`.
    """
    return cross_entropy(subtract_margins(logits, target, scale * margins), target, weight, across_ranks)


class LdamDrw(nn.Module):
    """LDAM loss with effective-number weights from the epoch after ``reweight_epoch`` on.

    Args:
        counts: training images of each class [C].
        max_margin: margin of the rarest class.
        scale: s of the head, 1 for a linear one.
        reweight_epoch: last epoch (1-based) without weights; negative is never.
        beta: of the effective number.
        across_ranks: divide the weighted mean by the weights of all ranks.

    Raises:
        LongTailError: if a class has no training image.
    """

    margins: Tensor
    weights: Tensor

    def __init__(
        self,
        counts: Counts,
        max_margin: float = 0.5,
        scale: float = 30.0,
        reweight_epoch: int = 160,
        beta: float = BETA,
        across_ranks: bool = False,
    ) -> None:
        super().__init__()
        self.scale, self.reweight_epoch, self.across_ranks = scale, reweight_epoch, across_ranks
        self.register_buffer("margins", ldam_margins(counts, max_margin), persistent=False)
        self.register_buffer("weights", effective_number_weights(counts, beta), persistent=False)

    def forward(self, logits: Tensor, target: Tensor, epoch: int) -> Tensor:
        """Return the loss of logits [B, C] in ``epoch`` (1-based)."""
        weight = self.weights if reweighting_active(epoch, self.reweight_epoch) else None
        return ldam_loss(logits, target, self.margins, self.scale, weight, self.across_ranks)
