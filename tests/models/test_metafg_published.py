"""Files in the layout of the authors' release, made here from random weights."""

import pickle
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lt_pipeline.errors import LongTailError
from lt_pipeline.models.metadata_encoder import MetadataShape
from lt_pipeline.models.metafg.attention import relative_position_index
from lt_pipeline.models.metafg.network import MetaFG, build_metafg
from lt_pipeline.models.metafg.published import load_metafg, our_name

GEO = MetadataShape((4, 3))
THEIRS = (
    (r"^stem\.conv(\d)", lambda m: f"stage_0.{ {'1': 0, '2': 3, '3': 6}[m[1]] }"),
    (r"^stem\.norm3", "bn1"),
    (r"^stem\.norm(\d)", lambda m: f"stage_0.{ {'1': 1, '2': 4}[m[1]] }"),
    (r"^(stage[12])\.(\d+)\.(expand|depthwise|project)\.", r"\1.\2._\3_conv."),
    (r"^(stage[12])\.(\d+)\.expand_norm", r"\1.\2._bn0"),
    (r"^(stage[12])\.(\d+)\.depthwise_norm", r"\1.\2._bn1"),
    (r"^(stage[12])\.(\d+)\.project_norm", r"\1.\2._bn2"),
    (r"^(stage[12])\.(\d+)\.se_", r"\1.\2._se_"),
    (r"^stage3\.cls_token", "cls_token_1"),
    (r"^stage4\.cls_token", "cls_token_2"),
    (r"downsample\.conv", "patch_embed.proj"),
    (r"downsample\.norm", "patch_embed.norm"),
    (r"attn_norm", "norm1"),
    (r"mlp_norm", "norm2"),
    (r"attn\.bias_table", "attn.relative_position_bias_table"),
    (r"attn\.out", "attn.proj"),
    (r"^aggregate\.norm_stage3", "norm_1"),
    (r"^aggregate\.norm_stage4", "norm_2"),
    (r"^aggregate\.lift_norm", "cl_1_fc.1"),
    (r"^aggregate\.lift\.", "cl_1_fc.0."),
    (r"^aggregate\.mix", "aggregate"),
    (r"^aggregate\.norm_out", "norm"),
    (r"^meta\.(\d)\.stage(\d)\.fc", lambda m: f"meta_{int(m[1]) + 1}_head_{int(m[2]) - 2}.0"),
    (r"^meta\.(\d)\.stage(\d)\.norm", lambda m: f"meta_{int(m[1]) + 1}_head_{int(m[2]) - 2}.2"),
    (r"^meta\.(\d)\.stage(\d)\.res\.fc(\d)", lambda m: f"meta_{int(m[1]) + 1}_head_{int(m[2]) - 2}.3.w{m[3]}"),
    (r"^meta\.(\d)\.stage(\d)\.res\.norm(\d)", lambda m: f"meta_{int(m[1]) + 1}_head_{int(m[2]) - 2}.3.norm_fn{m[3]}"),
    (r"^stage(\d)", r"stage_\1"),
)


def their_name(ours: str) -> str:
    for pattern, replacement in THEIRS:
        ours = re.sub(pattern, replacement, ours)
    return ours


def network(side: int = 64, classes: int = 5, metadata: MetadataShape | None = GEO, seed: int = 0) -> MetaFG:
    torch.manual_seed(seed)
    return build_metafg("metafg_micro", classes, side, metadata)


