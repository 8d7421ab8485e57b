"""The RIDE loss (Wang et al., ICLR 2021, arXiv 2010.01809, section 3.2), in the form of the official code, which differs from the paper.

K experts, batch B, C classes. All experts are computed at once: one cross-entropy over [K B, C] and one divergence.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from lt_pipeline.errors import LongTailError
from lt_pipeline.losses.classification import cross_entropy
from lt_pipeline.losses.counts import Counts, positive_counts
from lt_pipeline.losses.margins import ldam_margins, subtract_margins
from lt_pipeline.losses.precision import full_precision
from lt_pipeline.losses.reweighting import BETA, effective_number_weights, reweighting_active

Base = Literal["individual", "collaborative"]
Divergence = Literal["to_mean", "pairwise"]


def class_temperature(counts: Counts, spread: float = 0.05, base: float = 1.0, divergence: Divergence = "to_mean") -> Tensor:
    """Return the softmax temperature of each class, float32 [C]: ``base`` for the most frequent class, lower for rare ones.

    With ``v = spread C n / sum(n) + 1 - spread`` it is ``base v / max(v)`` in the official code (``to_mean``) and ``base (v + 1 - max(v))`` in the
    paper's eq. 4 (``pairwise``).

    Args:
        counts: training images of each class [C].
        spread: gamma.
        base: temperature of the most frequent class.
        divergence: whose formula to use.

    Raises:
        LongTailError: if a class has no training image or a temperature is not positive.
    """
    numbers = positive_counts(counts)
    relative = spread * len(numbers) * numbers / numbers.sum() + 1 - spread
    temperature = base * (relative / relative.max() if divergence == "to_mean" else relative + 1 - relative.max())
    if not (temperature > 0).all():
        raise LongTailError(
            f"The temperature of the rarest class is {temperature.min():.3g}, but must be positive: lower temperature_spread (now {spread:g})."
        )
    return torch.from_numpy(temperature).float()


@full_precision
def divergence_to_mean(expert_logits: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
    """Return ``sum_k KL(p || q_k)``, averaged over the batch, with p the softmax of the mean logits, without gradient.

    Args:
        expert_logits: [K, B, C].
        temperature: scalar, or one per class [C]; logits are divided by it.
    """
    logits = expert_logits / temperature
    target = logits.detach().mean(0).log_softmax(-1)
    return (target.exp() * (target - logits.log_softmax(-1))).sum() / expert_logits.shape[1]


@full_precision
def pairwise_divergence(expert_logits: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
    """Return ``1 / (K - 1) sum_{i != j} KL(q_i || q_j)``, averaged over the batch (the paper's eq. 3); gradients reach both sides.

    With m the mean of the experts' log-probabilities the double sum is ``K sum_i q_i (log q_i - m)``: O(K), and exactly zero terms for experts
    that agree. Arguments as in :func:`divergence_to_mean`.
    """
    experts, batch = expert_logits.shape[:2]
    if experts == 1:
        return expert_logits.sum() * 0
    log_q = (expert_logits / temperature).log_softmax(-1)
    return experts / (experts - 1) * (log_q.exp() * (log_q - log_q.mean(0))).sum() / batch


@full_precision
def ride_loss(
    expert_logits: Tensor,
    target: Tensor,
    margins: Tensor | None = None,
    weight: Tensor | None = None,
    temperature: Tensor | float = 1.0,
    diversity: float = -0.45,
    base_factor: float = 1.0,
    base: Base = "individual",
    divergence: Divergence = "to_mean",
    across_ranks: bool = False,
) -> dict[str, Tensor]:
    """Return the two terms of the loss, each a sum over experts; the loss is their sum.

    Args:
        expert_logits: scaled logits [K, B, C].
        target: labels [B].
        margins: of each class [C], times the scale of the head; None for plain cross-entropy.
        weight: class weights [C]; None before re-weighting.
        temperature: of the divergence: scalar, or one per class [C].
        diversity: factor on the divergence; negative pushes experts apart.
        base_factor: factor on the cross-entropy.
        base: cross-entropy of each expert, or K times that of their mean.
        divergence: KL of the mean to each expert times the squared mean temperature (official code), or between all pairs (paper).
        across_ranks: see :func:`~lt_pipeline.losses.classification.cross_entropy`.

    Returns:
        ``base`` and ``diversity``, scalars.
    """
    experts, _, classes = expert_logits.shape
    judged = expert_logits if base == "individual" else expert_logits.mean(0, keepdim=True)
    if margins is not None:
        judged = subtract_margins(judged, target, margins)
    # every expert sees the same labels, so one weighted mean over all rows is the mean of the experts' weighted means
    mean = cross_entropy(judged.reshape(-1, classes), target.repeat(len(judged)), weight, across_ranks)
    if divergence == "to_mean":
        spread = torch.as_tensor(temperature, dtype=expert_logits.dtype).mean() ** 2 * divergence_to_mean(expert_logits, temperature)
    else:
        spread = pairwise_divergence(expert_logits, temperature)
    return {"base": base_factor * experts * mean, "diversity": diversity * spread}


class RideLoss(nn.Module):
    """:func:`ride_loss` with its constants: before and in ``reweight_epoch`` no class weights and one temperature, afterwards both by class.

    Args:
        counts: training images of each class [C]; None for plain cross-entropy and one temperature throughout.
        max_margin: LDAM margin of the rarest class.
        scale: s of the head, 1 for a linear one.
        diversity: factor on the divergence; negative pushes experts apart.
        temperature_spread: gamma of the class temperatures.
        base_temperature: temperature before re-weighting, and of the most frequent class afterwards.
        reweight_epoch: last epoch (1-based) without weights; negative is never.
        base_factor: factor on the cross-entropy.
        base: ``individual``, or ``collaborative``: cross-entropy of the experts' mean.
        divergence: ``to_mean`` (official code), or ``pairwise`` (paper).
        beta: of the effective number.
        across_ranks: divide weighted means by the weights of all ranks.

    Raises:
        LongTailError: if a class has no training image or a temperature is not positive.
    """

    margins: Tensor | None
    weights: Tensor | None
    temperatures: Tensor | None

    def __init__(
        self,
        counts: Counts | None,
        max_margin: float = 0.5,
        scale: float = 30.0,
        diversity: float = -0.45,
        temperature_spread: float = 0.05,
        base_temperature: float = 1.0,
        reweight_epoch: int = 160,
        base_factor: float = 1.0,
        base: Base = "individual",
        divergence: Divergence = "to_mean",
        beta: float = BETA,
        across_ranks: bool = False,
    ) -> None:
        super().__init__()
        self.diversity, self.base_factor, self.base_temperature = diversity, base_factor, base_temperature
        self.base, self.divergence = base, divergence
        self.reweight_epoch, self.across_ranks = reweight_epoch, across_ranks
        margins = weights = temperatures = None
        if counts is not None:
            margins = scale * ldam_margins(counts, max_margin)
            weights = effective_number_weights(counts, beta)
            temperatures = class_temperature(counts, temperature_spread, base_temperature, divergence)
        self.register_buffer("margins", margins, persistent=False)
        self.register_buffer("weights", weights, persistent=False)
        self.register_buffer("temperatures", temperatures, persistent=False)

    def forward(self, expert_logits: Tensor, target: Tensor, epoch: int) -> dict[str, Tensor]:
        """Return ``base`` and ``diversity`` of expert_logits [K, B, C] in ``epoch`` (1-based)."""
        active = reweighting_active(epoch, self.reweight_epoch)
        return ride_loss(
            expert_logits,
            target,
            self.margins,
            self.weights if active else None,
            self.temperatures if active and self.temperatures is not None else self.base_temperature,
            self.diversity,
            self.base_factor,
            self.base,
            self.divergence,
            self.across_ranks,
        )
