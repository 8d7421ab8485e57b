"""Sinkhorn label allocation (Tai, Bailis, Valiant, ICML 2021, arXiv 2102.08622, section 4), a baseline that P2OT compares itself with.

A table keeps the cost of every row; each batch's labels are a softmax under the column potentials, which are then found anew for the whole
table.
"""

import math

import torch
from torch import Tensor, nn

from lt_pipeline.errors import LongTailError


class SinkhornLabelAllocation(nn.Module):
    """The table with its potentials; all state is buffers.

    Args:
        num_examples: n, rows of the table.
        upper_bounds: largest share of the rows that each column may take [K]; positive.
        regularization: costs are multiplied by it (1/eps).
        tolerance: relative L1 error of the columns' sums at which an update ends.
        max_iterations: repeats of an update at most. The published method has no cap and took 2,912 repeats at n = 10,847.
    """

    cost: Tensor
    row_potential: Tensor
    column_potential: Tensor
    upper_bounds: Tensor

    def __init__(
        self, num_examples: int, upper_bounds: Tensor, regularization: float = 100.0, tolerance: float = 1e-2, max_iterations: int = 10_000
    ) -> None:
        super().__init__()
        if num_examples < 1 or upper_bounds.ndim != 1 or not bool((upper_bounds > 0).all()):
            raise LongTailError("Sinkhorn label allocation needs at least one row and a positive upper bound for each column.")
        if regularization <= 0 or tolerance <= 0 or max_iterations < 1:
            raise LongTailError("Sinkhorn label allocation needs a positive regularization and tolerance, and at least one iteration.")
        columns = len(upper_bounds)
        self.regularization, self.tolerance, self.max_iterations = regularization, tolerance, max_iterations
        cost = torch.zeros(num_examples + 1, columns + 1)
        cost[:-1, :-1] = math.log(columns)
        self.register_buffer("cost", cost)
        self.register_buffer("row_potential", torch.zeros(num_examples + 1))
        self.register_buffer("column_potential", torch.zeros(columns + 1))
        self.register_buffer("upper_bounds", upper_bounds.detach().float())
        self.converged = True

    @torch.no_grad()
    def update(self, logits: Tensor, indices: Tensor, mass: float) -> Tensor:
        """Return the labels of a batch, float32 [B, K], then let the batch change the table.

        Args:
            logits: [B, K].
            indices: the batch's rows of the table, int64 [B].
            mass: share of the rows that is to be labelled, in (0, 1].

        Raises:
            LongTailError: if the mass is outside (0, 1] or a logit is not finite.
        """
        if not 0 < mass <= 1:
            raise LongTailError(f"The transported mass is {mass}; it must be above 0 and at most 1.")
        if not bool(torch.isfinite(logits).all()):
            raise LongTailError("The logits hold numbers that are not finite (NaN or infinite).")
        log_probability = logits.float().log_softmax(1)
        slack = self.column_potential[-1:].expand(len(logits), 1)
        labels = torch.cat((self.regularization * log_probability + self.column_potential[:-1], slack), 1).softmax(1)[:, :-1]
        self.cost[indices, :-1] = -log_probability
        self.row_potential[indices] = -torch.logsumexp(self.column_potential - self.regularization * self.cost[indices], 1)
        self._balance(mass)
        return labels

    def _balance(self, mass: float) -> None:
        """Find the potentials at which the columns hold their bounds and the slack row and column the rest; sets ``converged``."""
        rows, columns = len(self.row_potential) - 1, len(self.upper_bounds)
        spare = 1 - float(self.upper_bounds.sum())
        slack_row = 1 + columns + rows * (1 - mass - min(spare, 0.0))
        slack_column = 1 + rows * (1 - mass + max(spare, 0.0))
        wanted = torch.cat((1 + rows * self.upper_bounds, self.upper_bounds.new_tensor([slack_column])))
        scores = -self.regularization * self.cost
        for _ in range(self.max_iterations):
            sums = torch.logsumexp(scores + self.row_potential[:, None], 0)
            held = (sums + self.column_potential).exp()
            self.converged = bool((held - wanted).abs().sum() <= self.tolerance * wanted.sum())
            if self.converged:
                return
            self.column_potential = wanted.log() - sums
            self.column_potential -= self.column_potential[:-1].mean()
            self.row_potential = -torch.logsumexp(scores + self.column_potential, 1)
            self.row_potential[-1] += math.log(slack_row)
