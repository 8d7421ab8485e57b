import pytest
import torch
from torch import nn

from lt_pipeline.errors import LongTailError
from lt_pipeline.models.blocks import ZeroPadShortcut
from lt_pipeline.models.complexity import parameter_count
from lt_pipeline.models.registry import BACKBONES, build_experts
from lt_pipeline.models.resnet_cifar import resnet_cifar
from lt_pipeline.models.resnet_imagenet import resnet_imagenet


def small(experts: int = 2, cosine_head: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return resnet_cifar(7, experts, blocks=(1, 1, 1), widths=(16, 24, 48), cosine_head=cosine_head)


@pytest.mark.parametrize("side", [8, 16, 28, 31, 32, 64, 96])
@pytest.mark.parametrize("experts", [1, 3])
def test_any_small_image_side_works(side: int, experts: int) -> None:
    outputs = small(experts)(torch.randn(2, 3, side, side))
    assert outputs["logits"].shape == (2, 7)
    assert outputs["expert_logits"].shape == (experts, 2, 7)
    assert outputs["features"].shape == (experts, 2, 48)


def test_images_need_not_be_square() -> None:
    assert small()(torch.randn(2, 3, 20, 33))["logits"].shape == (2, 7)


def test_the_ensemble_is_the_mean_of_scaled_logits() -> None:
    outputs = small(3)(torch.randn(2, 3, 16, 16))
    torch.testing.assert_close(outputs["logits"], outputs["expert_logits"].mean(0))
    assert outputs["expert_logits"].abs().max() > 1  # the scale is in
    assert outputs["expert_logits"].abs().max() <= 30 + 1e-4


def test_state_names_are_those_of_the_fixtures() -> None:
    names = set(small(2, cosine_head=False).state_dict())
    for name in (
        "stem.conv.weight",
        "stem.bn.running_mean",
        "stage1.block0.conv1.weight",
        "expert0.stage2.block0.bn2.weight",
        "expert1.stage3.block0.conv2.weight",
        "expert1.classifier.weight",
        "expert1.classifier.bias",
    ):
        assert name in names
    assert not any("downsample" in name or "shortcut" in name for name in names)


def test_imagenet_state_names() -> None:
    shared_two = set(resnet_imagenet(5, 2, (1, 1, 1, 1), (64, 128, 16, 16)).state_dict())
    assert {
        "stage2.block0.downsample.conv.weight",
        "expert1.stage3.block0.downsample.bn.bias",
        "expert0.stage4.block0.conv3.weight",
    } <= shared_two
    shared_three = set(resnet_imagenet(5, 2, (1, 1, 1, 1), (64, 128, 16, 16), share_stage3=True).state_dict())
    assert "stage3.block0.conv1.weight" in shared_three
    assert not any(name.startswith("expert0.stage3") for name in shared_three)


@pytest.mark.parametrize(
    ("backbone", "classes", "experts", "reduced", "parameters"),
    [
        ("resnet32", 100, 1, False, 469904),
        ("resnet32", 100, 2, True, 530512),
        ("resnet32", 100, 6, True, 1543888),
        ("resnet10", 1000, 3, True, 9401792),
        ("resnet50", 8142, 3, True, 76587584),
        ("resnet152", 365, 3, False, 171543616),
    ],
)
def test_parameter_totals_are_the_published_ones(backbone: str, classes: int, experts: int, reduced: bool, parameters: int) -> None:
    with torch.device("meta"):
        assert parameter_count(build_experts(backbone, classes, experts, reduced)) == parameters


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_runs(backbone: str) -> None:
    model = build_experts(backbone, 4, 1).eval()
    with torch.no_grad():
        outputs = model(torch.rand(1, 3, 32, 32))
    assert outputs["logits"].shape == (1, 4)
    assert outputs["features"].shape == (1, 1, model.feature_dim)
    assert outputs["logits"].isfinite().all()


def test_a_mistyped_backbone_gets_a_suggestion() -> None:
    with pytest.raises(LongTailError, match=r"Unknown backbone 'resnet_50'.*Did you mean 'resnet50'"):
        build_experts("resnet_50", 10, 3)


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(LongTailError, match="at least 1"):
        build_experts("resnet32", 10, 0)
    with pytest.raises(LongTailError, match="share_stage3"):
        build_experts("resnet32", 10, 2, share_stage3=True)


def test_the_zero_padded_shortcut_places_channels_in_the_middle() -> None:
    x = torch.randn(1, 2, 5, 6)
    y = ZeroPadShortcut(2, 6, 2)(x)
    assert y.shape == (1, 6, 3, 3)
    assert y[:, :2].abs().sum() == y[:, 4:].abs().sum() == 0
    torch.testing.assert_close(y[:, 2:4], x[:, :, ::2, ::2], rtol=0, atol=0)
    with pytest.raises(ValueError, match="even"):
        ZeroPadShortcut(16, 25, 2)


def test_channels_last_gives_the_same_and_never_falls_back_to_another_layout() -> None:
    model, images = small().eval(), torch.randn(3, 3, 16, 16)
    expected = model(images)["expert_logits"]
    model.to(memory_format=torch.channels_last)
    strays = []

    def watch(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, torch.Tensor) and output.ndim == 4 and not output.is_contiguous(memory_format=torch.channels_last):
            strays.append(module)

    for module in model.modules():
        module.register_forward_hook(watch)
    actual = model(images.contiguous(memory_format=torch.channels_last))["expert_logits"]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert not strays


@pytest.mark.parametrize("cosine_head", [True, False])
def test_under_bfloat16_the_heads_stay_in_float32(cosine_head: bool) -> None:
    model, images = small(2, cosine_head).eval(), torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(images)
        assert model.stem.conv(images).dtype == torch.bfloat16
    assert {tensor.dtype for tensor in outputs.values()} == {torch.float32}
    expected = model.expert0.classifier(outputs["features"][0])
    torch.testing.assert_close(outputs["expert_logits"][0], expected, rtol=0, atol=0)


def test_every_parameter_is_trained_and_experts_start_apart() -> None:
    model = small(2)
    outputs = model(torch.randn(4, 3, 8, 8))
    (outputs["expert_logits"] ** 2).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    assert not torch.equal(model.expert0.stage2.block0.conv1.weight, model.expert1.stage2.block0.conv1.weight)


def test_initial_weights_follow_the_recipe() -> None:
    torch.manual_seed(0)
    cifar = build_experts("resnet32", 100, 1, reduce_dimension=False)
    weight = cifar.expert0.stage3.block1.conv1.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.03)
    assert cifar.expert0.classifier.weight.norm(dim=0).sub(1).abs().max() < 1e-5
    large = build_experts("resnext50", 10, 1)
    grouped = large.expert0.stage4.block1.conv2.weight
    assert grouped.std().item() == pytest.approx((2 / (9 * grouped.shape[0])) ** 0.5, rel=0.03)
    assert all((module.weight == 1).all() for module in large.modules() if isinstance(module, nn.BatchNorm2d))