def released(model: MetaFG) -> dict[str, Tensor]:
    """Names, shapes and buffers as the authors' code saves them."""
    state = {their_name(name): tensor.clone() for name, tensor in model.state_dict().items()}
    for stage, side in ((3, model.image_size // 16), (4, model.image_size // 32)):
        state[f"stage_{stage}.0.attn.relative_position_index"] = relative_position_index(side, side, 3)
    return state


def save(content: Any, folder: Path) -> str:
    path = folder / "released.pth"
    torch.save(content, path)
    return str(path)


def test_names_map_one_to_one() -> None:
    names = list(network().state_dict())
    assert [our_name(their_name(name)) for name in names] == names
    assert len({their_name(name) for name in names}) == len(names)
    for example in (
        "stage_1.0._expand_conv.weight",
        "cls_token_2",
        "meta_2_head_1.3.norm_fn2.bias",
        "cl_1_fc.0.fc1.weight",
        "norm_2.bias",
        "bn1.weight",
    ):
        assert example in {their_name(name) for name in names}
    assert our_name("layer1.0.conv1.weight") is None


@pytest.mark.parametrize("container", ["model", "state_dict_ema", None])
def test_a_released_file_fills_everything_but_head_and_metadata(tmp_path: Path, container: str | None) -> None:
    source, target = network(seed=1), network(classes=9, seed=2)
    state = released(source)
    load_metafg(target, save({container: state, "epoch": 3} if container else state, tmp_path))
    fresh = network(classes=9, seed=2).state_dict()
    for name, tensor in target.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        expected = fresh if name.startswith(("head.", "meta.")) else source.state_dict()
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0, msg=name)


def test_head_and_metadata_are_kept_on_request_and_answers_are_the_same(tmp_path: Path) -> None:
    source, target = network(seed=1).eval(), network(seed=2).eval()
    load_metafg(target, save({"model": released(source)}, tmp_path), head=True, metadata=True)
    images, metadata = torch.randn(2, 3, 64, 64), torch.randn(2, 7)
    torch.testing.assert_close(target(images, metadata)["logits"], source(images, metadata)["logits"])


def test_a_file_for_metadata_serves_images_alone_at_another_resolution(tmp_path: Path) -> None:
    source, target = network(seed=1), network(side=96, metadata=None, seed=2)
    load_metafg(target, save({"model": released(source)}, tmp_path))
    torch.testing.assert_close(target.stage4.cls_token, source.stage4.cls_token)
    assert target(torch.randn(2, 3, 96, 96))["logits"].isfinite().all()


def test_a_checkpoint_of_ours_goes_on_at_another_resolution(tmp_path: Path) -> None:
    source, target = network(seed=1), network(side=96, seed=2)
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    load_metafg(target, str(tmp_path), head=True, metadata=True)
    assert target.stage3.get_submodule("0.attn").bias_table.shape == (122, 4)
    torch.testing.assert_close(target.head.weight, source.head.weight, rtol=0, atol=0)
    torch.testing.assert_close(target.meta[1]["stage4"].fc.weight, source.meta[1]["stage4"].fc.weight, rtol=0, atol=0)


def test_settings_of_the_authors_library_are_read_without_running_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, module = types.ModuleType("yacs"), types.ModuleType("yacs.config")
    node = type("CfgNode", (dict,), {"__module__": "yacs.config"})
    module.CfgNode = package.config = node  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "yacs", package)
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    settings = node(MODEL=node(NAME="MetaFG_0"))
    settings.__dict__["__immutable__"] = True
    path = save({"model": released(network(seed=1)), "config": settings, "optimizer": {"state": {}}}, tmp_path)
    monkeypatch.undo()
    target = network(seed=2)
    load_metafg(target, path)
    torch.testing.assert_close(target.stem.conv1.weight, network(seed=1).stem.conv1.weight)


def test_a_file_that_runs_code_is_not_loaded(tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (mark,))

    (tmp_path / "bad.pth").write_bytes(pickle.dumps({"model": Malicious()}, protocol=2))
    for path in (str(tmp_path / "bad.pth"), save({"model": released(network()), "config": Malicious()}, tmp_path)):
        with pytest.raises(LongTailError, match=r"holds more than tensors|cannot read"):
            load_metafg(network(), path)
    assert not mark.exists()


def test_wrong_files_are_named(tmp_path: Path) -> None:
    state = released(network(seed=1))
    with pytest.raises(LongTailError, match=r"timm's MetaFormer family.*only shares its name"):
        load_metafg(network(), save({"stages.0.blocks.0.token_mixer.weight": torch.zeros(2)}, tmp_path))
    with pytest.raises(LongTailError, match=r"has a weight 'layer1\.weight', which no MetaFG has"):
        load_metafg(network(), save({"layer1.weight": torch.zeros(2)}, tmp_path))
    with pytest.raises(LongTailError, match=r"lacks stage1\.1.*another size than model\.metafg\.backbone"):
        load_metafg(build_metafg("metafg_tiny", 5, 64), save(state, tmp_path))
    with pytest.raises(LongTailError, match=r"2 weights.*head\.bias \(5,\) for \(9,\).*leave 'head'"):
        load_metafg(network(classes=9), save(state, tmp_path), head=True)
    with pytest.raises(LongTailError, match=r"meta\.0\.stage3\.fc\.weight \(48, 4\) for \(48, 6\)"):
        load_metafg(network(metadata=MetadataShape((6, 3))), save(state, tmp_path), metadata=True)
    with pytest.raises(LongTailError, match="no file"):
        load_metafg(network(), str(tmp_path / "absent.pth"))
