"""Problems that the tests of the solver share, and oracles that know nothing of it."""

import numpy as np
import ot
import torch
from scipy.optimize import brentq
from torch import Tensor


def logits(rows: int, columns: int, confidence: float = 1.0, seed: int = 0) -> Tensor:
    """Long-tailed logits: columns of low numbers are predicted more often."""
    generator = torch.Generator().manual_seed(seed)
    column = (torch.rand(rows, generator=generator) ** 2 * columns).long()
    values = torch.randn(rows, columns, generator=generator)
    values[torch.arange(rows), column] += 3
    return confidence * values


def by_root_finding(cost: Tensor, mass: float, epsilon: float, gamma: float) -> Tensor:
    """Progressive transport by POT: unbalanced transport with a soft virtual column, whose target is sought at which it holds 1 - mass."""
    rows, columns = cost.shape
    augmented = np.hstack((cost.numpy(), np.zeros((rows, 1))))
    augmented = augmented - augmented.min(1, keepdims=True)
    source = np.full(rows, 1 / rows)

    def plan(log_target: float) -> np.ndarray:
        target = np.append(np.full(columns, mass / columns), np.exp(log_target))
        return ot.unbalanced.sinkhorn_unbalanced(
            source, target, augmented, epsilon, (np.inf, gamma), reg_type="entropy", numItermax=100_000, stopThr=1e-15
        )

    def surplus(log_target: float) -> float:
        found = plan(log_target)
        return (found / found.sum(1, keepdims=True))[:, -1].mean() - (1 - mass)

    low = high = np.log(1 - mass)
    while surplus(low) > 0:
        low -= 2
    while surplus(high) < 0:
        high += 2
    found = plan(brentq(surplus, low, high, xtol=1e-14))
    return torch.as_tensor((found / found.sum(1, keepdims=True))[:, :-1])


def published_loop(cost: Tensor, mass: float, epsilon: float = 0.1, gamma: float = 1.0, repeats: int = 1000) -> tuple[Tensor, int]:
    """The scaling loop of the paper, written down once more: labels [N, K] and repeats."""
    rows, columns = cost.shape
    kernel = torch.cat((torch.exp(-cost / epsilon), cost.new_ones(rows, 1)), 1)
    done, power = 0, gamma / (gamma + epsilon)
    scale = cost.new_full((columns + 1,), 1 / (columns + 1))
    for _ in range(repeats):
        row = (1 / rows) / (kernel @ scale)
        held = row @ kernel
        following = torch.cat((((mass / columns) / held[:-1]) ** power, (1 - mass) / held[-1:]))
        moved, scale = float((following - scale).norm()), following
        done += 1
        if moved <= 1e-6:
            break
    return rows * (row[:, None] * kernel * scale)[:, :-1], done
