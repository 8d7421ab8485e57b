"""Passes over the rows: what the columns hold at a potential, and the curvature there.

A kernel keeps each row's softmax over the real columns, R, at a reference potential. A step d away from it, the rows are ``R e^d``
renormalised: two products of a matrix and a vector, no exponential of N x K numbers, nothing that overflows. What a row gives to the
virtual column depends on the row's logsumexp alone; :func:`transported_shares` finds that column's potential exactly, so every plan moves
the wanted mass.

Rows may be spread over processes: column statistics are then summed over these.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import logsigmoid

FARTHEST = 30.0
"""Largest spread of a step from the reference for which R need not be computed anew; weights of rows are at most e^30 K, and float32 holds
their squares."""
LONGEST = 10.0
"""Largest spread of a step that :meth:`Kernel.settled` leaves room for."""
_LOWEST = {torch.float32: -69.0, torch.float64: -300.0}
"""Logarithms of the least entries of R: after the farthest step these are still below the rounding of a row, and exponentials that underflow
are slow."""
_BLOCK = 1 << 17
"""Numbers in a block of rows that are made: 1 MiB in float64, which stays in the cache from step to step."""
_PRODUCT = 1 << 20
"""Numbers in a block of rows that a product is taken with."""
_MASS_ERROR = 1e-14
"""How exactly the transported mass is met."""
_ROUNDING = 2.0**-52

Group = dist.ProcessGroup | None


def summed(values: Tensor, group: Group) -> Tensor:
    """Return ``values`` added over the processes of ``group``; without a group, themselves."""
    if group is not None:
        dist.all_reduce(values, group=group)
    return values


def highest(values: Tensor, group: Group) -> Tensor:
    """Return the largest ``values`` of the processes of ``group``."""
    if group is not None:
        dist.all_reduce(values, dist.ReduceOp.MAX, group=group)
    return values


def blocks(rows: int, columns: int, numbers: int = _BLOCK) -> Iterator[slice]:
    """Return the slices of rows, of about ``numbers`` each, that a pass takes one after the other."""
    size = max(64, numbers // columns)
    return (slice(start, start + size) for start in range(0, rows, size))


def softmax_rows(cost: Tensor, v: Tensor, epsilon: float, out: Tensor) -> Tensor:
    """Write ``softmax(v - C/eps)`` of cost rows [n, K] into ``out`` [n, K] and return their logsumexp [n]; all in the dtype of ``out``."""
    torch.add(v.to(out.dtype), cost.to(out.dtype), alpha=-1 / epsilon, out=out)
    top = out.amax(1)
    out.sub_(top[:, None]).clamp_(min=_LOWEST[out.dtype]).exp_()
    norm = out @ out.new_ones(out.shape[1])
    out.mul_(norm.reciprocal()[:, None])
    return norm.log_().add_(top)


def transported_shares(height: Tensor, mass: float, total: int, start: float | None = None, group: Group = None) -> tuple[Tensor, float]:
    """Return the share of each row that goes to real columns [n], and the virtual column's potential u.

    A row with logsumexp ``height`` over the real columns gives them ``sigmoid(height - u)``; u is where the mean of that is ``mass``:
    Newton's method in one unknown, kept in a shrinking bracket.

    Args:
        height: float64 [n].
        mass: in (0, 1]; at 1 there is no virtual column, u is -inf.
        total: rows of all processes.
        start: u to begin with; None is the middle of where it can lie.
        group: the processes that share the rows.
    """
    if mass == 1:
        return torch.ones_like(height), -math.inf
    odds = math.log(mass) - math.log1p(-mass)
    ends = highest(torch.stack((height.amax(), -height.amin())), group).tolist()
    low, high = -ends[1] - odds, ends[0] - odds
    u = start if start is not None and low <= start <= high else (low + high) / 2
    for _ in range(200):
        share = torch.sigmoid(height - u)
        moved, slope = (summed(torch.stack((share.sum(), share @ (1 - share))), group) / total).tolist()
        low, high = (u, high) if moved > mass else (low, u)
        newton = u + (moved - mass) / slope if slope > 0 else math.inf
        following = newton if low < newton < high else (low + high) / 2
        if abs(moved - mass) <= _MASS_ERROR or abs(following - u) <= _ROUNDING * abs(u):
            break
        u = following
    return share, u


@dataclass(frozen=True)
class Point:
    """What a pass finds at a potential v: masses of the real columns, float64 [K], the virtual column's potential, and of each row the
    logsumexp over the real columns, the share that goes to them, and ``weight``, which makes R at the reference into the plan."""

    v: Tensor
    u: float
    mass: Tensor
    height: Tensor
    share: Tensor
    weight: Tensor
    factor: Tensor
    """``e^(v - reference)`` [K]."""


class Kernel:
    """Rows in memory.

    Args:
        cost: [n, K], the rows of this process.
        epsilon: weight of the entropy.
        mass: share of the rows' mass that goes to real columns.
        dtype: precision of a pass; sums over blocks of rows are float64 always.
        total: rows of all processes.
        group: the processes that share the rows.
    """

    keeps_rows = True
    """Whether there are rows to take a curvature from."""

    def __init__(self, cost: Tensor, epsilon: float, mass: float, dtype: torch.dtype, total: int, group: Group = None) -> None:
        self.cost, self.epsilon, self.mass, self.total, self.group = cost, epsilon, mass, total, group
        self.rows = torch.empty(cost.shape, dtype=dtype, device=cost.device)
        self.height = torch.empty(len(cost), dtype=torch.float64, device=cost.device)
        self.reference = torch.zeros(cost.shape[1], dtype=torch.float64, device=cost.device)
        self.passes = 0
        self._u: float | None = None

    def _blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Return R at the reference in blocks of rows, with where they are."""
        return ((block, self.rows[block]) for block in blocks(len(self.cost), self.cost.shape[1], _PRODUCT))

    def rebase(self, v: Tensor) -> Point:
        """Make ``v`` the reference: compute R there."""
        for block in blocks(*self.cost.shape):
            self.height[block] = softmax_rows(self.cost[block], v, self.epsilon, self.rows[block])
        self.reference = v.clone()
        return self._point(v, self.height.clone(), None)

    def at(self, v: Tensor) -> Point:
        """Return what a pass finds at ``v``; where that is far from the reference, it becomes the new one."""
        offset = v - self.reference
        if float(offset.max() - offset.min()) > FARTHEST:
            return self.rebase(v)
        factor = offset.exp().to(self.rows.dtype)
        norm = torch.cat([rows @ factor for _, rows in self._blocks()])
        return self._point(v, self.height + norm.double().log(), norm)

    def settled(self, point: Point) -> Point:
        """Return the same point, from where steps of spread LONGEST need no new reference."""
        offset = point.v - self.reference
        return self.rebase(point.v) if float(offset.max() - offset.min()) > FARTHEST - LONGEST else point

    def _point(self, v: Tensor, height: Tensor, norm: Tensor | None) -> Point:
        share, u = transported_shares(height, self.mass, self.total, self._u, self.group)
        self._u = u
        weight = share.to(self.rows.dtype)
        weight = weight if norm is None else weight / norm
        factor = (v - self.reference).exp()
        self.passes += 1
        return Point(v, u, self.column_sums(weight) * factor, height, share, weight, factor)

    def column_sums(self, weight: Tensor) -> Tensor:
        """Return ``weight @ R / N``, float64 [K]."""
        sums = torch.zeros_like(self.reference)
        for block, rows in self._blocks():
            sums += weight[block] @ rows
        return summed(sums, self.group) / self.total

    def plan(self, point: Point) -> Tensor:
        """Return the plan's rows [n, K] in the kernel's own memory, which is of no use for passes any more."""
        factor = point.factor.to(self.rows.dtype)
        for block, rows in self._blocks():
            rows.mul_(factor).mul_(point.weight[block][:, None])
        return self.rows

    def log_mass(self, point: Point, columns: Tensor) -> Tensor:
        """Return the logarithm of the masses of ``columns`` [c], also where they underflow."""
        scores = self.cost[:, columns].double() / -self.epsilon + (logsigmoid(point.height - point.u) - point.height)[:, None]
        return self._joined(point.v[columns] + torch.logsumexp(scores, 0))

    def _joined(self, log_sums: Tensor) -> Tensor:
        """Return the logarithm of the mean over all rows from each process's log of a sum."""
        top = highest(log_sums.clone(), self.group)
        return top + (summed((log_sums - top).exp(), self.group) / self.total).log()

    def gram(self, point: Point) -> Tensor:
        """Return ``Q^T Q / N``, float64 [K, K]; the products have the precision of the passes."""
        columns = self.rows.shape[1]
        product = self.rows.new_zeros(columns, columns)
        step = max(2048, 4 * columns)
        for start in range(0, len(self.rows), step):
            block = slice(start, start + step)
            rows = self.rows[block] * point.weight[block, None]
            product.addmm_(rows.T, rows)
        return summed(product.double(), self.group) * point.factor * (point.factor[:, None] / self.total)

    def gram_product(self, point: Point, direction: Tensor) -> Tensor:
        """Return ``Q^T Q direction / N``, float64 [K]."""
        near, result, square = (point.factor * direction).to(self.rows.dtype), torch.zeros_like(direction), point.weight.square()
        for block, rows in self._blocks():
            result += (rows @ near).mul_(square[block]) @ rows
        return summed(result, self.group) * point.factor / self.total

    def gram_diagonal(self, point: Point) -> Tensor:
        """Return the diagonal of ``Q^T Q / N``, float64 [K]."""
        result, square = torch.zeros_like(self.reference), point.weight.square()
        for block, rows in self._blocks():
            result += square[block] @ rows.square()
        return summed(result, self.group) * point.factor.square() / self.total

    def slack(self, point: Point) -> tuple[Tensor, float]:
        """Return ``Q^T s / N`` [K] and ``mean(s (1 - s))`` for s, what each row leaves to the virtual column."""
        left = 1 - point.share
        moment = float(summed((left * point.share).sum(), self.group)) / self.total
        return self.column_sums(point.weight * left.to(point.weight.dtype)) * point.factor, moment
