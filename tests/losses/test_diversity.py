import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from lt_pipeline.errors import LongTailError
from lt_pipeline.losses.distillation import DistilledRideLoss, distillation_loss
from lt_pipeline.losses.diversity import RideLoss, class_temperature, divergence_to_mean, pairwise_divergence, ride_loss
from lt_pipeline.losses.margins import ldam_margins
from lt_pipeline.losses.reweighting import effective_number_weights
from lt_pipeline.losses.soft_target import soft_target_ride_loss

COUNTS = [500, 200, 90, 40, 12, 5]
CLASSES = len(COUNTS)


def batch(experts: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(experts, 9, CLASSES, generator=generator, dtype=dtype)
    return logits.requires_grad_(), torch.randint(CLASSES, (9,), generator=generator)


def plain_loss(expert_logits: Tensor, target: Tensor, factor: float, active: bool) -> Tensor:
    """The loss written as a loop over experts."""
    margins, weight = ldam_margins(COUNTS), effective_number_weights(COUNTS)
    temperature = class_temperature(COUNTS) if active else torch.ones(CLASSES)
    hot = F.one_hot(target, CLASSES)
    mean = torch.softmax(expert_logits.mean(0) / temperature, 1).detach()
    total = torch.zeros(())
    for logits in expert_logits:
        total = total + F.cross_entropy(logits - 30 * hot * margins[target][:, None], target, weight=weight if active else None)
        divergence = F.kl_div(torch.log_softmax(logits / temperature, 1), mean, reduction="batchmean")
        total = total + factor * temperature.mean() ** 2 * divergence
    return total


@settings(max_examples=20, deadline=None)
@given(experts=st.integers(1, 6), seed=st.integers(0, 1000), active=st.booleans())
def test_all_experts_at_once_equal_a_loop(experts: int, seed: int, active: bool) -> None:
    logits, target = batch(experts, seed)
    loss = RideLoss(COUNTS)
    vectorised = sum(loss(logits, target, 161 if active else 160).values())
    looped = plain_loss(logits, target, -0.45, active)
    torch.testing.assert_close(vectorised, looped, rtol=1e-5, atol=1e-4)
    ours, plain = (torch.autograd.grad(value, logits)[0] for value in (vectorised, looped))
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("divergence", [divergence_to_mean, pairwise_divergence])
def test_experts_that_agree_have_neither_divergence_nor_gradient(divergence) -> None:
    one, _ = batch(1)
    logits = one.detach().repeat(4, 1, 1).requires_grad_()
    value = divergence(logits, class_temperature(COUNTS))
    assert value.abs() < 1e-5
    assert torch.autograd.grad(value, logits)[0].abs().max() < 1e-6


@pytest.mark.parametrize("divergence", ["to_mean", "pairwise"])
def test_descending_the_diversity_term_drives_experts_apart(divergence: str) -> None:
    logits, target = batch()
    term = ride_loss(logits, target, diversity=-0.45, divergence=divergence)["diversity"]
    assert term < 0
    (gradient,) = torch.autograd.grad(term, logits)
    assert divergence_to_mean(logits - 0.1 * gradient) > divergence_to_mean(logits)


def test_the_gradient_is_that_of_the_formula() -> None:
    logits, target = batch(dtype=torch.float64)
    temperature = class_temperature(COUNTS).double()
    term = ride_loss(logits, target, temperature=temperature, diversity=-0.45)["diversity"]
    (gradient,) = torch.autograd.grad(term, logits)
    p, q = (logits.mean(0) / temperature).softmax(-1), (logits / temperature).softmax(-1)
    expected = -0.45 * temperature.mean() ** 2 * (q - p) / (temperature * logits.shape[1])
    torch.testing.assert_close(gradient, expected)


def test_pairwise_divergence_is_the_double_sum() -> None:
    logits, _ = batch(4)
    temperature = class_temperature(COUNTS, divergence="pairwise")
    log_q = (logits / temperature).log_softmax(-1)
    expected = sum(F.kl_div(log_q[j], log_q[i], reduction="batchmean", log_target=True) for i in range(4) for j in range(4) if i != j) / 3
    torch.testing.assert_close(pairwise_divergence(logits, temperature), expected, rtol=1e-4, atol=1e-5)


def test_one_expert_has_no_one_to_differ_from() -> None:
    logits, target = batch(1)
    for divergence in ("to_mean", "pairwise"):
        terms = ride_loss(logits, target, divergence=divergence)
        assert terms["diversity"] == 0
        assert torch.autograd.grad(terms["diversity"], logits)[0].abs().max() < 1e-7


def test_gradients() -> None:
    logits, target = batch(dtype=torch.float64)
    margins, weight = ldam_margins(COUNTS).double(), effective_number_weights(COUNTS).double()
    assert gradcheck(lambda z: ride_loss(z, target, 3 * margins, weight, diversity=0.0)["base"], logits)
    assert gradcheck(lambda z: ride_loss(z, target, margins, base="collaborative")["base"], logits)
    assert gradcheck(lambda z: pairwise_divergence(z, class_temperature(COUNTS).double()), logits)
    teacher = torch.randn(9, CLASSES, dtype=torch.float64)
    assert gradcheck(lambda z: distillation_loss(z, teacher), logits)


@given(
    counts=st.lists(st.integers(1, 100_000), min_size=1, max_size=30),
    spread=st.floats(0, 0.99),
    base=st.floats(0.1, 5),
)
def test_temperatures_peak_at_the_most_frequent_class(counts: list[int], spread: float, base: float) -> None:
    temperature = class_temperature(counts, spread, base)
    assert temperature.max().item() == temperature[torch.tensor(counts).argmax()].item() == pytest.approx(base, rel=1e-5)
    assert (temperature > 0).all()
    assert (temperature[torch.tensor(counts).argsort()].diff() >= 0).all()


def test_mean_temperature_is_base_over_the_largest_factor() -> None:
    largest = 0.05 * CLASSES * max(COUNTS) / sum(COUNTS) + 0.95
    assert class_temperature(COUNTS).mean().item() == pytest.approx(1 / largest, rel=1e-5)


def test_a_temperature_below_zero_is_refused() -> None:
    with pytest.raises(LongTailError, match="lower temperature_spread"):
        class_temperature([100_000] + [1] * 50, spread=0.5, divergence="pairwise")


def test_weights_and_temperatures_start_together_and_can_be_switched_off() -> None:
    logits, target = batch()
    loss, never = RideLoss(COUNTS, reweight_epoch=160), RideLoss(COUNTS, reweight_epoch=-1)
    before, after = loss(logits, target, 160), loss(logits, target, 161)
    assert before["base"] != after["base"] and before["diversity"] != after["diversity"]
    for epoch in (1, 1000):
        assert never(logits, target, epoch) == before


def test_zero_diversity_leaves_individual_losses_alone() -> None:
    logits, target = batch()
    without, with_ = RideLoss(COUNTS, diversity=0.0)(logits, target, 1), RideLoss(COUNTS)(logits, target, 1)
    assert without["diversity"] == 0
    assert without["base"] == with_["base"]


def test_collaborative_loss_judges_the_ensemble() -> None:
    logits, target = batch()
    value = ride_loss(logits, target, base="collaborative")["base"]
    torch.testing.assert_close(value, 3 * F.cross_entropy(logits.mean(0), target))


def test_without_counts_the_loss_is_plain() -> None:
    logits, target = batch()
    value = RideLoss(None)(logits, target, 500)["base"]
    torch.testing.assert_close(value, sum(F.cross_entropy(one, target) for one in logits))


def test_under_autocast_half_precision_logits_are_computed_in_float32() -> None:
    logits, target = batch()
    half, loss = logits.detach().bfloat16(), RideLoss(COUNTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(half, target, 161)
    outside = loss(half.float(), target, 161)
    for name, term in inside.items():
        assert term.dtype == torch.float32
        torch.testing.assert_close(term, outside[name], rtol=0, atol=0)


def test_extreme_logits_stay_finite() -> None:
    logits = torch.zeros(2, 1, CLASSES)
    logits[0, 0, 0], logits[1, 0, 5] = 300, 300
    logits.requires_grad_()
    sum(RideLoss(COUNTS)(logits, torch.tensor([3]), 161).values()).backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_distillation_counts_k_times_or_once() -> None:
    logits, target = batch()
    teacher = torch.randn(9, CLASSES)
    official = DistilledRideLoss(RideLoss(COUNTS), total="official")(logits, teacher, target, 1)
    once = DistilledRideLoss(RideLoss(COUNTS), total="once")(logits, teacher, target, 1)
    assert set(once) == {"base", "diversity", "distillation"}
    for name, term in once.items():
        torch.testing.assert_close(official[name], 3 * term)


def test_the_teacher_gets_no_gradient_and_a_perfect_student_no_loss() -> None:
    logits, _ = batch()
    teacher = torch.randn(9, CLASSES, requires_grad=True)
    distillation_loss(logits, teacher).backward()
    assert teacher.grad is None
    assert distillation_loss(logits, logits.mean(0)).abs() < 1e-6


def test_one_hot_soft_targets_give_the_hard_loss() -> None:
    cosines, target = (batch()[0] / 30).detach().requires_grad_(), batch()[1]
    margins = ldam_margins(COUNTS)
    soft = soft_target_ride_loss(cosines, target, F.one_hot(target, CLASSES).float(), margins, diversity=-0.2)
    hard = ride_loss(30 * cosines, target, 30 * margins, diversity=-0.2)
    torch.testing.assert_close(soft["base"], hard["base"])
    torch.testing.assert_close(soft["diversity"], hard["diversity"] / 3)


def test_soft_target_gradients() -> None:
    logits, target = batch(2, dtype=torch.float64)
    cosines = (logits.detach() / 30).requires_grad_()
    soft = torch.rand(9, CLASSES, dtype=torch.float64).softmax(-1)
    margins, weight = ldam_margins(COUNTS).double(), effective_number_weights(COUNTS).double()
    assert gradcheck(lambda c: soft_target_ride_loss(c, target, soft, margins, 3, weight, diversity=0.0)["base"], cosines)
