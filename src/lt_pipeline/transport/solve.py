"""The entry of the library."""

import warnings
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lt_pipeline.errors import LongTailError
from lt_pipeline.transport import scaling as loop
from lt_pipeline.transport.kernel import Group, summed
from lt_pipeline.transport.problem import Columns, Problem, transport_problem
from lt_pipeline.transport.result import ConvergenceWarning, Transport, as_tensor
from lt_pipeline.transport.solver import SemiDual
from lt_pipeline.transport.streaming import RowBlocks

Algorithm = Literal["semidual", "scaling", "pot"]
OnFailure = Literal["error", "warn"]

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 5e-6}
_PASSES = 500
_POT_REPEATS = 100_000


def cost_of_logits(logits: Tensor | np.ndarray) -> Tensor | np.ndarray:
    """Return the cost ``-log softmax`` of logits [.., N, K], float64, without a gradient.

    Raises:
        LongTailError: if a logit is not finite.
    """
    values = as_tensor(logits)
    if not bool(torch.isfinite(values).all()):
        raise LongTailError("The logits hold numbers that are not finite (NaN or infinite).")
    cost = -values.double().log_softmax(-1)
    return cost if isinstance(logits, Tensor) else cost.numpy()


@torch.no_grad()
def progressive_transport(
    cost: Tensor | np.ndarray | RowBlocks,
    mass: float = 1.0,
    *,
    epsilon: float = 0.1,
    gamma: float = 1.0,
    columns: Columns = "relaxed",
    prior: Tensor | np.ndarray | None = None,
    potential: Tensor | np.ndarray | None = None,
    algorithm: Algorithm = "semidual",
    tolerance: float | None = None,
    max_iterations: int | None = None,
    on_failure: OnFailure = "error",
    group: Group = None,
    keep_plan: bool = True,
) -> Transport:
    """Return the entropic plan that moves ``mass`` of the rows to the columns at least cost.

    Relaxed columns below mass 1 are progressive partial transport (P2OT), at mass 1 unbalanced transport; hard columns are partial
    transport, at mass 1 balanced transport.

    Args:
        cost: [N, K], any sign; or [H, N, K], H problems of the same settings that are solved one by one. Rows of this process only, with a
        ``group``.
            A :class:`RowBlocks` or a memory-mapped array is never in memory as a whole.
        mass: transported share of the rows' mass, in (0, 1].
        epsilon: weight of the entropy.
        gamma: weight of the divergence of the columns' masses from their targets.
        columns: relaxed draws columns to their targets, hard forces them there.
        prior: the columns' shares of the mass [K]; None makes them equal.
        potential: where to start, an earlier :attr:`Transport.potential` [K + 1] ([H, K + 1]).
        algorithm: semidual (converged), scaling (published, with its early stop), pot (POT, for the variants that it solves).
        tolerance: largest relative error of a column's mass; by default 1e-9 for float64 and 5e-6 for float32, and never below the rounding of
            ``cost / epsilon``. For ``scaling`` the published rule's 1e-6.
        max_iterations: passes over the rows, by default 500; repeats of the loop, by default 1000.
        on_failure: what not converging is, an error or a :class:`ConvergenceWarning`.
        group: processes over which the rows are spread (not for pot); every process gets the same columns and its rows of the plan.
        keep_plan: False leaves the plan out; :func:`labels_of` computes any rows of it from the potential.

    Raises:
        LongTailError: if an argument is out of its range, the cost is not finite, or the solve did not converge.
    """
    shape: tuple[int, ...]
    if isinstance(cost, RowBlocks | np.memmap):
        given: Tensor | RowBlocks = cost if isinstance(cost, RowBlocks) else RowBlocks.of(cost)
        assert isinstance(given, RowBlocks)
        shape, device = (given.rows, given.columns), torch.device("cpu")
    else:
        given = as_tensor(cost)
        shape, device = tuple(given.shape), given.device
        if len(shape) not in (2, 3) or given.dtype not in _TOLERANCE or 0 in shape:
            raise LongTailError(
                f"The cost must be float32 or float64, [N, K] or [H, N, K], and not empty; it is {given.dtype} {list(shape)}."
            )
    if algorithm not in ("semidual", "scaling", "pot") or on_failure not in ("error", "warn"):
        raise LongTailError("algorithm must be 'semidual', 'scaling' or 'pot', and on_failure 'error' or 'warn'.")
    if algorithm != "semidual" and (isinstance(given, RowBlocks) or (algorithm == "pot" and group is not None)):
        raise LongTailError(f"algorithm='{algorithm}' needs all rows in memory; use algorithm='semidual'.")
    problem = transport_problem(shape[-1], mass, epsilon, gamma, columns, None if prior is None else as_tensor(prior), device)
    start = None if potential is None else as_tensor(potential).to(device, torch.float64)
    if start is not None and start.shape != (*shape[:-2], shape[-1] + 1):
        raise LongTailError(f"The potential must have the shape {[*shape[:-2], shape[-1] + 1]}, not {list(start.shape)}.")

    def one(rows: Tensor | RowBlocks, start: Tensor | None) -> Transport:
        return _solve(rows, problem, start, algorithm, tolerance, max_iterations, group, keep_plan)

    if isinstance(given, Tensor) and given.ndim == 3:
        found = Transport.stacked([one(head, None if start is None else start[h]) for h, head in enumerate(given)])
    else:
        found = one(given, start)
    _judge(found, algorithm, on_failure)
    return found.as_numpy() if isinstance(cost, np.ndarray) else found


