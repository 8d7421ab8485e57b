import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lt_pipeline.errors import LongTailError
from lt_pipeline.losses.classification import log_prior, logit_adjusted_cross_entropy
from lt_pipeline.losses.self_distillation import adjusted_logits, consistency_loss, consistency_weight, diversity_loss, expert_priors

COUNTS = [200, 50, 12, 3]


def total(logits: Tensor, target: Tensor, exponents: tuple[float, ...] = (-0.5, 1.0, 2.5), weight: float = 0.6) -> Tensor:
    adjusted = adjusted_logits(logits, expert_priors(COUNTS, exponents).to(logits.dtype))
    return diversity_loss(adjusted, target.repeat(2)).sum() + weight * consistency_loss(*adjusted.chunk(2, 1), target)[0].sum()


def by_loops(logits: Tensor, target: Tensor, weight: float = 0.6) -> Tensor:
    value = torch.zeros((), dtype=logits.dtype)
    half = len(target)
    for z, exponent in zip(logits, (-0.5, 1.0, 2.5), strict=True):
        a = z + torch.log(torch.tensor(COUNTS, dtype=torch.float64) ** exponent + 1e-9)
        value = value + F.cross_entropy(a, target.repeat(2))
        chosen = a[:half].argmax(1) == target
        if chosen.any():
            p, q = a[:half][chosen].detach().softmax(1), a[half:][chosen].softmax(1)
            value = value + weight * (p * (p / q).log()).sum() / chosen.sum()
    return value


def draw(batch: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(3, 2 * batch, 4, dtype=torch.float64, generator=generator), torch.randint(4, (batch,), generator=generator)


@settings(max_examples=25, deadline=None)
@given(batch=st.integers(1, 7), seed=st.integers(0, 99))
def test_equals_a_loop_over_experts_with_gradient(batch: int, seed: int) -> None:
    logits, target = draw(batch, seed)
    ours, plain = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    a, b = total(ours, target), by_loops(plain, target)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)  # priors are float32
    torch.testing.assert_close(*(torch.autograd.grad(value, leaf)[0] for value, leaf in ((a, ours), (b, plain))), rtol=1e-5, atol=1e-6)


def test_gradients_in_float64() -> None:
    """Away from the teacher: only the strong rows, whose gradient is the whole derivative."""
    logits, target = draw()
    weak = logits[:, :5]
    assert torch.autograd.gradcheck(lambda strong: total(torch.cat([weak, strong], 1), target), logits[:, 5:].clone().requires_grad_())


def test_one_expert_without_self_distillation_is_balanced_softmax() -> None:
    logits, target = draw()
    expected = logit_adjusted_cross_entropy(logits[0], target.repeat(2), log_prior(COUNTS))
    torch.testing.assert_close(total(logits[:1], target, (1.0,), 0.0), expected)


def test_equal_views_without_priors_are_plain_cross_entropy_for_each_expert() -> None:
    logits, target = draw()
    same = torch.cat([logits[:, :5]] * 2, 1)
    plain = sum(F.cross_entropy(z, target.repeat(2)) for z in same)
    torch.testing.assert_close(total(same, target, (0.0, 0.0, 0.0)), plain)


def test_a_constant_added_to_a_row_changes_nothing() -> None:
    logits, target = draw()
    shifted = logits + torch.arange(10.0)[:, None]
    torch.testing.assert_close(total(logits, target), total(shifted, target))


def test_only_strong_rows_of_confident_images_learn_from_the_teacher() -> None:
    logits, target = draw(batch=8)
    leaf = logits.clone().requires_grad_()
    with_it, without = (torch.autograd.grad(total(leaf, target, weight=weight), leaf)[0] for weight in (0.6, 0.0))
    torch.testing.assert_close(with_it[:, :8], without[:, :8])
    priors = expert_priors(COUNTS, (-0.5, 1.0, 2.5)).double()
    confident = adjusted_logits(logits, priors)[:, :8].argmax(-1) == target
    changed = (with_it - without)[:, 8:].abs().sum(-1) > 1e-12
    assert torch.equal(changed, confident)


def test_nobody_confident_is_zero_and_finite() -> None:
    weak = torch.zeros(2, 3, 4)
    weak[..., 0] = 50
    divergence, confident = consistency_loss(weak, weak.flip(-1), torch.tensor([1, 2, 3]))
    assert divergence.tolist() == [0, 0] and not confident.any()


def test_certain_predictions_stay_finite() -> None:
    weak = torch.tensor([[[50.0, -50.0, -50.0, -50.0]]])
    divergence, _ = consistency_loss(weak, -weak, torch.tensor([0]))
    assert divergence.isfinite().all()


def test_the_weight_rises_from_the_first_epoch() -> None:
    assert [round(consistency_weight(epoch), 3) for epoch in (1, 2, 19, 20, 400)] == [0.03, 0.06, 0.57, 0.6, 0.6]
    assert consistency_weight(1, 0.6, 0) == 0.6


def test_an_empty_class_is_refused() -> None:
    with pytest.raises(LongTailError, match="Class 1 has 0"):
        expert_priors([5, 0], (1.0, -0.5))
