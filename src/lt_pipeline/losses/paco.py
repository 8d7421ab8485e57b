"""Parametric contrastive learning (PaCo, Cui et al., ICCV 2021, arXiv 2107.12028, section 3.2): supervised contrast in which each class has a
learned centre, its classifier row, beside the samples of batch and queue."""

import numpy as np
import torch
from torch import Tensor

from lt_pipeline.losses.counts import Counts, positive_counts
from lt_pipeline.losses.precision import full_precision

_TINY = 1e-12


def frequency_prior(counts: Counts) -> Tensor:
    """Return ``log(n_c / sum n + 1e-9)``, float32 [C], which rebalances the centres' logits.

    Raises:
        LongTailError: if a class has no training image.
    """
    numbers = positive_counts(counts)
    return torch.from_numpy(np.log(numbers / numbers.sum() + 1e-9)).float()


@full_precision
def paco_loss(
    features: Tensor,
    labels: Tensor,
    logits: Tensor,
    prior: Tensor,
    alpha: float = 0.05,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 0.2,
) -> Tensor:
    """Return the parametric contrastive loss of B queries against C centres and M samples (eq. 6).

    A query's candidates are the centres, at ``logits + prior``, and every sample but itself, at ``cosine / temperature`` and with the
    weight ``gamma`` in the denominator. It is drawn to its own centre with the weight ``beta`` and to the samples of its class with ``alpha``.

    Args:
        features: unit vectors [M, d]; the first B are the queries, then their keys, then the queue.
        labels: int64 [M].
        logits: of the classifier on the queries' pooled features [B, C].
        prior: :func:`frequency_prior` [C].
        alpha: pull towards samples of the same class.
        beta: pull towards the own centre.
        gamma: weight of the samples in the denominator.
        temperature: of the cosines.
    """
    queries, classes = logits.shape
    own = torch.eye(queries, len(features), dtype=torch.bool, device=features.device)
    candidates = torch.cat([logits + prior, features[:queries] @ features.T / temperature], dim=1)
    candidates = candidates - candidates.detach().amax(1, keepdim=True)
    weights = torch.cat([torch.ones_like(logits), (~own).to(logits.dtype) * gamma], dim=1)
    log_probability = candidates - ((weights * candidates.exp()).sum(1, keepdim=True) + _TINY).log()
    centre = torch.nn.functional.one_hot(labels[:queries], classes).to(logits.dtype) * beta
    same = ((labels[:queries, None] == labels) & ~own).to(logits.dtype) * alpha
    positives = torch.cat([centre, same], dim=1)
    return -((positives * log_probability).sum(1) / positives.sum(1)).mean()
