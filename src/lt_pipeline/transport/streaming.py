"""Rows that are read block by block: neither the costs nor the plan need fit into memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lt_pipeline.errors import LongTailError
from lt_pipeline.transport.kernel import Group, Kernel, Point, softmax_rows

_SAMPLE = 1 << 26
"""Numbers in the sample of rows that gives the curvature: 256 MiB in float32."""


@dataclass(frozen=True)
class RowBlocks:
    """Costs of ``rows`` x ``columns`` that come in blocks.

    ``read(start, stop)`` returns the cost rows from ``start`` to before ``stop``, a NumPy array or tensor [stop - start, columns]; it is
    called several times for every block and must return the same each time.
    """

    rows: int
    columns: int
    read: Callable[[int, int], Tensor | np.ndarray]
    dtype: torch.dtype = torch.float32
    """Precision of the solve."""
    block_rows: int = 8192
    """Rows in memory at a time."""

    @classmethod
    def of(cls, array: np.ndarray) -> "RowBlocks":
        """Return the blocks of a memory-mapped array [N, K]."""
        if array.ndim != 2:
            raise LongTailError(f"A memory-mapped cost must be rows x columns; its shape is {array.shape}.")
        dtype = torch.float64 if array.dtype == np.float64 else torch.float32
        return cls(array.shape[0], array.shape[1], lambda start, stop: np.array(array[start:stop]), dtype)

    def block(self, start: int, stop: int) -> Tensor:
        """Return a block of finite costs in the precision of the solve.

        Raises:
            LongTailError: if ``read`` returns another shape, or a number that is not finite.
        """
        values = torch.as_tensor(self.read(start, stop)).to(self.dtype)
        if values.shape != (stop - start, self.columns):
            raise LongTailError(
                f"Rows {start} to {stop} of the cost have the shape {tuple(values.shape)}, not {(stop - start, self.columns)}."
            )
        if not bool(torch.stack(torch.aminmax(values)).isfinite().all()):  # a NaN is both least and largest
            raise LongTailError(f"Rows {start} to {stop} of the cost hold numbers that are not finite.")
        return values

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, self.rows, self.block_rows):
            stop = min(start + self.block_rows, self.rows)
            yield slice(start, stop), self.block(start, stop)

    def sample(self) -> Tensor:
        """Return evenly spread rows, at most as many as fit the sample, float32 [s, K]."""
        wanted = max(1, min(self.rows, _SAMPLE // self.columns))
        chosen = torch.arange(wanted) * self.rows // wanted
        parts = []
        for block, cost in self:
            inside = chosen[(chosen >= block.start) & (chosen < block.stop)] - block.start
            parts.append(cost[inside.to(cost.device)].float())
        return torch.cat(parts)


class StreamedKernel(Kernel):
    """A kernel that keeps no row: every pass reads the blocks twice and takes the exponentials anew. It has no curvature of its own."""

    keeps_rows = False

    def __init__(self, source: RowBlocks, epsilon: float, mass: float, total: int, device: torch.device, group: Group = None) -> None:
        super().__init__(torch.empty(0, source.columns, dtype=source.dtype, device=device), epsilon, mass, source.dtype, total, group)
        self.source = source
        self.height = torch.empty(source.rows, dtype=torch.float64, device=device)

    def _blocks(self) -> Iterator[tuple[slice, Tensor]]:
        for block, cost in self.source:
            rows = torch.empty_like(cost)
            softmax_rows(cost, self.reference, self.epsilon, rows)
            yield block, rows

    def rebase(self, v: Tensor) -> Point:
        """Return what a pass finds at ``v``."""
        self.reference = v.clone()
        for block, cost in self.source:
            self.height[block] = softmax_rows(cost, v, self.epsilon, torch.empty_like(cost))
        return self._point(v, self.height.clone(), None)

    def at(self, v: Tensor) -> Point:
        """Return what a pass finds at ``v``."""
        return self.rebase(v)

    def plan(self, point: Point) -> Tensor:
        """Return the plan's rows [n, K], the only thing here that needs memory for all of them."""
        plan = torch.empty(self.source.rows, self.source.columns, dtype=self.source.dtype, device=self.height.device)
        for block, cost in self.source:
            softmax_rows(cost, point.v, self.epsilon, plan[block])
            plan[block] *= point.share[block, None]
        return plan

    def log_mass(self, point: Point, columns: Tensor) -> Tensor:
        """Return the logarithm of the masses of ``columns`` [c], also where they underflow."""
        total = torch.full((len(columns),), -torch.inf, dtype=torch.float64, device=self.height.device)
        for block, cost in self.source:
            scores = cost[:, columns].double() / -self.epsilon + (logsigmoid(point.height[block] - point.u) - point.height[block])[:, None]
            total = torch.logaddexp(total, torch.logsumexp(scores, 0))
        return self._joined(point.v[columns] + total)
