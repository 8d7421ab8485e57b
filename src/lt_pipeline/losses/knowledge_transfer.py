"""How experts of one network teach each other (SHIKE, Jin et al., CVPR 2023, arXiv 2304.01279, section 3.3: dynamic knowledge transfer).

Every expert learns from the labels, from each other expert (mutual distillation) and from one teacher that is assembled of what all of them say
about the classes a sample does not belong to. Logits are [M, B, C]. The sums over experts and pairs of experts are taken in closed form, and so
are their derivatives: with thousands of classes a loop over pairs costs several times as much.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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
    return expert_logits.amax(0).scatter(1, index, highest).scatter(1, own, fill), index.squeeze(1)


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
    _, batch, classes = expert_logits.shape
    elements = batch * (classes if reduction == "mean" else 1)
    terms = _ClosedForm.apply(expert_logits, target, elements, detach_teacher, teacher_target, hardest)
    classification, transfer, mutual = terms
    return {"classification": classification, "transfer": transfer_weight * transfer, "mutual": mutual_weight * mutual}


class _ClosedForm(torch.autograd.Function):
    """The three terms of knowledge transfer, unweighted, with their derivatives.

    Write p_j for the softmax of o_j, a for the mean of the experts' logits, t and r_i for the softmax of teacher and students. Then
    ``sum_ij KL(p_j | p_i) = M sum_j <p_j, o_j - a>``, for the normalisers cancel, and ``sum_i KL(t | r_i) = <t, M log t - sum_i log r_i>``.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, elements: int, detach_teacher: bool, teacher_target: TeacherTarget, hardest: Hardest
    ) -> tuple[Tensor, Tensor, Tensor]:
        experts, batch, _ = logits.shape
        own = target[:, None].expand(experts, -1, -1)
        log_p = logits.log_softmax(-1)
        classification = -log_p.gather(-1, own).sum() / batch
        p = log_p.exp_()
        above = logits - logits.mean(0)
        inner = torch.linalg.vecdot(p, above)
        mutual = experts * inner.sum() / elements
        by_mutual = above.add_(1 - inner[..., None]).mul_(p).sub_(p.mean(0)).mul_(experts / elements)
        by_classification = p.scatter_add_(-1, own, torch.full_like(own, -1, dtype=p.dtype)).div_(batch)

        teacher, index = assembled_teacher(logits, target, teacher_target, hardest)
        log_t = teacher.log_softmax(-1)
        t = log_t.exp()
        log_r = logits.scatter(-1, own, FLOOR).log_softmax(-1)
        gap = experts * log_t - log_r.sum(0)
        divergence = torch.linalg.vecdot(t, gap)
        transfer = divergence.sum() / elements
        by_transfer = log_r.exp_().sub_(t).scatter_(-1, own, 0)
        if not detach_teacher:
            slope = gap.sub_(divergence[:, None]).mul_(t).scatter_(1, target[:, None], 0)
            by_transfer += _to_experts(slope, logits, index[:, None])
        ctx.save_for_backward(by_classification, by_transfer.div_(elements), by_mutual)
        return classification, transfer, mutual

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        gradient = sum(slope * by for slope, by in zip(slopes, ctx.saved_tensors, strict=True))
        return gradient, None, None, None, None, None


def _to_experts(slope: Tensor, logits: Tensor, hardest: Tensor) -> Tensor:
    """Return the derivative by the experts' logits [M, B, C] of what has the derivative ``slope`` [B, C] by the teacher's: the hardest class
    [B, 1] is a mean over them, every other is the boldest of them, on a tie the first.
    """
    boldest, shared = logits.amax(0), slope.gather(1, hardest) / len(logits)
    left = slope.scatter(1, hardest, 0)
    parts = []
    for expert in logits:
        parts.append(left * (expert == boldest))
        left = left - parts[-1]
    return torch.stack(parts).scatter_add_(-1, hardest.expand(len(logits), -1, -1), shared.expand(len(logits), -1, -1))
