import numpy as np
import pytest
import torch

from lt_pipeline.errors import LongTailError
from lt_pipeline.losses.binary import binary_cross_entropy, gumbel_cross_entropy, gumbel_scores
from lt_pipeline.losses.inverse_frequency import inverse_image_frequency


def test_the_gumbel_loss_is_cross_entropy_of_its_scores_and_has_the_right_gradient() -> None:
    logits = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = torch.eye(4, dtype=torch.float64)[[0, 1, 2, 3, 0]]
    scores = gumbel_scores(logits)
    expected = torch.nn.functional.binary_cross_entropy(scores, target, reduction="sum") / 5
    torch.testing.assert_close(gumbel_cross_entropy(logits, target), expected)
    assert torch.autograd.gradcheck(lambda x: gumbel_cross_entropy(x, target), logits)


@pytest.mark.parametrize("value", [-1e4, -10.0, 10.0, 1e4])
def test_the_gumbel_loss_is_finite_everywhere(value: float) -> None:
    logits = torch.full((1, 2), value, requires_grad=True)
    gumbel_cross_entropy(logits, torch.tensor([[1.0, 0.0]])).backward()
    assert logits.grad.isfinite().all()


def test_sum_divides_by_the_positives() -> None:
    logits, target = torch.randn(3, 4), torch.eye(4)[:3]
    torch.testing.assert_close(
        binary_cross_entropy(logits, target, reduction="sum") * 3, binary_cross_entropy(logits, target, reduction="mean") * 12
    )


def test_raw_is_logit_adjustment_and_every_variant_prefers_the_rare() -> None:
    counts = [500, 60, 7]
    prior = np.log(np.array(counts) / 567)
    assert inverse_image_frequency(counts, "raw").numpy() == pytest.approx(-prior, rel=1e-6)
    for variant in ("rel", "raw", "smooth", "normit", "gombit", "base2", "base10"):
        offsets = inverse_image_frequency(counts, variant)
        assert offsets.isfinite().all() and (offsets[1:] > offsets[:-1]).all()


def test_one_class_is_refused() -> None:
    with pytest.raises(LongTailError, match="at least 2 classes"):
        inverse_image_frequency([5])
