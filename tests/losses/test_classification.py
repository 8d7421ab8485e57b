import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from lt_pipeline.errors import LongTailError
from lt_pipeline.losses.classification import (
    cross_entropy,
    focal_loss,
    log_prior,
    logit_adjusted_cross_entropy,
    tau_normalise,
)

COUNTS = [500, 120, 33, 5]


def batch(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 4, dtype=dtype, generator=generator).requires_grad_(), torch.randint(4, (8,), generator=generator)


def test_focusing_by_zero_is_cross_entropy() -> None:
    logits, target = batch()
    torch.testing.assert_close(focal_loss(logits, target, gamma=0.0), cross_entropy(logits, target))


@given(gamma=st.floats(0, 5))
def test_focusing_only_lowers_the_loss(gamma: float) -> None:
    logits, target = batch()
    assert focal_loss(logits, target, gamma) <= cross_entropy(logits, target) + 1e-6


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_gradient_is_finite_for_a_certain_sample(gamma: float) -> None:
    logits = torch.tensor([[60.0, -60.0]], requires_grad=True)
    focal_loss(logits, torch.tensor([0]), gamma).backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_gradients(gamma: float) -> None:
    logits, target = batch(torch.float64)
    weight = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
    assert gradcheck(lambda z: focal_loss(z, target, gamma, weight), logits)


def test_cross_entropy_gradients() -> None:
    logits, target = batch(torch.float64)
    weight = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
    assert gradcheck(lambda z: cross_entropy(z, target, weight), logits)
    assert gradcheck(lambda z: logit_adjusted_cross_entropy(z, target, log_prior(COUNTS).double()), logits)


def test_both_forms_of_the_prior_give_the_same_loss() -> None:
    logits, target = batch()
    losses = [logit_adjusted_cross_entropy(logits, target, log_prior(COUNTS, form=form)) for form in ("freq", "counts_pow")]
    torch.testing.assert_close(*losses)


def test_balanced_softmax_is_the_count_weighted_softmax() -> None:
    logits, target = batch()
    weighted = logits.exp() * torch.tensor(COUNTS)
    expected = -(weighted / weighted.sum(1, keepdim=True))[range(8), target].log().mean()
    torch.testing.assert_close(logit_adjusted_cross_entropy(logits, target, log_prior(COUNTS)), expected)


def test_equal_counts_adjust_nothing() -> None:
    logits, target = batch()
    torch.testing.assert_close(logit_adjusted_cross_entropy(logits, target, log_prior([7] * 4, tau=2.5)), F.cross_entropy(logits, target))


def test_raw_counts_survive_large_tau() -> None:
    prior = log_prior([437_513, 2], tau=2.5)
    assert (prior[0] - prior[1]).item() == pytest.approx(2.5 * math.log(437_513 / 2), rel=1e-5)


def test_a_prior_needs_every_class() -> None:
    with pytest.raises(LongTailError, match="Class 2 has 0"):
        log_prior([5, 4, 0], tau=-0.5)


@given(tau=st.floats(0, 1))
def test_tau_normalisation_levels_row_lengths(tau: float) -> None:
    weight = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    lengths = tau_normalise(weight, tau).norm(dim=1)
    assert lengths[0].item() == pytest.approx(5 ** (1 - tau), rel=1e-5)
    assert lengths[1].item() == pytest.approx(0.5 ** (1 - tau), rel=1e-5)
    assert lengths[2].item() == 0
