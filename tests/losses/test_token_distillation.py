import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lt_pipeline.errors import LongTailError
from lt_pipeline.losses.token_distillation import class_token_loss, distillation_token_loss

B, C = 6, 4


def draws(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits, teacher = torch.randn(2, B, C, generator=generator, dtype=dtype)
    return logits.requires_grad_(), teacher, torch.rand(C, generator=generator, dtype=dtype) + 0.1


def test_weights_go_by_the_teachers_label() -> None:
    logits, teacher, weights = draws()
    labels = teacher.argmax(1)
    expected = sum(weights[y] * -F.log_softmax(z, 0)[y] for z, y in zip(logits, labels, strict=True)) / weights[labels].sum()
    torch.testing.assert_close(distillation_token_loss(logits, teacher, weight=weights), expected)


@given(seed=st.integers(0, 99), factor=st.floats(0.01, 100))
@settings(max_examples=10, deadline=None)
def test_a_common_factor_on_the_weights_changes_nothing(seed: int, factor: float) -> None:
    logits, teacher, weights = draws(seed)
    first, second = (
        torch.autograd.grad(distillation_token_loss(logits, teacher, weight=w), logits)[0] for w in (weights, factor * weights)
    )
    torch.testing.assert_close(first, second)


def test_a_batch_with_one_teacher_label_is_free_of_weights() -> None:
    logits, _, weights = draws()
    teacher = F.one_hot(torch.full((B,), 2), C).double()
    torch.testing.assert_close(distillation_token_loss(logits, teacher, weight=weights), distillation_token_loss(logits, teacher))


def test_the_weighted_class_token_weighs_a_distribution_by_its_shares() -> None:
    logits, teacher, weights = draws()
    labels = teacher.argmax(1)
    torch.testing.assert_close(class_token_loss(logits, F.one_hot(labels, C).double(), weights), class_token_loss(logits, labels, weights))


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_gradients(kind: str) -> None:
    logits, teacher, weights = draws()
    weight = weights if kind == "hard" else None
    assert torch.autograd.gradcheck(lambda z: distillation_token_loss(z, teacher, kind, 2.0, weight), logits)
    target = teacher.softmax(1)
    assert torch.autograd.gradcheck(lambda z: class_token_loss(z, target, weights), logits)


def test_the_teacher_gets_no_gradient() -> None:
    logits, teacher, _ = draws()
    teacher.requires_grad_()
    distillation_token_loss(logits, teacher, "soft", 2.0).backward()
    assert teacher.grad is None and logits.grad is not None


def test_what_cannot_be_meant_is_refused() -> None:
    logits, teacher, weights = draws()
    with pytest.raises(LongTailError, match="hard labels"):
        distillation_token_loss(logits, teacher, "soft", weight=weights)
    with pytest.raises(LongTailError, match="other classes"):
        distillation_token_loss(logits, teacher[:, :3])
    square = torch.randn(C, C)
    with pytest.raises(LongTailError, match=r"float32 has the shape \(4,\)"):
        class_token_loss(square, torch.arange(C).float())  # would broadcast, B being C
    with pytest.raises(LongTailError, match="int64"):
        class_token_loss(square, torch.eye(C, dtype=torch.int64))


def test_half_precision_logits_are_lifted() -> None:
    logits, teacher, weights = draws(dtype=torch.float32)
    assert distillation_token_loss(logits.bfloat16(), teacher.bfloat16(), weight=weights).dtype == torch.float32
