"""What changes from step to step: the transported mass and the weights (P2OT, section 4.1, equation 5; SP2OT, arXiv 2404.03446, section
4)."""

import math
from typing import Literal

from lt_pipeline.errors import LongTailError

Ramp = Literal["sigmoid", "linear", "cosine_down"]
MassStrategy = Literal["sigmoid", "linear", "fixed"]


def ramp(current: float, length: int, kind: Ramp = "sigmoid") -> float:
    """Return how far along a ramp of ``length`` steps step ``current`` is.

    ``sigmoid`` is ``exp(-5 (1 - t)^2)`` with t = current / length held between 0 and 1: it begins at 0.0067 and ends at 1. ``linear`` is t, and
    ``cosine_down`` falls, ``(cos(pi t) + 1) / 2``. At length 0 the ramp is over.

    Raises:
        LongTailError: if the kind is unknown or the length negative.
    """
    if length < 0:
        raise LongTailError(f"A ramp takes 0 or more steps, not {length}.")
    t = min(max(current, 0.0), length) / length if length else 1.0
    if kind == "sigmoid":
        return math.exp(-5 * (1 - t) ** 2)
    if kind == "linear":
        return t
    if kind == "cosine_down":
        return (math.cos(math.pi * t) + 1) / 2
    raise LongTailError(f"The ramp '{kind}' is unknown; there are sigmoid, linear and cosine_down.")


def mass_schedule(
    iteration: int, total_iterations: int, mass_base: float = 0.1, mass_upper: float = 1.0, strategy: MassStrategy = "sigmoid"
) -> float:
    """Return the transported mass of step ``iteration`` (0-based): from ``mass_base`` (sigmoid: a little above it) to ``mass_upper``.

    Raises:
        LongTailError: if a mass is outside (0, 1], the upper one is below the base, or the strategy is unknown.
    """
    if not 0 < mass_base <= mass_upper <= 1:
        raise LongTailError(f"The mass must rise from above 0 to at most 1, not from {mass_base} to {mass_upper}.")
    if strategy == "fixed":
        return mass_base
    if strategy not in ("sigmoid", "linear"):
        raise LongTailError(f"The strategy '{strategy}' is unknown; there are sigmoid, linear and fixed.")
    return mass_base + (mass_upper - mass_base) * ramp(iteration, total_iterations, strategy)


def semantic_weight(mass: float, base: float = 1000.0, fixed: bool = False) -> float:
    """Return the weight of the semantic term at the transported ``mass``: ``base (1 - mass)``, or ``base`` if it is fixed."""
    return base if fixed else base * (1 - mass)


def gamma_schedule(iteration: int, total_iterations: int, start: float = 1.0, end: float | None = None) -> float:
    """Return the weight of the column term at step ``iteration``: it goes from ``start`` to ``end`` in a straight line; None stays at
    ``start``."""
    return start if end is None else start + (end - start) * ramp(iteration, total_iterations, "linear")
