"""The two losses of a distilled ViT under a long tail (DeiT-LT, Rangwani et al., CVPR 2024, arXiv 2404.02900, section 3; DeiT, Touvron et al.,
ICML 2021, arXiv 2012.12877, section 4). The class token learns the labels, the distillation token what a teacher says about the same images.

Logits are [B, C]; results are scalars. Targets are labels, int64 [B], or distributions, float [B, C]: which of the two is told by their type and
never guessed.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from lt_pipeline.errors import LongTailError
from lt_pipeline.losses.classification import cross_entropy, soft_cross_entropy
from lt_pipeline.losses.precision import full_precision

TeacherAnswer = Literal["hard", "soft"]
"""The teacher's most likely class, or its whole distribution."""


@full_precision
def class_token_loss(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the cross-entropy of the class token against labels or mixed and smoothed distributions.

    Args:
        logits: of the class token [B, C].
        target: labels int64 [B] or distributions [B, C].
        weight: class weights [C], an extension to the recipes, which never weigh this loss. A distribution weighs ``sum_k q_k w_k``; the mean
            divides by the sum of the samples' weights.

    Raises:
        LongTailError: if the target is neither.
    """
    _expect_target(logits, target)
    if not target.is_floating_point():
        return cross_entropy(logits, target, weight)
    if weight is None:
        return soft_cross_entropy(logits, target)
    shares = target.to(logits.dtype)
    samples = shares @ weight.to(logits.dtype)
    losses = -(shares * logits.log_softmax(-1)).sum(-1)
    return (samples * losses).sum() / samples.sum()


@full_precision
def distillation_token_loss(
    logits: Tensor, teacher_logits: Tensor, kind: TeacherAnswer = "hard", temperature: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """Return the loss of the distillation token against the teacher's answer to the same (mixed) images; the teacher gets no gradient.

    ``hard``: cross-entropy with the teacher's most likely class, without temperature. Class weights go by the *teacher's* label, and the mean
    divides by their sum over this forward pass (DeiT-LT, eq. 3). ``soft``: ``t^2 KL(softmax(teacher / t) || softmax(logits / t))``, divided
    by B and by C as in DeiT's code.

    Args:
        logits: of the distillation token [B, C].
        teacher_logits: [B, C], in the student's class order.
        kind: hard or soft.
        temperature: t, of the soft answer.
        weight: class weights [C], with the hard answer only.

    Raises:
        LongTailError: if the shapes differ, or weights come with the soft answer.
    """
    if logits.shape != teacher_logits.shape:
        raise LongTailError(
            f"The teacher's logits have the shape {tuple(teacher_logits.shape)}, the student's {tuple(logits.shape)}: other classes."
        )
    if kind == "hard":
        return cross_entropy(logits, teacher_logits.detach().argmax(-1), weight)
    if weight is not None:
        raise LongTailError("Class weights need the teacher's hard labels; set distillation.kind=hard or distillation.reweight=false.")
    student, teacher = (logits / temperature).log_softmax(-1), (teacher_logits.detach() / temperature).log_softmax(-1)
    return temperature**2 * F.kl_div(student, teacher, reduction="sum", log_target=True) / logits.numel()


def _expect_target(logits: Tensor, target: Tensor) -> None:
    wanted = logits.shape if target.is_floating_point() else logits.shape[:1]
    if target.shape != wanted:
        raise LongTailError(
            f"The target of type {target.dtype} has the shape {tuple(target.shape)}, but logits {tuple(logits.shape)} ask for {tuple(wanted)}: "
            "labels are integers [B], distributions are floats [B, C]."
        )
