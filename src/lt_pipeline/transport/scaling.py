"""The published matrix scaling of P2OT (Zhang et al., ICLR 2024, arXiv 2401.09266, section 4.2), with its own rule to stop.

It is here to reproduce published figures: at a small mass it is far from the solution after 1000 repeats, and where costs are large against
eps it under- or overflows. :mod:`lt_pipeline.transport.semidual` solves the same problem.
"""

import torch
from torch import Tensor

from lt_pipeline.transport.kernel import Group, highest, summed
from lt_pipeline.transport.problem import Problem
from lt_pipeline.transport.result import Transport

TOLERANCE = 1e-6
"""Published: the loop ends where the columns' scaling moves less than this, in the Euclidean norm."""
REPEATS = 1000


def scaling(
    cost: Tensor, problem: Problem, start: Tensor | None, tolerance: float, most: int, total: int, group: Group = None
) -> Transport:
    """Scale rows and columns of ``exp(-C/eps)`` in turn.

    Args:
        cost: rows of this process [n, K].
        problem: the columns' side.
        start: logarithm of the columns' scaling, float64 [K + 1] ([K] at mass 1); None starts at ``1 / (K + 1)``.
        tolerance: where to stop.
        most: repeats at most.
        total: rows of all processes.
        group: the processes that share the rows.
    """
    columns = cost.shape[1]
    virtual = problem.mass < 1
    kernel = (cost / -problem.epsilon).exp()
    target, power = problem.target, problem.target.new_full((columns,), 1 / (1 + problem.softness))
    if virtual:
        kernel = torch.cat((kernel, kernel.new_ones(len(kernel), 1)), 1)
        target, power = torch.cat((target, target.new_tensor([1 - problem.mass]))), torch.cat((power, power.new_ones(1)))
    target, power = target.to(cost.dtype), power.to(cost.dtype)
    column = kernel.new_full((kernel.shape[1],), 1 / (columns + 1)) if start is None else start.to(cost.dtype).exp()
    converged, repeats = False, 0
    while not converged and repeats < most:
        row = (kernel @ column).reciprocal_() / total
        following = (target / summed(row @ kernel, group)) ** power
        converged, repeats = bool((following - column).norm() <= tolerance), repeats + 1
        column = following
    plan = row[:, None] * kernel * column
    mass = summed(plan.sum(0, dtype=torch.float64), group)
    off = (plan.sum(1, dtype=torch.float64) * total - 1).abs().amax()
    wanted = target.double() * column.double() ** (1 - 1 / power.double())
    potential = column.double().log()
    return Transport(
        plan=plan[:, :columns] * total,
        potential=potential if virtual else torch.cat((potential, potential.new_tensor([-torch.inf]))),
        row_mass=plan[:, :columns].sum(1) * total,
        column_mass=mass[:columns],
        mass=mass[:columns].sum(),
        column_error=((mass - wanted).abs() / wanted).max(),
        row_error=highest(off, group),
        iterations=torch.tensor(repeats, device=cost.device),
        converged=torch.tensor(converged, device=cost.device),
    )
