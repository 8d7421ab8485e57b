"""Weights that a MetaFG starts from: the authors' released files, or checkpoints of ours. Read as tensors alone."""

import re
from collections import OrderedDict

import torch
from torch import Tensor

from lt_pipeline.errors import LongTailError
from lt_pipeline.models.backbones import read_weights, weights_file
from lt_pipeline.models.metafg.network import MetaFG
from lt_pipeline.models.metafg.resize import Rule, resized_state

_BUFFERS = ("relative_position_index", "index_buffer", "point_coord", "num_batches_tracked")
"""Last parts of names that hold no weights."""

_NAMES: tuple[tuple[str, str], ...] = (
    (r"stage_0\.0\.", "stem.conv1."),
    (r"stage_0\.1\.", "stem.norm1."),
    (r"stage_0\.3\.", "stem.conv2."),
    (r"stage_0\.4\.", "stem.norm2."),
    (r"stage_0\.6\.", "stem.conv3."),
    (r"bn1\.", "stem.norm3."),
    (r"stage_([12])\.(\d+)\._(expand|depthwise|project)_conv\.", r"stage\1.\2.\3."),
    (r"stage_([12])\.(\d+)\._bn0\.", r"stage\1.\2.expand_norm."),
    (r"stage_([12])\.(\d+)\._bn1\.", r"stage\1.\2.depthwise_norm."),
    (r"stage_([12])\.(\d+)\._bn2\.", r"stage\1.\2.project_norm."),
    (r"stage_([12])\.(\d+)\._se_(reduce|expand)\.", r"stage\1.\2.se_\3."),
    (r"cls_token_1$", "stage3.cls_token"),
    (r"cls_token_2$", "stage4.cls_token"),
    (r"stage_([34])\.(\d+)\.patch_embed\.proj\.", r"stage\1.\2.downsample.conv."),
    (r"stage_([34])\.(\d+)\.patch_embed\.norm\.", r"stage\1.\2.downsample.norm."),
    (r"stage_([34])\.(\d+)\.norm1\.", r"stage\1.\2.attn_norm."),
    (r"stage_([34])\.(\d+)\.norm2\.", r"stage\1.\2.mlp_norm."),
    (r"stage_([34])\.(\d+)\.attn\.relative_position_bias_table$", r"stage\1.\2.attn.bias_table"),
    (r"stage_([34])\.(\d+)\.attn\.proj\.", r"stage\1.\2.attn.out."),
    (r"stage_([34])\.(\d+)\.(attn\.qkv|mlp\.fc[12])\.", r"stage\1.\2.\3."),
    (r"norm_1\.", "aggregate.norm_stage3."),
    (r"norm_2\.", "aggregate.norm_stage4."),
    (r"cl_1_fc\.0\.", "aggregate.lift."),
    (r"cl_1_fc\.1\.", "aggregate.lift_norm."),
    (r"aggregate\.", "aggregate.mix."),
    (r"norm\.", "aggregate.norm_out."),
    (r"head\.(fc\.)?", "head."),
)
"""Beginnings of the authors' names, and ours for them; the first that fits holds."""

_ENCODER_PARTS = {"0": "fc", "2": "norm", "3.w1": "res.fc1", "3.norm_fn1": "res.norm1", "3.w2": "res.fc2", "3.norm_fn2": "res.norm2"}


def our_name(published: str) -> str | None:
    """Return what a weight of the authors' code is called here, None if there is no such weight."""
    if match := re.fullmatch(r"meta_(\d+)_head_([12])\.(\d(?:\.\w+)?)\.(weight|bias)", published):
        group, stage, part, kind = match.groups()
        return f"meta.{int(group) - 1}.stage{int(stage) + 2}.{_ENCODER_PARTS[part]}.{kind}" if part in _ENCODER_PARTS else None
    for theirs, ours in _NAMES:
        if re.match(theirs, published):
            return re.sub(f"^{theirs}", ours, published)
    return None


def is_loaded(name: str, head: bool = False, metadata: bool = False) -> bool:
    """Return whether a weight of a file is taken over into a network that is to be fine-tuned, as in the authors' code.

    Args:
        name: of the weight, ours or theirs.
        head: keep the classifier.
        metadata: keep whatever has "meta" in its name, the encoders of the metadata.
    """
    if name.rsplit(".", 1)[-1] in _BUFFERS:
        return False
    return (head or not name.startswith("head.")) and (metadata or "meta" not in name)


def load_metafg(network: MetaFG, weights: str, head: bool = False, metadata: bool = False, rule: Rule = "aligned") -> None:
    """Fill a network from a file of the authors or of ours, for images of whatever side it was trained on.

    Args:
        network: what to fill; parts that are not taken over keep their values.
        weights: a file, or a folder with one.
        head: take over the classifier; the classes must be the same.
        metadata: take over the encoders of the metadata; the groups must be the same.
        rule: for tables of position biases that change their size.

    Raises:
        LongTailError: if the file cannot be read, is of another architecture, or shapes differ.
    """
    path = weights_file(weights)
    with torch.serialization.safe_globals([(OrderedDict, "yacs.config.CfgNode")]):  # settings beside the weights become a plain table
        given = read_weights(path)
    if any("token_mixer" in name or name.startswith("stages.") for name in given):
        raise LongTailError(
            f"model.weights: {path.name} is of timm's MetaFormer family (poolformer, convformer, caformer; arXiv 2111.11418 and 2210.13452), "
            "which only shares its name with MetaFG (arXiv 2203.02751). It belongs to model.kind=timm."
        )
    if "stem.conv1.weight" not in given:
        given = _renamed(given, path.name)
    given = {name: tensor for name, tensor in given.items() if is_loaded(name, head, metadata)}
    given = resized_state(given, network.image_size, rule)
    _check(network, given, path.name, head, metadata)
    network.load_state_dict(given, strict=False)


def _renamed(given: dict[str, Tensor], file: str) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in given.items():
        if name.rsplit(".", 1)[-1] in _BUFFERS:
            continue
        ours = our_name(name)
        if ours is None:
            raise LongTailError(f"model.weights: {file} has a weight '{name}', which no MetaFG has; it is of another architecture.")
        renamed[ours] = tensor
    return renamed


def _check(network: MetaFG, given: dict[str, Tensor], file: str, head: bool, metadata: bool) -> None:
    wanted = {name: tensor for name, tensor in network.state_dict().items() if is_loaded(name, head, metadata)}
    missing = sorted(wanted.keys() - given.keys())
    unknown = sorted(name for name in given.keys() - wanted.keys() if not (network.aggregate.last_only and name.startswith("aggregate.")))
    if missing or unknown:
        lacks = f"lacks {_some(missing)}" if missing else f"has {_some(unknown)} besides"
        raise LongTailError(
            f"model.weights: {file} {lacks}: it is of another size than model.metafg.backbone, or has other metadata (then leave "
            "'metadata' out of model.metafg.keep)."
        )
    wrong = [
        f"{name} {tuple(given[name].shape)} for {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if given[name].shape != tensor.shape
    ]
    if wrong:
        raise LongTailError(
            f"model.weights: {len(wrong)} weights of {file} have another shape: {_some(wrong)}. Choose the backbone of the file; with other classes "
            "or other metadata leave 'head' or 'metadata' out of model.metafg.keep."
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
