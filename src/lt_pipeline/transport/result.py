"""What a solve returns."""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor


class ConvergenceWarning(UserWarning):
    """A solve stopped before it reached its tolerance."""


@dataclass(frozen=True)
class Transport:
    """A plan and how good it is. With H problems at once every field begins with H; NumPy arrays if the cost was one.

    With rows shared among processes, ``plan`` and ``row_mass`` are this process's rows, the rest is of all of them.
    """

    plan: Any
    """Labels N Q [N, K]: rows sum to at most 1. None if it was not asked for."""
    potential: Any
    """Logarithm of the columns' scaling, float64 [K + 1], the virtual column last (-inf at mass 1): what a later solve starts from."""
    row_mass: Any
    """Share of each row that is transported [N], the sums of the plan's rows."""
    column_mass: Any
    """What each column holds, float64 [K]; sums to the mass."""
    mass: Any
    """All that is transported, float64 []."""
    column_error: Any
    """Largest relative distance of a column's mass from what the optimality condition asks for, float64 []."""
    row_error: Any
    """Largest distance of a row's sum, virtual column included, from 1, float64 []: 0 for solvers that end on the rows."""
    iterations: Any
    """Passes over the rows (for the scaling loop: repeats), int64 []."""
    converged: Any
    """Whether the tolerance was reached, bool []."""

    def as_numpy(self) -> "Transport":
        """Return the same as NumPy arrays."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value.cpu().numpy() for name, value in values.items() if isinstance(value, Tensor)})

    @classmethod
    def stacked(cls, parts: "list[Transport]") -> "Transport":
        """Return H results as one."""
        values = {field.name: [getattr(part, field.name) for part in parts] for field in fields(cls)}
        return cls(**{name: None if value[0] is None else torch.stack(value) for name, value in values.items()})


def as_tensor(values: Tensor | np.ndarray) -> Tensor:
    """Return a tensor without a gradient that shares the memory of ``values``."""
    return values.detach() if isinstance(values, Tensor) else torch.as_tensor(values)
