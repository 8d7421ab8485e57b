"""How experts of one network teach each other (SHIKE, Jin et al., CVPR 2023, arXiv 2304.01279, section 3.3: dynamic knowledge transfer).

Every expert learns from the labels, from each other expert (mutual distillation) and from one teacher that is assembled of what all of them say
about the classes a sample does not belong to. Logits are [M, B, C]. The sums over experts and pairs of experts are taken in closed form, with
three log-softmax calls in all.
"""

from typing import Literal

import torch
from torch import Tensor

from lt_pipeline.losses.precision import full_precision

TeacherTarget = Literal["zero", "student", "none"]
Hardest = Literal["floor", "masked"]
Reduction = Literal["mean", "batchmean"]

FLOOR = -30.0
"""What stands in the target's place where it is to be ignored: the smallest cosine logit."""
_NOTHING = -1e4
"""A logit whose probability is exactly 0 in float32 while its logarithm stays finite."""


@full_precision
def assembled_teacher(
    expert_logits: Tensor, target: Tensor, teacher_target: TeacherTarget = "zero", hardest: Hardest = "floor"
) -> tuple[Tensor, Tensor]:
    """Return the teacher's logits [B, C] and each sample's hardest class, int64 [B].

    For every class but the sample's own the teacher says what the boldest expert says; for the hardest of them, the one with the highest mean, it
    says only that mean.

    Args:
        expert_logits: [M, B, C].
        target: labels [B].
        teacher_target: logit of the sample's own class: ``zero`` as in the official code, which leaves the teacher some mass there; ``student``
            the floor that the students have there; ``none`` no mass at all.
        hardest: how the own class is kept out of the search: ``floor`` (official) sets it to -30, which is right while no mean is lower, as with
            a cosine head of scale 30; ``masked`` is right for any head.
    """
    own = target[:, None]
    mean = expert_logits.mean(0).scatter(1, own, FLOOR if hardest == "floor" else -torch.inf)
    highest, index = mean.max(1, keepdim=True)
    fill = {"zero": 0.0, "student": FLOOR, "none": _NOTHING}[teacher_target]
    boldest = expert_logits.max(0).values  # not amax: the gradient goes to one expert
    return boldest.scatter(1, index, highest).scatter(1, own, fill), index.squeeze(1)


@full_precision
def knowledge_transfer(
    expert_logits: Tensor,
    target: Tensor,
    transfer_weight: float = 10.0,
    mutual_weight: float = 1.0,
    reduction: Reduction = "mean",
    detach_teacher: bool = False,
    teacher_target: TeacherTarget = "zero",
    hardest: Hardest = "floor",
) -> dict[str, Tensor]:
    """Return the terms ``classification``, ``transfer`` and ``mutual``, weighted; their sum is what is minimised.

    Args:
        expert_logits: [M, B, C].
        target: labels [B].
        transfer_weight: of the divergence between the assembled teacher and each expert.
        mutual_weight: of the divergences between all ordered pairs of experts.
        reduction: ``mean`` divides both divergences by batch and classes, as published for 100 classes; ``batchmean`` by the batch, so that
            weights keep their meaning with other numbers of classes (0.1 and 0.01 then equal the published 10 and 1).
        detach_teacher: no gradient through the assembled teacher; officially there is.
        teacher_target: see :func:`assembled_teacher`.
        hardest: likewise.
    """
    experts, batch, classes = expert_logits.shape
    elements = batch * (classes if reduction == "mean" else 1)
    own = target[:, None]
    log_p = expert_logits.log_softmax(-1)
    classification = -log_p.gather(-1, own.expand(experts, -1, -1)).sum() / batch
    mutual = (log_p.exp() * (experts * log_p - log_p.sum(0))).sum() / elements

    teacher = assembled_teacher(expert_logits, target, teacher_target, hardest)[0]
    log_t = (teacher.detach() if detach_teacher else teacher).log_softmax(-1)
    students = expert_logits.scatter(-1, own.expand(experts, -1, -1), FLOOR).log_softmax(-1)
    transfer = (log_t.exp() * (experts * log_t - students.sum(0))).sum() / elements
    return {"classification": classification, "transfer": transfer_weight * transfer, "mutual": mutual_weight * mutual}
