"""The problems that Python Optimal Transport solves exactly: hard columns at any mass, and relaxed ones at mass 1.

Its entropic partial transport is another problem (no entropy on what stays), ``sinkhorn_unbalanced`` needs ``reg_type="entropy"`` for this
one, and its stabilised form is wrong once it absorbs; none of those is called.
"""

import warnings

import numpy as np
import ot
import torch
from torch import Tensor

from lt_pipeline.errors import LongTailError
from lt_pipeline.transport.problem import Problem
from lt_pipeline.transport.result import Transport


def pot(cost: Tensor, problem: Problem, tolerance: float, most: int) -> Transport:
    """Solve ``problem`` on cost rows [N, K] by POT, in float64 on the CPU.

    Raises:
        LongTailError: for relaxed columns below mass 1, which no call of POT solves.
    """
    if problem.relaxed and problem.mass < 1:
        raise LongTailError("POT has no call for relaxed columns with a mass below 1; use algorithm='semidual', columns='hard' or mass=1.")
    rows, columns = cost.shape
    values, target, source = cost.double().cpu().numpy(), problem.target.cpu().numpy(), np.full(rows, 1 / rows)
    if problem.mass < 1:
        values, target = np.hstack((values, np.zeros((rows, 1)))), np.append(target, 1 - problem.mass)
    values = values - values.min(1, keepdims=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whether it converged is told by the result
        if problem.relaxed:
            plan, log = ot.unbalanced.sinkhorn_unbalanced(
                source,
                target,
                values,
                problem.epsilon,
                (np.inf, problem.gamma),
                reg_type="entropy",
                numItermax=most,
                stopThr=tolerance,
                log=True,
            )
            potential = np.asarray(log["logv"])
        else:
            plan, log = ot.bregman.sinkhorn(source, target, values, problem.epsilon, numItermax=most, stopThr=tolerance, log=True)
            potential = np.log(np.asarray(log["v"]))
    plan = torch.as_tensor(np.asarray(plan) * rows)
    plan = plan / plan.sum(1, keepdim=True)  # rows are constraints; POT ends on a column update
    mass = plan.mean(0)
    wanted = torch.as_tensor(target)
    if problem.relaxed:
        wanted = problem.wanted(problem.levelled(torch.as_tensor(potential)).to(problem.target.device)).cpu()
    error = ((mass - wanted).abs() / wanted).max()
    full = torch.as_tensor(potential if problem.mass < 1 else np.append(potential, -np.inf))
    device, real = cost.device, plan[:, :columns]
    return Transport(
        plan=real.to(device, cost.dtype),
        potential=full.to(device),
        row_mass=real.sum(1).to(device, cost.dtype),
        column_mass=mass[:columns].to(device),
        mass=mass[:columns].sum().to(device),
        column_error=error.to(device),
        row_error=torch.zeros((), dtype=torch.float64, device=device),
        iterations=torch.tensor(int(log.get("niter", len(log["err"]))), device=device),
        converged=(error <= max(1e3 * tolerance, 1e-6)).to(device),
    )
