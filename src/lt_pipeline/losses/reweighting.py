"""Class weights by effective number (Cui et al., CVPR 2019, arXiv 1901.05555, eq. 2) and when they act (DRW, Cao et al., NeurIPS 2019)."""

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from lt_pipeline.losses.counts import Counts, positive_counts

BETA = 0.9999
"""The value every recipe uses."""


def effective_number_weights(counts: Counts, beta: float = BETA) -> Tensor:
    """Return class weights ``(1 - beta) / (1 - beta^n)`` scaled to sum to C, float32 [C].

    Computed in float64: for n = 1 the denominator would lose its digits in float32.

    Raises:
        LongTailError: if a class has no training image.
    """
    exponents = positive_counts(counts) * np.log(beta)
    weights = (1 - beta) / -np.expm1(exponents)
    return torch.from_numpy(weights * (len(weights) / weights.sum())).float()


def reweighting_active(epoch: int, reweight_epoch: int) -> bool:
    """Return whether deferred re-weighting is on in ``epoch`` (1-based): after ``reweight_epoch``; a negative one is never."""
    return 0 <= reweight_epoch < epoch


def weighted_mean(values: Tensor, weights: Tensor, across_ranks: bool = False) -> Tensor:
    """Return ``sum(weights * values) / sum(weights)``.

    Args:
        values: loss of each sample, [B].
        weights: weight of each sample, [B].
        across_ranks: divide by the weights of all ranks, so that the ranks' gradients, averaged by their share of the batch, are those of the
            global weighted mean. Otherwise each rank divides by its own weights, which is not the same thing but needs no communication.
    """
    total = weights.sum()
    numerator = (values * weights).sum()
    if across_ranks and dist.is_available() and dist.is_initialized():
        sums = torch.stack([total, total.new_tensor(float(len(weights)))])
        dist.all_reduce(sums)
        return numerator * (sums[1] / len(weights)) / sums[0]
    return numerator / total
