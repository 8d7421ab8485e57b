"""The RIDE loss for soft targets (mixup, cutmix, label smoothing), as the official Swin code has it.

It differs from :mod:`~lt_pipeline.losses.diversity` in more than the targets: logits come as unscaled cosines, class weights multiply without
normalising, and the diversity term is divided by the number of experts.
"""

import torch
from torch import Tensor

from lt_pipeline.losses.diversity import divergence_to_mean
from lt_pipeline.losses.margins import subtract_margins
from lt_pipeline.losses.precision import full_precision


@full_precision
def soft_target_ride_loss(
    expert_cosines: Tensor,
    target: Tensor,
    soft_target: Tensor,
    margins: Tensor,
    scale: float = 30.0,
    weight: Tensor | None = None,
    temperature: Tensor | float = 1.0,
    diversity: float = -0.2,
) -> dict[str, Tensor]:
    """Return the terms ``base`` and ``diversity``.

    Args:
        expert_cosines: unscaled cosines [K, B, C].
        target: labels before mixing [B]; they choose margin and weight.
        soft_target: distribution over classes [B, C].
        margins: of each class [C], unscaled.
        scale: s.
        weight: class weights [C]; None before re-weighting.
        temperature: of the divergence: scalar, or one per class [C].
        diversity: factor on the divergence; negative pushes experts apart.
    """
    logits = scale * expert_cosines
    losses = -(soft_target * subtract_margins(logits, target, scale * margins).log_softmax(-1)).sum((0, -1))
    if weight is not None:
        losses = losses * weight.to(losses.dtype)[target]
    squared = torch.as_tensor(temperature, dtype=logits.dtype).mean() ** 2
    return {"base": losses.mean(), "diversity": diversity * squared * divergence_to_mean(logits, temperature) / len(logits)}
