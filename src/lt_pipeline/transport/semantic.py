"""Labels that agree between neighbours: SP2OT (Zhang et al., 2024, arXiv 2404.03446, section 3).

The problem of :mod:`lt_pipeline.transport.problem` gets the term ``- weight <S, Q Q^T>``, which wants rows of high similarity in one
column. It is quadratic; majorisation-minimisation takes it as linear at the current plan, solves the transport problem for the cost ``C -
weight (S + S^T) Q``, and repeats.
"""

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lt_pipeline.errors import LongTailError
from lt_pipeline.transport.problem import Columns, Problem, transport_problem
from lt_pipeline.transport.result import ConvergenceWarning, Transport, as_tensor
from lt_pipeline.transport.similarity import Neighbours
from lt_pipeline.transport.solve import Algorithm, OnFailure, progressive_transport

_NEGLIGIBLE = 1e-6
"""A semantic term whose largest cost is below this changes nothing: one solve is enough."""
_SMALLEST = 1.18e-38
"""What the published objective adds inside its logarithm."""


@dataclass(frozen=True)
class SemanticTransport:
    """What majorisation-minimisation found. Arrays are NumPy's if the cost was one."""

    transport: Transport
    """The last transport problem's solution."""
    plan: Tensor | np.ndarray
    """Labels N Q [N, K]; the last solution, or with averaging below 1 the average, which is no exact optimum of a transport problem."""
    first_plan: Tensor | np.ndarray
    """The solution of the first step, before averaging."""
    steps: int
    objective: list[float]
    """The quantity that was watched, after each step."""
    cycle: bool
    """Whether the end alternates between two plans: possible, since S has zeros on its diagonal and the linear term is no majoriser
    then."""
    converged: bool
    """Whether the objective settled, and every transport problem was solved to its tolerance."""

    @property
    def potential(self) -> Tensor | np.ndarray:
        """Where a later solve starts from [K + 1]."""
        return self.transport.potential


def linearised_cost(cost: Tensor, neighbours: Neighbours, plan: Tensor, weight: float) -> Tensor:
    """Return ``C - weight A Q`` [N, K] of a plan Q [N, K] that sums to its mass."""
    return cost - weight * neighbours.product(plan)


def semantic_term(neighbours: Neighbours, plan: Tensor) -> Tensor:
    """Return ``<S, Q Q^T> = <A Q, Q> / 2``."""
    return 0.5 * (neighbours.product(plan) * plan).sum()


def watched_objective(cost: Tensor, plan: Tensor, semantic: Tensor, weight: float, epsilon: float) -> Tensor:
    """Return what the published loop watches, ``<C, Q> - weight <S, Q Q^T> + eps <Q, log Q>``, float64 []: not the whole objective."""
    plan = plan.double()
    return (cost * plan).sum() - weight * semantic + epsilon * (plan * (plan + _SMALLEST).log()).sum()


def full_objective(cost: Tensor, plan: Tensor, semantic: Tensor, weight: float, problem: Problem) -> Tensor:
    """Return the whole objective, float64 []: with the columns' divergence, and the entropy of the virtual column.

    Args:
        cost: [N, K].
        plan: Q [N, K], sums to the mass.
        semantic: ``<S, Q Q^T>``.
        weight: of it.
        problem: the columns' side.
    """
    plan = plan.double()
    held, left = plan.sum(0), (1 / len(plan) - plan.sum(1)).clamp(min=0)
    entropy = torch.xlogy(plan, plan).sum() + torch.xlogy(left, left).sum()
    divergence = (torch.xlogy(held, held / problem.target) - held + problem.target).sum() if problem.relaxed else held.new_zeros(())
    return (cost * plan).sum() - weight * semantic + problem.epsilon * entropy + problem.gamma * divergence


