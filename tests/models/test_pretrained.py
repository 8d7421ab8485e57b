from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import resnet50

from lt_pipeline.errors import LongTailError
from lt_pipeline.models.adaptive import build_adaptive
from lt_pipeline.models.depth_fusion import build_depth_fused
from lt_pipeline.models.posthoc import PostHocAdjusted
from lt_pipeline.models.pretrained import freeze, load_pretrained, torchvision_name
from lt_pipeline.models.registry import build_experts


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "resnet50.safetensors"
    save_file(resnet50(weights=None).state_dict(), file)
    return file


def test_every_weight_but_the_classifiers_comes_from_the_file(published: Path) -> None:
    plain = resnet50(weights=None)
    from safetensors.torch import load_file

    plain.load_state_dict(load_file(published))
    ours = build_experts("resnet50", 7, 2, reduce_dimension=False)
    head = ours.expert1.classifier.weight.clone()
    load_pretrained(ours, published)
    images = torch.randn(2, 3, 64, 64)
    plain.fc = torch.nn.Identity()
    features = ours.eval()(images)["features"]
    torch.testing.assert_close(features[0], plain.eval()(images))
    torch.testing.assert_close(features[0], features[1])
    assert torch.equal(ours.expert1.classifier.weight, head)


def test_depth_fused_networks_start_from_the_same_file(published: Path) -> None:
    model = build_depth_fused("resnet50", 7, 2)
    load_pretrained(model, published)
    torch.testing.assert_close(model.expert0.last.block0.conv2.weight, model.expert1.last.block0.conv2.weight)


def test_narrower_networks_and_foreign_files_are_refused(published: Path, tmp_path: Path) -> None:
    with pytest.raises(LongTailError, match=r"reduce_dimension=false"):
        load_pretrained(build_experts("resnet50", 7, 2), published)
    with pytest.raises(LongTailError, match=r"lacks 'layer3\.6"):
        load_pretrained(build_experts("resnet101", 7, 1, False), published)
    other = tmp_path / "weights.pth"
    other.write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(LongTailError, match="only safetensors is read"):
        load_pretrained(build_experts("resnet50", 7, 1, False), other)


def test_a_checkpoint_of_ours_gives_everything_but_the_classifier(tmp_path: Path) -> None:
    trained = PostHocAdjusted(build_adaptive("resnet32", 9, blocks=(1, 1, 1)), torch.zeros(9))
    save_file(trained.state_dict(), tmp_path / "model.safetensors")
    fresh = build_adaptive("resnet32", 4, blocks=(1, 1, 1))
    load_pretrained(fresh, tmp_path / "model.safetensors")
    ours, theirs = dict(fresh.named_parameters()), dict(trained.network.named_parameters())
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if ".classifier." not in name)


def test_parts_are_frozen_by_name() -> None:
    model = build_experts("resnet32", 7, 2)
    freeze(model, ("stem", "stage1"))
    assert {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad} == {"expert0", "expert1"}
    with pytest.raises(LongTailError, match="no part 'stage7'; there are stem, stage1, expert0"):
        freeze(model, ("stage7",))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("stem.conv.weight", "conv1.weight"),
        ("expert2.stage4.block1.bn3.bias", "layer4.1.bn3.bias"),
        ("expert0.last.block0.downsample.bn.weight", "layer4.0.downsample.1.weight"),
        ("expert0.classifier.weight", None),
        ("expert0.align.step0.conv.weight", None),
    ],
)
def test_names(ours: str, theirs: str | None) -> None:
    assert torchvision_name(ours) == theirs