def _solve(
    cost: Tensor | RowBlocks,
    problem: Problem,
    start: Tensor | None,
    algorithm: Algorithm,
    tolerance: float | None,
    most: int | None,
    group: Group,
    keep_plan: bool,
) -> Transport:
    exact = _TOLERANCE[cost.dtype] if tolerance is None else tolerance
    if algorithm == "semidual" or isinstance(cost, RowBlocks):
        real = None if start is None else start[:-1]
        return SemiDual(cost, problem, exact, most or _PASSES, group).solve(real, keep_plan)
    if not bool(torch.isfinite(cost).all()):
        raise LongTailError("The cost holds numbers that are not finite (NaN or infinite).")
    if algorithm == "pot":
        from lt_pipeline.transport.pot import pot  # POT takes seconds to import

        return pot(cost, problem, 1e-13 if tolerance is None else tolerance, most or _POT_REPEATS)
    total = int(summed(torch.tensor(float(len(cost)), dtype=torch.float64, device=cost.device), group))
    first = start if start is None or problem.mass < 1 else start[:-1]
    return loop.scaling(cost, problem, first, loop.TOLERANCE if tolerance is None else tolerance, most or loop.REPEATS, total, group)


def _judge(found: Transport, algorithm: str, on_failure: OnFailure) -> None:
    if bool(found.converged.all()):
        return
    sentence = (
        f"The transport did not converge ({algorithm}, {int(found.iterations.max())} iterations): a column's mass is off by "
        f"{float(found.column_error.max()):.1e} of what it should be, a row's by {float(found.row_error.max()):.1e}. "
        "A larger epsilon or tolerance, or more iterations, may help."
    )
    if on_failure == "error":
        raise LongTailError(sentence)
    warnings.warn(sentence, ConvergenceWarning, stacklevel=4)


@torch.no_grad()
def labels_of(cost: Tensor | np.ndarray, potential: Tensor | np.ndarray, epsilon: float = 0.1) -> Tensor | np.ndarray:
    """Return the plan's rows [.., N, K] for any cost rows [.., N, K] under a solved potential [.., K + 1].

    A label row is a softmax of ``potential - cost / epsilon`` over the columns and the virtual one, whose cost is 0.
    """
    rows, v = as_tensor(cost), as_tensor(potential)
    scores = torch.cat((v[..., None, :-1] - rows / epsilon, v[..., None, -1:].expand(*rows.shape[:-1], 1)), -1)
    labels = scores.softmax(-1)[..., :-1].to(rows.dtype)
    return labels.numpy() if isinstance(cost, np.ndarray) else labels
