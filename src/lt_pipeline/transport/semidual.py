"""Newton's method on the semi-dual: every step is feasible, and solves for K unknowns.

The virtual column is eliminated (its potential is exact at every v), and so is a constant added to all of v: both are what matrix scaling
is slow at. A few plain scaling updates bring any start near; Newton steps with a line search do the rest.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lt_pipeline.transport.curvature import EMPTY, Curvature
from lt_pipeline.transport.kernel import LONGEST, Kernel, Point
from lt_pipeline.transport.problem import Problem

_FAR = 6.0
"""Where a column holds more than this times too much, a plain update comes before a Newton step ..."""
_UPDATES = 8
"""... but not more often than this."""
_KEEP = 0.3
"""A Hessian that was costly, factorised or with a read of all rows, is kept while its steps shrink the error to this share."""
_NEAR = 1e-3
"""From here on Newton steps are full ones, and one that leaves more than ``_GAIN`` of the error says that rounding is all that is left of it ..."""
_GAIN = 0.9
_STALLS = 3
"""... if that happens more often than this in a row: empty columns follow the others a step later."""
_TRIALS = 12
"""Lengths of a step that are tried."""


@dataclass(frozen=True)
class State:
    """A point of the iteration, the logarithms of the columns' masses [K], and the largest relative error of one."""

    point: Point
    log_mass: Tensor
    error: float


def newton(problem: Problem, kernel: Kernel, v: Tensor, tolerance: float, most: int, model: Kernel | None = None) -> State:
    """Return the state whose error is at most ``tolerance``, or the best that was found in ``most`` passes or when no step helps any more.

    Args:
        problem: the columns' side.
        kernel: the rows.
        v: potential to start from [K].
        tolerance: largest relative error of a column's mass.
        most: passes over the rows.
        model: cheaper rows for the Hessian; None takes the kernel's own.
    """
    state = _state(problem, kernel, kernel.rebase(problem.levelled(v)))
    curvature: Curvature | None = None
    updates, stalls = _UPDATES, 0
    while state.error > tolerance and kernel.passes < most:
        if _dormant(problem, state) or (updates > 0 and state.error > _FAR):
            updates -= 1
            state, curvature = _state(problem, kernel, kernel.at(problem.levelled(problem.scaled(state.point.v, state.log_mass)))), None
            continue
        settled = kernel.settled(state.point)
        state = state if settled is state.point else _state(problem, kernel, settled)
        fresh = curvature is None
        if curvature is None:
            curvature = Curvature(kernel, state.point, problem, model)
        following = _step(problem, kernel, state, curvature)
        gained = following is not None and (state.error > _NEAR or following.error <= _GAIN * state.error)
        stalls = 0 if gained else stalls + 1
        if following is not None and stalls <= _STALLS:
            costly = curvature.factor is not None or not kernel.keeps_rows
            served = costly and following.error <= _KEEP * state.error
            state, curvature = following, curvature if served else None
        elif not fresh:
            curvature = None
        elif model is not None and kernel.keeps_rows:
            model, curvature, stalls = None, None, 0
        else:
            break
    return state


def _state(problem: Problem, kernel: Kernel, point: Point) -> State:
    log_mass = point.mass.log()
    empty = point.mass < EMPTY
    if bool(empty.any()):
        log_mass[empty] = kernel.log_mass(point, empty.nonzero()[:, 0])
    return State(point, log_mass, float(torch.expm1(log_mass - problem.log_wanted(point.v)).abs().max()))


def _dormant(problem: Problem, state: State) -> bool:
    """Whether a column is empty that wants far more or less: no Hessian knows of it, a plain update does."""
    gap = (state.log_mass - problem.log_wanted(state.point.v)).abs()
    return bool(((state.point.mass < EMPTY) & (gap > 1)).any())


def _step(problem: Problem, kernel: Kernel, state: State, curvature: Curvature) -> State | None:
    """Return the state after a Newton step, shortened where the slope at its end says that it went too far; None if no step helps."""
    v, gradient = state.point.v, state.point.mass - problem.wanted(state.point.v)
    direction = curvature.solve(gradient, accuracy=min(0.1, max(state.error, 1e-4)))
    direction = torch.where(curvature.moving, direction, problem.scaled(v, state.log_mass) - v)
    length = min(1.0, LONGEST / max(float(direction.max() - direction.min()), 1e-300))
    if state.error < _NEAR and kernel.keeps_rows:  # what small columns are off by is below the rounding of a slope: no search can see it
        return _state(problem, kernel, kernel.at(problem.levelled(v + length * direction)))
    slope = float(gradient @ direction)
    if not slope < 0:
        return None
    for _ in range(_TRIALS):
        point = kernel.at(problem.levelled(v + length * direction))
        end = float((point.mass - problem.wanted(point.v)) @ direction)
        if end <= 0.5 * abs(slope):
            return _state(problem, kernel, point)
        length *= max(0.1, slope / (slope - end))
    return None
