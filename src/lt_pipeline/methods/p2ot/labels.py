"""Labels by transport: P2OT's, and SP2OT's where the similarity of the images is known."""

import warnings
from typing import Any

import torch
from torch import Tensor

from lt_pipeline.methods.p2ot.config import LabelsConfig, SemanticConfig
from lt_pipeline.training.clock import Clock
from lt_pipeline.transport import (
    ConvergenceWarning,
    NeighbourGraph,
    cost_of_logits,
    mass_schedule,
    progressive_transport,
    semantic_transport,
    semantic_weight,
)


class Labeller:
    """Solves the transport problem of a set of logits; keeps no state of its own.

    Args:
        config: of the problem.
        neighbours: similarity of the training images, for SP2OT; None solves P2OT's problem.
    """

    def __init__(self, config: LabelsConfig, neighbours: NeighbourGraph | None = None) -> None:
        self.config, self.neighbours = config, neighbours

    def mass(self, clock: Clock) -> float:
        """Return the share of the mass that is transported in the step of ``clock`` (P2OT, section 4.1)."""
        config = self.config
        return float(mass_schedule(clock.step, clock.total_steps, config.mass_start, config.mass_end, config.ramp))

    def among(self, positions: Tensor) -> Any:
        """Return the similarity of the images at ``positions`` [N] of the training split to each other; None for P2OT."""
        return None if self.neighbours is None else self.neighbours.among(positions)

    @torch.no_grad()
    def solve(self, logits: Tensor, among: Any, mass: float, potential: Tensor) -> tuple[Tensor, bool]:
        """Return label rows [N, K] in float32, which sum to at most 1 and to ``mass`` on average, and whether the solver converged.

        Args:
            logits: [N, K] of all rows that share the mass.
            among: what :meth:`among` says of these rows.
            mass: share of the rows' mass that is transported.
            potential: float64 [K + 1], where the solver starts; overwritten by where it ends.

        Raises:
            LongTailError: if a logit is not a finite number.
        """
        config, cost = self.config, cost_of_logits(logits)
        common: dict[str, Any] = {
            "epsilon": config.epsilon,
            "gamma": config.gamma,
            "columns": config.columns,
            "potential": potential,
            "algorithm": config.algorithm,
            "on_failure": "warn",
        }
        weight = semantic_weight(mass, config.semantic_weight) if isinstance(config, SemanticConfig) else 0.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # counted over an epoch instead of said in each step
            if among is None or not isinstance(config, SemanticConfig) or not weight:
                solved: Any = progressive_transport(cost, mass, **common)
            else:
                options: dict[str, Any] = {"semantic_weight": weight, "ema": config.averaging, "max_steps": config.majorizations}
                solved = semantic_transport(cost, among, mass, **options, **common)
        potential.copy_(solved.potential)
        return solved.plan.float(), bool(solved.converged)
