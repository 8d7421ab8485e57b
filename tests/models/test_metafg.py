import copy

import pytest
import torch
from torch import Tensor

from lt_pipeline.errors import LongTailError
from lt_pipeline.models.complexity import macs, parameter_count
from lt_pipeline.models.metadata_encoder import MetadataShape
from lt_pipeline.models.metafg.network import Architecture, MetaFG, build_metafg
from lt_pipeline.models.metafg.resize import resize_bias_table

PLACE_AND_DATE = MetadataShape((4, 3))


def micro(metadata: MetadataShape | None = None, side: int = 32, **options: bool) -> MetaFG:
    torch.manual_seed(0)
    return build_metafg("metafg_micro", 5, side, metadata, **options)


def images(number: int = 4, side: int = 32) -> Tensor:
    return torch.randn(number, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("size", "side", "parameters", "gmacs"),
    [(0, 224, 28_721_195, 4.72), (0, 384, 28_786_155, 14.71), (1, 224, 45_873_035, 8.84), (2, 224, 81_299_563, 17.49)],
)
def test_published_sizes(size: int, side: int, parameters: int, gmacs: float) -> None:
    network = build_metafg(f"metafg_{size}", 1000, side)
    assert parameter_count(network) == parameters
    assert macs(network, (side, side)) / 1e9 == pytest.approx(gmacs, abs=0.005)


def test_sides_that_are_no_multiple_of_32_are_refused() -> None:
    with pytest.raises(LongTailError, match="multiple of 32, not 100"):
        micro(side=100)
    with pytest.raises(LongTailError, match=r"made for images of 32x32 pixels, not 64x64.*image_size"):
        micro()(images(side=64))


def test_no_metadata_is_missing_metadata_and_what_is_missing_counts_as_zero() -> None:
    network, batch = micro(PLACE_AND_DATE).eval(), images()
    metadata = torch.randn(4, 7)
    metadata[0] = torch.nan
    metadata[1, 4:] = torch.nan
    with torch.no_grad():
        answers = network(batch, metadata)["logits"]
        without = network(batch)["logits"]
        zeros = network(batch, metadata.nan_to_num(nan=0.0))["logits"]
    assert network.takes_metadata and not micro().takes_metadata
    torch.testing.assert_close(answers[0], without[0])
    torch.testing.assert_close(answers, zeros)
    assert not torch.allclose(answers[1:], without[1:], atol=1e-3)


def test_texts_bring_a_token_each() -> None:
    text = MetadataShape((6,), tokens=5)
    network = micro(text).eval()
    assert network.stage3.extra_tokens == network.stage4.extra_tokens == 6
    assert network(images(), torch.randn(4, 5, 6))["logits"].shape == (4, 5)
    with pytest.raises(LongTailError, match=r"shape \(4, 4, 6\) does not fit this network, which takes \(4, 5, 6\)"):
        network(images(), torch.randn(4, 4, 6))
    with pytest.raises(LongTailError, match="several tokens must be one group"):
        MetadataShape((6, 3), tokens=5)


def test_checkpointing_changes_neither_gradients_nor_statistics() -> None:
    plain = micro(PLACE_AND_DATE, last_only=False).double().train()
    saved = micro(PLACE_AND_DATE, checkpointed=True).double().train()
    saved.load_state_dict(plain.state_dict())
    batch, metadata = images().double(), torch.randn(4, 7, dtype=torch.float64)
    for network in (plain, saved):
        for _ in range(2):
            network(batch, metadata)["logits"].square().sum().backward()
    for (name, ours), theirs in zip(saved.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)
    for (name, kept), theirs in zip(saved.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(kept, theirs, rtol=0, atol=0, msg=name)
    assert saved.stage1[0].depthwise_norm.num_batches_tracked == 2


def test_checkpointing_keeps_less_and_repeats_the_draws_of_stochastic_depth() -> None:
    architecture = Architecture((8, 8, 8), (16, 16), (2, 2), (1, 1), 2)
    torch.manual_seed(0)
    plain = MetaFG(architecture, 3, 32, drop_path=0.5)
    saved = MetaFG(architecture, 3, 32, drop_path=0.5, checkpointed=True)
    saved.load_state_dict(plain.state_dict())
    gradients, kept = [], []
    for network in (plain, saved):
        sizes: list[int] = []
        torch.manual_seed(3)
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor, sizes=sizes: (sizes.append(tensor.numel()), tensor)[1], lambda x: x):
            loss = network(images(8))["logits"].square().sum()
        loss.backward()
        gradients.append(network.stem.conv1.weight.grad)
        kept.append(sum(sizes))
    torch.testing.assert_close(gradients[0], gradients[1])
    assert kept[1] < 0.7 * kept[0]