@torch.no_grad()
def semantic_transport(
    cost: Tensor | np.ndarray,
    neighbours: Neighbours | Tensor | np.ndarray,
    mass: float = 1.0,
    *,
    semantic_weight: float = 1000.0,
    epsilon: float = 0.1,
    gamma: float = 1.0,
    columns: Columns = "relaxed",
    prior: Tensor | np.ndarray | None = None,
    potential: Tensor | np.ndarray | None = None,
    ema: float = 1.0,
    max_steps: int = 100,
    stop: Literal["plan", "full"] = "plan",
    stop_tolerance: float = 1e-6,
    algorithm: Algorithm = "semidual",
    tolerance: float | None = None,
    max_iterations: int | None = None,
    on_failure: OnFailure = "error",
) -> SemanticTransport:
    """Return the plan of SP2OT by majorisation-minimisation from the uniform plan.

    Rows are all here: gather logits and positions of all processes first.

    Args:
        cost: [N, K].
        neighbours: ``S + S^T`` of the rows, from :meth:`NeighbourGraph.among`; or S itself [N, N], for small problems.
        mass: transported share.
        semantic_weight: weight of the term; it acts like weight / N, and the published 1000 belongs to 5,120 rows.
        epsilon: weight of the entropy.
        gamma: weight of the columns' divergence.
        columns: relaxed or hard.
        prior: the columns' shares [K].
        potential: where the first step's solve starts [K + 1].
        ema: share of the new plan in each step; below 1 the steps settle where they would alternate.
        max_steps: steps at most.
        stop: plan ends where the published quantity changes by less than ``stop_tolerance``, and goes on in a cycle of two; full watches
        the whole
            objective, ends in such a cycle too and returns the better of its plans.
        stop_tolerance: absolute.
        algorithm: of each step's solve, as of :func:`progressive_transport`; as are tolerance, max_iterations and on_failure.

    Raises:
        LongTailError: if an argument is out of its range, or (with ``on_failure="error"``) the steps did not settle.
    """
    given = as_tensor(cost)
    if given.ndim != 2:
        raise LongTailError(f"The cost of a semantic transport must be [N, K], not {list(given.shape)}.")
    if not isinstance(neighbours, Neighbours):
        neighbours = Neighbours.of(as_tensor(neighbours).to(given.device))
    if len(neighbours) != len(given):
        raise LongTailError(f"The neighbours are of {len(neighbours)} rows, the cost of {len(given)}.")
    if not semantic_weight >= 0 or not 0 < ema <= 1 or max_steps < 1 or stop not in ("plan", "full"):
        raise LongTailError("semantic_weight must be 0 or more, ema in (0, 1], max_steps at least 1, and stop 'plan' or 'full'.")
    problem = transport_problem(given.shape[1], mass, epsilon, gamma, columns, None if prior is None else as_tensor(prior), given.device)
    rows, start = len(given), None if potential is None else as_tensor(potential)

    def watched(plan: Tensor, pull: Tensor) -> float:
        semantic = 0.5 * (pull.double() * plan).sum()
        if stop == "full":
            return float(full_objective(given, plan, semantic, semantic_weight, problem))
        return float(watched_objective(given, plan, semantic, semantic_weight, epsilon))

    plan = torch.full_like(given, mass / given.numel())
    pull = neighbours.product(plan.float())  # float32: its rounding is far below the stop, and the product is 5 times faster
    objective, settled, solved, cycle = [watched(plan, pull)], False, True, False
    first = previous = plan
    for step in range(max_steps):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = progressive_transport(
                given - semantic_weight * pull, mass, epsilon=epsilon, gamma=gamma, columns=columns, prior=prior, potential=start,
                algorithm=algorithm, tolerance=tolerance, max_iterations=max_iterations, on_failure="warn",
            )  # fmt: skip
        start, solved = found.potential, solved and bool(found.converged)
        fresh = found.plan / rows
        first = fresh if step == 0 else first
        previous, plan = plan, fresh if ema == 1 else torch.lerp(plan, fresh, ema)
        pull = neighbours.product(plan.float())
        objective.append(watched(plan, pull))
        cycle = step > 1 and abs(objective[-1] - objective[-3]) < stop_tolerance <= abs(objective[-1] - objective[-2])
        settled = abs(objective[-1] - objective[-2]) < stop_tolerance or semantic_weight * float(pull.abs().max()) < _NEGLIGIBLE
        if settled or (cycle and stop == "full"):
            break
    if cycle and stop == "full" and objective[-2] < objective[-1]:
        plan = previous
    result = SemanticTransport(found, plan * rows, first * rows, len(objective) - 1, objective[1:], cycle, settled and solved)
    if not result.converged:
        _complain(result, on_failure)
    if isinstance(cost, np.ndarray):
        return SemanticTransport(
            found.as_numpy(), (plan * rows).numpy(), (first * rows).numpy(), result.steps, result.objective, result.cycle, result.converged
        )
    return result


def _complain(result: SemanticTransport, on_failure: OnFailure) -> None:
    how = "alternates between two plans" if result.cycle else "did not settle"
    sentence = (
        f"The semantic transport {how} after {result.steps} steps; ema below 1 (such as 0.7) or a smaller semantic_weight settles it."
    )
    if on_failure == "error":
        raise LongTailError(sentence)
    warnings.warn(sentence, ConvergenceWarning, stacklevel=3)
