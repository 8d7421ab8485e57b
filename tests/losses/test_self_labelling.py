"""Swapped prediction, the feature regulariser and the memory bank."""

import pytest
import torch
from torch import Tensor

from lt_pipeline.errors import LongTailError
from lt_pipeline.losses.self_labelling import MemoryBank, cross_entropy_of_views, feature_drift, swapped_prediction


def views(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 7, 5, generator=generator, dtype=dtype)
    labels = 0.6 * torch.rand(2, 7, 5, generator=generator, dtype=dtype).softmax(-1)
    return logits, labels


def test_each_view_learns_the_labels_of_the_other_and_both_directions_are_added() -> None:
    logits, labels = views()
    log_p = logits.log_softmax(-1)
    expected = -(labels[1] * log_p[0]).sum() / 7 - (labels[0] * log_p[1]).sum() / 7
    torch.testing.assert_close(swapped_prediction(logits, labels), expected)


def test_the_gradient_is_exact_and_none_flows_through_the_labels() -> None:
    logits, labels = views()
    labels.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: swapped_prediction(x, labels), logits.clone().requires_grad_())
    swapped_prediction(logits.requires_grad_(), labels).backward()
    assert labels.grad is None


def test_rows_with_less_mass_count_for_less() -> None:
    logits, labels = views()
    torch.testing.assert_close(swapped_prediction(logits, labels / 2), swapped_prediction(logits, labels) / 2)


def test_hard_and_soft_targets_agree() -> None:
    logits, _ = views()
    hard = torch.tensor([0, 1, 2, 3, 4, 0, 1]).expand(2, -1)
    soft = torch.nn.functional.one_hot(hard, 5).double()
    torch.testing.assert_close(cross_entropy_of_views(logits, hard), cross_entropy_of_views(logits, soft))


def test_half_precision_is_summed_in_single() -> None:
    logits, labels = views(dtype=torch.float32)
    assert swapped_prediction(logits.bfloat16(), labels).dtype == torch.float32


def test_one_view_is_refused() -> None:
    logits, labels = views()
    with pytest.raises(LongTailError, match="2 views, not 1"):
        swapped_prediction(logits[:1], labels[:1])


def test_drift_is_the_mean_square_over_both_views() -> None:
    features, reference = torch.randn(2, 4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    expected = sum(((view - reference) ** 2).mean() for view in features) / 2
    torch.testing.assert_close(feature_drift(features, reference), expected)
    assert torch.autograd.gradcheck(lambda x: feature_drift(x, reference), features.requires_grad_())


def test_the_ring_wraps_and_the_second_view_takes_the_slots_of_the_first() -> None:
    bank = MemoryBank(5, 2)
    bank.pointer.fill_(3)
    first = torch.arange(8.0).view(4, 2).requires_grad_()
    slots = bank.write(first, torch.arange(4))
    assert slots.tolist() == [3, 4, 0, 1] and int(bank.pointer) == 2
    bank.rewind(4)
    again = bank.write(first + 10, torch.arange(4))
    assert again.tolist() == slots.tolist() and int(bank.pointer) == 2
    torch.testing.assert_close(bank.rows[slots], first.detach() + 10)
    assert bank.positions[slots].tolist() == [0, 1, 2, 3]
    assert not bank.rows.requires_grad


def test_a_batch_larger_than_the_ring_is_refused() -> None:
    with pytest.raises(LongTailError, match="batch of 6 does not fit a memory bank of 5"):
        MemoryBank(5, 2).write(torch.zeros(6, 2), torch.arange(6))
