import pytest
import torch
from torch import nn

from lt_pipeline.errors import LongTailError
from lt_pipeline.models.complexity import macs_per_depth, parameter_count
from lt_pipeline.models.depth_fusion import AlignBranch, build_depth_fused, depth_of_expert


@pytest.mark.parametrize("side", [8, 15, 28, 33])
@pytest.mark.parametrize("experts", [2, 5])
def test_any_small_image_side_and_number_of_experts(side: int, experts: int) -> None:
    outputs = build_depth_fused("resnet32", 7, experts, blocks=(1, 1, 1))(torch.randn(2, 3, side, side))
    assert outputs["expert_logits"].shape == (experts, 2, 7)
    assert outputs["features"].shape == (experts, 2, 64)


@pytest.mark.parametrize("align", ["full", "bottleneck", "separable"])
def test_large_images(align: str) -> None:
    model = build_depth_fused("resnet50", 4, 3, blocks=(1, 1, 1, 1), align_conv=align)
    outputs = model(torch.randn(1, 3, 65, 64))
    assert outputs["features"].shape == (3, 1, 2048)
    assert (macs_per_depth(model, (64, 64))[1:] > macs_per_depth(model, (64, 64))[:-1]).all()


def test_experts_take_turns_from_the_shallowest_map() -> None:
    assert [depth_of_expert(index, 2) for index in range(5)] == [(0, 2), (1, 1), (0, 2), (1, 1), (0, 2)]
    assert [depth_of_expert(index, 3) for index in range(4)] == [(0, 3), (1, 2), (2, 1), (0, 3)]


@pytest.mark.parametrize(
    ("rule", "steps", "expected"),
    [("official", 1, [1]), ("official", 2, [1, 0]), ("official", 3, [1, 0, 1]), ("all", 3, [1, 1, 1]), ("all_but_last", 3, [1, 1, 0])],
)
def test_where_the_align_branch_has_a_relu(rule: str, steps: int, expected: list[int]) -> None:
    assert [isinstance(step.act, nn.ReLU) for step in AlignBranch(8, steps, relu=rule)] == [bool(value) for value in expected]


def test_parameter_totals() -> None:
    with torch.device("meta"):
        small = build_depth_fused("resnet32", 100, 3)
        large = build_depth_fused("resnet50", 1000, 3)
        resnext = build_depth_fused("resnext50", 1000, 3)
    assert parameter_count(small) == 1_277_008 - 19_200  # one kind of heads here
    millions = {"full": 133.0, "resnext": 131.6}  # the specification counts both kinds of heads
    heads = sum(parameter_count(expert.classifier) for expert in large.experts)
    assert round((parameter_count(large) + heads) / 1e6, 1) == millions["full"]
    assert round((parameter_count(resnext) + heads) / 1e6, 1) == millions["resnext"]


def test_a_sample_whose_features_vanish_gets_zero_logits_and_finite_gradients() -> None:
    model = build_depth_fused("resnet32", 5, 2, blocks=(1, 1, 1))
    nn.init.zeros_(model.expert1.align.step0.bn.weight)  # a rectified zero map
    outputs = model(torch.randn(3, 3, 16, 16))
    assert (outputs["expert_logits"][1] == 0).all()
    outputs["logits"].sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


def test_an_unknown_backbone_is_named() -> None:
    with pytest.raises(LongTailError, match=r"Did you mean 'resnet32'"):
        build_depth_fused("resnet23", 5, 2)
