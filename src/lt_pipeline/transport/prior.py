"""Wanted shares of the columns from an earlier clustering (SP2OT), and the rows that a plan is sure of."""

import math
from typing import Literal

import torch
from torch import Tensor

from lt_pipeline.errors import LongTailError


def cluster_prior(predictions: Tensor, num_clusters: int) -> Tensor:
    """Return the frequencies of clusters, float32 [K], in decreasing order.

    Args:
        predictions: cluster of each row, int64 [n].
        num_clusters: K.

    Raises:
        LongTailError: if a prediction is not one of the K clusters, or a cluster has no row: its column could hold nothing.
    """
    if predictions.numel() == 0 or int(predictions.min()) < 0 or int(predictions.max()) >= num_clusters:
        raise LongTailError(f"A prior needs predictions from 0 to {num_clusters - 1}.")
    counts = torch.bincount(predictions, minlength=num_clusters)
    if int(counts.min()) == 0:
        raise LongTailError(f"{int((counts == 0).sum())} of {num_clusters} clusters are empty: a prior must give every column a share.")
    return (counts.double() / counts.sum()).sort(descending=True).values.float()


def assign_prior(prior: Tensor, cost: Tensor, order: Literal["mass", "cost"] = "mass") -> Tensor:
    """Return decreasing shares [K] in the order of the columns of ``cost`` [N, K].

    ``mass`` gives the largest share to the column that the rows' softmax of ``-cost`` predicts most. ``cost`` is the official quirk: the
    largest share goes to the column of the highest summed cost, the least likely one.
    """
    amount = cost.double().sum(0) if order == "cost" else cost.double().neg().softmax(1).sum(0)
    shares = torch.empty_like(prior)
    shares[amount.argsort(descending=True, stable=True)] = prior
    return shares


def confident_selection(labels: Tensor, mass: float) -> Tensor:
    """Return the ``floor(N mass)`` rows, int64, that a plan [N, K] moves most of, in decreasing order."""
    return labels.sum(1).argsort(descending=True, stable=True)[: math.floor(len(labels) * mass)]
