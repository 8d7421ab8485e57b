"""The converged solve: a rough solution in float32 starts the exact one, and a small weight of the entropy is reached in stages."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lt_pipeline.errors import LongTailError
from lt_pipeline.transport.kernel import Group, Kernel, highest, summed
from lt_pipeline.transport.problem import Problem
from lt_pipeline.transport.result import Transport
from lt_pipeline.transport.semidual import State, newton
from lt_pipeline.transport.streaming import RowBlocks, StreamedKernel

_ROUGH = 1e-4
"""Error at which the float32 solution has done its part; of a sample of the rows, more is chance anyway."""
_ROUGH_SAMPLE = 1e-2
_STAGE = 1e-2
"""Error at which a stage of eps scaling has done its part."""
_FALL = 4.0
"""Ratio of the weights of the entropy of two stages."""
_STEEP = 2e3
"""Spread of the costs in units of eps from which on a cold solve takes stages; the first stage has a quarter of it."""
_FLOAT32 = 1e4
"""Spread in units of eps beyond which float32 exponentials are too coarse."""
_ROUNDING = 2.0**-50
"""Relative rounding of a potential, with room for sums; times the spread in units of eps, no column's mass is known better."""


@dataclass
class SemiDual:
    """The solver of one problem on the rows of this process, [n, K] in memory or in blocks."""

    cost: Tensor | RowBlocks
    problem: Problem
    tolerance: float
    most: int
    group: Group = None

    def __post_init__(self) -> None:
        self.passes = 0
        rows = self.cost.rows if isinstance(self.cost, RowBlocks) else len(self.cost)
        self.device = self.problem.target.device
        self.total = int(summed(torch.tensor(float(rows), dtype=torch.float64, device=self.device), self.group))
        self.sample = self.cost.sample().to(self.device) if isinstance(self.cost, RowBlocks) else self.cost
        low, high = torch.aminmax(self.sample)
        spread = torch.stack((high, -low)).double()
        ends = highest(torch.where(spread.isfinite(), spread, torch.inf), self.group).tolist()
        self.spread = ends[0] + ends[1]
        if not self.spread < float("inf"):
            raise LongTailError("The cost holds numbers that are not finite (NaN or infinite); take it from log_softmax of finite logits.")
        self.tolerance = max(self.tolerance, _ROUNDING * self.spread / self.problem.epsilon)

    def solve(self, start: Tensor | None, keep_plan: bool = True) -> Transport:
        """Return the solution from the potential ``start`` [K], None for a cold one."""
        zeros = torch.zeros_like(self.problem.target)
        staged = start is None and self.spread / self.problem.epsilon > _STEEP
        kernel, state = self._staged(zeros) if staged else self._solved(self.problem, zeros if start is None else start, self.tolerance)
        if state.error > self.tolerance and not staged:
            again = self._staged(zeros)
            kernel, state = again if again[1].error < state.error else (kernel, state)
        return self._result(kernel, state, keep_plan)

    def _staged(self, v: Tensor) -> tuple[Kernel, State]:
        """Solve with falling weights of the entropy, each from the solution before."""
        epsilons = [self.problem.epsilon]
        while epsilons[-1] * _FALL < max(0.1 * _FALL, _FALL * self.spread / _STEEP):
            epsilons.append(epsilons[-1] * _FALL)
        for epsilon in epsilons[:0:-1]:
            v = self._solved(self.problem.at(epsilon), v, _STAGE)[1].point.v * _FALL
        return self._solved(self.problem, v, self.tolerance)

    def _solved(self, problem: Problem, v: Tensor, tolerance: float) -> tuple[Kernel, State]:
        """Return the kernel and the state of a solve that starts at ``v``, roughly first."""
        flat = self.spread / problem.epsilon <= _FLOAT32
        streamed = isinstance(self.cost, RowBlocks)
        exact = self._kernel(problem, torch.float64 if not flat else self.sample.dtype)
        rough: Kernel | None = None
        if streamed or (flat and self.sample.dtype == torch.float64):
            total = int(summed(torch.tensor(float(len(self.sample)), dtype=torch.float64, device=self.device), self.group))
            rough = Kernel(self.sample, problem.epsilon, problem.mass, torch.float32 if flat else torch.float64, total, self.group)
            v = newton(problem, rough, v, _ROUGH_SAMPLE if streamed else _ROUGH, self.most).point.v
        state = newton(problem, exact, v, tolerance, self.most, rough)
        self.passes += exact.passes + (rough.passes if rough else 0)
        return exact, state

    def _kernel(self, problem: Problem, dtype: torch.dtype) -> Kernel:
        if isinstance(self.cost, RowBlocks):
            return StreamedKernel(self.cost, problem.epsilon, problem.mass, self.total, self.device, self.group)
        return Kernel(self.cost, problem.epsilon, problem.mass, dtype, self.total, self.group)

    def _result(self, kernel: Kernel, state: State, keep_plan: bool) -> Transport:
        point, dtype = state.point, self.cost.dtype
        return Transport(
            plan=kernel.plan(point).to(dtype) if keep_plan else None,
            potential=torch.cat((point.v, point.v.new_tensor([point.u]))),
            row_mass=point.share.to(dtype),
            column_mass=state.log_mass.exp(),
            mass=point.mass.sum(),
            column_error=torch.tensor(state.error, dtype=torch.float64, device=self.device),
            row_error=torch.zeros((), dtype=torch.float64, device=self.device),
            iterations=torch.tensor(self.passes, device=self.device),
            converged=torch.tensor(state.error <= self.tolerance, device=self.device),
        )
