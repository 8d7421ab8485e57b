import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from lt_pipeline.errors import LongTailError
from lt_pipeline.losses.margins import LdamDrw, ldam_loss, ldam_margins, subtract_margins
from lt_pipeline.losses.reweighting import effective_number_weights, reweighting_active, weighted_mean

COUNTS = st.lists(st.integers(1, 500_000), min_size=1, max_size=40)
EXAMPLE = [500, 120, 33, 5]


@given(counts=COUNTS, maximum=st.floats(0.01, 2))
def test_the_rarest_class_has_the_whole_margin_and_rarer_means_wider(counts: list[int], maximum: float) -> None:
    margins = ldam_margins(counts, maximum)
    assert margins.dtype == torch.float32
    assert margins[torch.tensor(counts).argmin()].item() == pytest.approx(maximum, rel=1e-6)
    by_count = margins[torch.tensor(counts).argsort(descending=True)]
    assert (by_count.diff() >= 0).all() and (margins > 0).all()


@given(counts=COUNTS)
def test_weights_sum_to_the_number_of_classes_and_favour_rare_ones(counts: list[int]) -> None:
    weights = effective_number_weights(counts)
    assert weights.double().sum().item() == pytest.approx(len(counts), rel=1e-5)
    assert (weights[torch.tensor(counts).argsort(descending=True)].diff() >= 0).all()


def test_a_count_of_one_keeps_its_digits() -> None:
    weights = effective_number_weights([1, 2])
    assert (weights[0] / weights[1]).item() == pytest.approx(1.9999, abs=1e-6)


@pytest.mark.parametrize("function", [ldam_margins, effective_number_weights])
def test_a_class_without_images_is_named(function) -> None:
    with pytest.raises(LongTailError, match="Class 1 has 0 training images"):
        function([5, 0, 3])


def test_counts_may_be_a_list_an_array_or_a_tensor() -> None:
    expected = ldam_margins(EXAMPLE)
    for counts in (tuple(EXAMPLE), torch.tensor(EXAMPLE), torch.tensor(EXAMPLE).numpy()):
        torch.testing.assert_close(ldam_margins(counts), expected)


def test_only_the_target_logit_moves() -> None:
    logits, target = torch.zeros(2, 3, 4), torch.tensor([0, 3, 2])
    moved = subtract_margins(logits, target, torch.tensor([1.0, 2.0, 3.0, 4.0]))
    for expert in moved:
        assert expert.nonzero().tolist() == [[0, 0], [1, 3], [2, 2]]
        assert expert[range(3), target].tolist() == [-1, -4, -3]


def test_a_batch_of_one_class_weighs_nothing() -> None:
    logits, target = torch.randn(6, 4), torch.full((6,), 2)
    margins, weights = ldam_margins(EXAMPLE), effective_number_weights(EXAMPLE)
    torch.testing.assert_close(ldam_loss(logits, target, margins, 30, weights), ldam_loss(logits, target, margins, 30))


def test_gradients() -> None:
    target = torch.tensor([0, 3, 3, 1])
    margins, weights = ldam_margins(EXAMPLE).double(), effective_number_weights(EXAMPLE).double()
    logits = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda z: ldam_loss(z, target, margins, 3, weights), logits)


def test_the_weighted_mean_is_pytorchs() -> None:
    logits, target = torch.randn(8, 4), torch.randint(4, (8,))
    margins, weights = ldam_margins(EXAMPLE), effective_number_weights(EXAMPLE)
    expected = F.cross_entropy(subtract_margins(logits, target, 30 * margins), target, weight=weights)
    torch.testing.assert_close(ldam_loss(logits, target, margins, 30, weights), expected)


@pytest.mark.parametrize(("epoch", "reweight_epoch", "active"), [(160, 160, False), (161, 160, True), (1, -1, False), (1, 0, True)])
def test_deferred_weights_start_after_their_epoch(epoch: int, reweight_epoch: int, active: bool) -> None:
    assert reweighting_active(epoch, reweight_epoch) is active
    logits, target = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 0])
    loss = LdamDrw(EXAMPLE, reweight_epoch=reweight_epoch)
    plain = ldam_loss(logits, target, loss.margins)
    assert torch.equal(loss(logits, target, epoch), plain) is not active


def test_modules_keep_constants_out_of_the_state() -> None:
    loss = LdamDrw(EXAMPLE)
    assert not loss.state_dict()
    assert {name for name, _ in loss.named_buffers()} == {"margins", "weights"}


def test_under_autocast_half_precision_logits_are_computed_in_float32() -> None:
    logits, target, loss = (30 * torch.randn(8, 4)).bfloat16(), torch.randint(4, (8,)), LdamDrw(EXAMPLE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(logits, target, 200)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(logits.float(), target, 200), rtol=0, atol=0)


def test_without_ranks_the_global_mean_is_the_local_one() -> None:
    values, weights = torch.rand(5), torch.rand(5)
    torch.testing.assert_close(weighted_mean(values, weights, across_ranks=True), weighted_mean(values, weights))