def test_stochastic_depth_drops_whole_branches_and_keeps_the_mean() -> None:
    from lt_pipeline.models.metafg.convolution import StochasticDepth

    torch.manual_seed(0)
    drop, branch = StochasticDepth(0.25).train(), torch.ones(4000, 2, 3)
    dropped = drop(branch)
    values = dropped.flatten(1)
    assert (values == values[:, :1]).all()
    torch.testing.assert_close(values.unique(), torch.tensor([0, 4 / 3]))
    assert dropped.mean().item() == pytest.approx(1, abs=0.05)
    assert drop.eval()(branch) is branch


def test_half_precision_stays_close() -> None:
    network, metadata = micro(PLACE_AND_DATE).eval(), torch.randn(4, 7)
    with torch.no_grad():
        exact = network(images(), metadata)["logits"]
        with torch.autocast("cpu", torch.bfloat16):
            half = network(images(), metadata)["logits"]
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, rtol=0.1, atol=0.05)


def test_every_parameter_learns_but_the_unread_row_of_the_bias_tables() -> None:
    network = micro(PLACE_AND_DATE).double().train()
    network(images().double(), torch.randn(4, 7, dtype=torch.float64))["logits"].square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        if name.endswith("bias_table"):
            assert (parameter.grad[-1] == 0).all() and (parameter.grad[:-1] != 0).any(), name


def bump(grid: int) -> Tensor:
    """A table whose bias falls with the distance of two tokens, as a share of the table's side; the unread row is 7."""
    offsets = torch.arange(2 * grid - 1) - (grid - 1)
    line = torch.exp(-((offsets / (2 * grid - 1)) ** 2) / 0.05)
    return torch.cat([torch.outer(line, line).flatten(), torch.tensor([7.0])])[:, None].repeat(1, 2)


def test_the_aligned_rule_keeps_a_centred_bias_centred() -> None:
    table = bump(7)
    table[0] = 5.0  # what the extra tokens read; its neighbours are not compared
    aligned, published = resize_bias_table(table, 12), resize_bias_table(table, 12, "published")
    assert aligned.shape == published.shape == (23**2 + 1, 2)
    assert (aligned[0] == 5).all() and (published[0] == 5).all() and (aligned[-1] == 7).all()

    def error(resized: Tensor, rows: slice) -> float:
        picture, wanted = resized[rows].view(23, 23, 2)[5:-5, 5:-5], bump(12)[:-1].view(23, 23, 2)[5:-5, 5:-5]
        return (picture - wanted).abs().max().item()

    assert error(aligned, slice(0, -1)) < 0.03 < 0.06 < error(published, slice(0, -1))
    assert resize_bias_table(table, 7) is table


def test_resizing_keeps_the_answers_close_on_a_smooth_image() -> None:
    from lt_pipeline.models.metafg.resize import resized_state

    small, large = micro(side=64).eval(), micro(side=96).eval()
    before = copy.deepcopy(large.state_dict())
    large.load_state_dict(resized_state(small.state_dict(), 96))
    changed = {name for name, tensor in large.state_dict().items() if tensor.shape != small.state_dict()[name].shape}
    assert changed == {"stage3.0.attn.bias_table", "stage4.0.attn.bias_table"}
    assert before.keys() == large.state_dict().keys()
    assert large(images(side=96))["logits"].isfinite().all()
