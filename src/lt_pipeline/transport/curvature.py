"""The Hessian of the semi-dual at one point, and the Newton direction it gives."""

import torch
from torch import Tensor

from lt_pipeline.transport.kernel import Kernel, Point
from lt_pipeline.transport.problem import Problem

EMPTY = 1e-20
"""A column with less mass is empty as far as the others are concerned; its own potential then has a closed form in logarithms."""
_PRODUCTS = 30
"""Conjugate gradients that need more products than this give way to Cholesky's method."""


class Curvature:
    """The Hessian with the virtual column eliminated,

        diag(m) - Q^T Q / N - b b^T / c + softness diag(w),    b = Q^T s / N,    c = mean(s (1 - s)),

    where s is what each row leaves to the virtual column. Rescaled to a unit diagonal it is near the identity in most problems: a few
    products with Q solve it, and no K x K matrix is formed.

    Args:
        kernel: the rows that the gradient comes from.
        point: where.
        problem: for the columns' wishes.
        model: rows that the products are taken with instead; they may be less exact or fewer. Where they are a sample, it says how columns
            go together, but of a rare column it may hold a few times too much or too little, and steps would be off by as much; so the
            diagonal without the virtual column is then taken from all rows.
    """

    def __init__(self, kernel: Kernel, point: Point, problem: Problem, model: Kernel | None = None) -> None:
        self.problem = problem
        self.kernel, self.point = (kernel, point) if model is None else (model, model.at(point.v))
        self.moving = (self.point.mass >= EMPTY) & (point.mass >= EMPTY)
        self.diagonal, own = self._diagonals(self.kernel, self.point)
        self.slack, moment = self.kernel.slack(self.point)
        self.slack_weight = 1 / moment if moment > 1e-30 else 0.0
        rest = torch.maximum(own - self.slack_weight * self.slack.square(), 1e-6 * self.diagonal)
        self.scale = torch.where(self.moving, rest.rsqrt(), 0.0)
        ratio = own / self._diagonals(kernel, point)[1] if not kernel.keeps_rows else torch.ones_like(own)
        self.outer = torch.where(self.moving, self.scale * ratio.sqrt(), 0.0)
        self.factor: Tensor | None = None

    def _diagonals(self, kernel: Kernel, point: Point) -> tuple[Tensor, Tensor]:
        """Return the diagonal of diag(m) + softness diag(w), and what is left of it without Q^T Q / N."""
        diagonal = point.mass + self.problem.softness * self.problem.wanted(point.v)
        return diagonal, torch.maximum(diagonal - kernel.gram_diagonal(point), 1e-6 * diagonal)

    def solve(self, gradient: Tensor, accuracy: float) -> Tensor:
        """Return the Newton direction [K], to the relative ``accuracy`` at least; 0 for empty columns."""
        right = -gradient * self.outer
        if self.factor is None:
            solved = self._conjugate_gradients(right, accuracy)
            if solved is not None:
                return solved * self.outer
            self.factor = self._cholesky()
        return torch.cholesky_solve(right[:, None], self.factor)[:, 0] * self.outer

    def _conjugate_gradients(self, right: Tensor, accuracy: float) -> Tensor | None:
        solution, residual = torch.zeros_like(right), right.clone()
        direction, size = right.clone(), float(right @ right)
        stop = size * accuracy**2
        for _ in range(_PRODUCTS):
            product = self._product(direction)
            curvature = float(direction @ product)
            if not curvature > 0:
                return None
            solution += size / curvature * direction
            residual -= size / curvature * product
            previous, size = size, float(residual @ residual)
            if size <= stop or size == 0:
                return solution
            direction = residual + size / previous * direction
        return None

    def _product(self, scaled: Tensor) -> Tensor:
        direction = scaled * self.scale
        product = self.diagonal * direction - self.kernel.gram_product(self.point, direction)
        product -= self.slack * (self.slack_weight * (self.slack @ direction))
        return product * self.scale

    def _cholesky(self) -> Tensor:
        """Return the factor of the rescaled Hessian, with as much on its diagonal as it takes."""
        hessian = -self.kernel.gram(self.point)
        hessian.addr_(self.slack, self.slack, alpha=-self.slack_weight)
        if not self.problem.relaxed:
            # with hard columns a constant added to v changes nothing: some curvature along it keeps the matrix regular
            hessian.addr_(self.point.mass, self.point.mass)
        hessian.diagonal().add_(self.diagonal)
        hessian *= self.scale
        hessian *= self.scale[:, None]
        hessian.diagonal().add_(torch.where(self.moving, 0.0, 1.0))
        ridge = 1e-11
        while True:
            hessian.diagonal().add_(ridge)
            factor, failed = torch.linalg.cholesky_ex(hessian)
            if not int(failed):
                return factor
            ridge *= 10
