"""The transport problem in its semi-dual form: K unknowns, one for each column.

P2OT (Zhang et al., ICLR 2024, arXiv 2401.09266, equations 4 to 8) asks for the plan Q of N rows on K columns that minimises

    <C, Q> + gamma KL(Q^T 1 || mass/K) + eps <Q, log Q - 1>    subject to  Q >= 0,  Q 1 <= 1/N,  sum(Q) = mass.

A virtual column of cost 0 takes what is not transported, so that rows become equalities; the entropy is taken over it too. With v and u the
logarithms of the scaling of the real columns and the virtual one, each row of the optimal plan is a softmax of ``(v - C/eps, u)``, and v
minimises the smooth convex function

    G(v) = min_u [ mean_i log(e^u + sum_k e^(v_k - C_ik/eps)) - (1 - mass) u ] + sum_k D_k(v_k),    D_k'(v) = -w_k(v),

    w_k(v) = target_k exp(-softness v_k).

Its gradient is the columns' masses less their wanted ones, ``m - w``. A column is drawn to its target with softness ``eps/gamma``; softness
0 is a hard target (partial and balanced transport).
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from lt_pipeline.errors import LongTailError

Columns = Literal["relaxed", "hard"]

_LARGEST_EXPONENT = 80.0
"""A wanted mass beyond e^80 is as far from an optimum as any: no column holds more than 1."""


@dataclass(frozen=True)
class Problem:
    """Everything of the problem but its costs; ``target`` float64 [K] sums to the mass."""

    mass: float
    epsilon: float
    gamma: float
    target: Tensor
    relaxed: bool

    @property
    def softness(self) -> float:
        """How softly columns are drawn to their targets: eps/gamma, 0 for hard ones."""
        return self.epsilon / self.gamma if self.relaxed else 0.0

    def log_wanted(self, v: Tensor) -> Tensor:
        """Return the logarithm of w, the masses that the columns want at ``v``."""
        return self.target.log() - self.softness * v

    def wanted(self, v: Tensor) -> Tensor:
        """Return w."""
        return self.log_wanted(v).clamp_(max=_LARGEST_EXPONENT).exp_()

    def scaled(self, v: Tensor, log_mass: Tensor) -> Tensor:
        """Return the plain update of ``v``: each column, alone, would hold what it wants."""
        return (self.target.log() - log_mass + v) / (1 + self.softness)

    def levelled(self, v: Tensor) -> Tensor:
        """Return ``v`` plus the constant at which the columns together want the mass that is there; plans do not change by it."""
        if self.relaxed:
            return v + (torch.logsumexp(self.log_wanted(v), 0) - math.log(self.mass)) / self.softness
        return v - v.mean()

    def at(self, epsilon: float) -> "Problem":
        """Return the problem with another weight of the entropy."""
        return replace(self, epsilon=epsilon)


def transport_problem(
    num_columns: int,
    mass: float,
    epsilon: float = 0.1,
    gamma: float = 1.0,
    columns: Columns = "relaxed",
    prior: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> Problem:
    """Return the problem of these settings.

    Args:
        num_columns: K.
        mass: share of the rows' mass that is transported, rho in (0, 1].
        epsilon: weight of the entropy.
        gamma: weight of the divergence of the columns' masses from their targets (lambda in the paper).
        columns: relaxed draws the columns to their targets, hard forces them there.
        prior: share of the mass that each column is wanted to hold [K], positive, sums to 1; None is the same for all.
        device: where the K numbers lie.

    Raises:
        LongTailError: if a setting is out of its range.
    """
    if num_columns < 1:
        raise LongTailError("Transport needs at least one column (cluster).")
    if not 0 < mass <= 1:
        raise LongTailError(f"The transported mass is {mass}; it must be above 0 and at most 1.")
    if not 0 < epsilon < math.inf:
        raise LongTailError(f"epsilon, the weight of the entropy, is {epsilon}; it must be a positive number.")
    if not 0 < gamma < math.inf:
        raise LongTailError(
            f"gamma, the weight of the column term, is {gamma}; it must be a positive number (columns='hard' is its limit)."
        )
    if columns not in ("relaxed", "hard"):
        raise LongTailError(f"columns is '{columns}'; it must be 'relaxed' or 'hard'.")
    share = torch.full((num_columns,), 1 / num_columns) if prior is None else prior.detach()
    share = share.to(device, torch.float64)
    if share.shape != (num_columns,) or not bool((share > 0).all()) or abs(float(share.sum()) - 1) > 1e-5:
        raise LongTailError(f"The prior must be {num_columns} positive shares that sum to 1.")
    return Problem(float(mass), float(epsilon), float(gamma), mass * share / share.sum(), columns == "relaxed")
