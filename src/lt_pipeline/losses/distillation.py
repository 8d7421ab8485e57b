"""Distillation from a larger ensemble of the same family (RIDE, Wang et al., ICLR 2021, section 3.4; Hinton et al. 2015)."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from lt_pipeline.losses.diversity import RideLoss
from lt_pipeline.losses.precision import full_precision

Total = Literal["official", "once"]


@full_precision
def distillation_loss(expert_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.5) -> Tensor:
    """Return ``t^2 KL(softmax(teacher / t) || softmax(student / t))``, averaged over the batch; the teacher gets no gradient.

    Args:
        expert_logits: of the student [K, B, C]; their mean learns, not each of them.
        teacher_logits: [B, C].
        temperature: t.
    """
    student = (expert_logits.mean(0) / temperature).log_softmax(-1)
    teacher = (teacher_logits.detach() / temperature).log_softmax(-1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


class DistilledRideLoss(nn.Module):
    """The RIDE loss and the distillation of the ensemble mean.

    Args:
        ride: the loss of the experts.
        temperature: t.
        factor: on the distillation term.
        total: ``once`` adds the terms; ``official`` multiplies them all by K, as the code behind the published checkpoints does: with SGD a K-fold
            learning rate.
    """

    def __init__(self, ride: RideLoss, temperature: float = 1.5, factor: float = 1.0, total: Total = "official") -> None:
        super().__init__()
        self.ride, self.temperature, self.factor, self.total = ride, temperature, factor, total

    def forward(self, expert_logits: Tensor, teacher_logits: Tensor, target: Tensor, epoch: int) -> dict[str, Tensor]:
        """Return ``base``, ``diversity`` and ``distillation`` of expert_logits [K, B, C] against teacher_logits [B, C] in ``epoch`` (1-based)."""
        terms = self.ride(expert_logits, target, epoch)
        terms["distillation"] = self.factor * distillation_loss(expert_logits, teacher_logits, self.temperature)
        times = len(expert_logits) if self.total == "official" else 1
        return {name: times * term for name, term in terms.items()}
