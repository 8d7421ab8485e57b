"""Weights that a residual network starts from.

A safetensors file holds them, under the names of torchvision's ResNets (timm's ``resnet*.tv_in1k`` have the same) or as this project's own
``model.safetensors``. Nothing is unpickled.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from lt_pipeline.errors import LongTailError


def load_pretrained(model: nn.Module, file: Path) -> None:
    """Fill a network but for its classifiers. From torchvision's weights every expert gets the same stages, and what residual networks there do
    not have, such as gates and adaptive activations, keeps its initial values.

    Raises:
        LongTailError: if the file cannot be read, or a stage is missing in it or has another shape there.
    """
    try:
        weights = {name.removeprefix("network."): tensor for name, tensor in load_file(file).items()}  # as post-hoc adjustment wraps it
    except (OSError, SafetensorError) as error:
        raise LongTailError(
            f"model.weights: cannot read {file} as safetensors ({error}). A .pth file is to be converted first: only safetensors is read."
        ) from error
    state = model.state_dict()
    for name, tensor in state.items():
        theirs = name if name in weights and ".classifier." not in name else torchvision_name(name)
        if theirs is None or name.endswith("num_batches_tracked"):
            continue
        if theirs not in weights:
            raise LongTailError(f"model.weights: {file.name} lacks '{theirs}' for '{name}'; it is of another architecture.")
        if weights[theirs].shape != tensor.shape:
            raise LongTailError(
                f"model.weights: '{theirs}' has shape {tuple(weights[theirs].shape)} in {file.name}, the network has {tuple(tensor.shape)}; "
                "set model.reduce_dimension=false, or choose the backbone of the file."
            )
        tensor.copy_(weights[theirs])


def torchvision_name(name: str) -> str | None:
    """Return what torchvision calls a weight of ours, None if it has no such weight."""
    name = re.sub(r"^expert\d+\.", "", name)
    name = re.sub(r"^last\.", "stage4.", name)
    if match := re.fullmatch(r"stem\.(conv|bn)\.(.+)", name):
        return f"{match[1]}1.{match[2]}"
    if match := re.fullmatch(r"stage(\d)\.block(\d+)\.((?:conv|bn)\d\..+)", name):
        return f"layer{match[1]}.{match[2]}.{match[3]}"
    if match := re.fullmatch(r"stage(\d)\.block(\d+)\.downsample\.(conv|bn)\.(.+)", name):
        return f"layer{match[1]}.{match[2]}.downsample.{('conv', 'bn').index(match[3])}.{match[4]}"
    return None


def freeze(model: nn.Module, parts: Sequence[str]) -> None:
    """Exclude parts from training; batch norm in them still moves its running statistics.

    Args:
        model: the network.
        parts: names of modules such as ``stem`` or ``stage1``.

    Raises:
        LongTailError: naming a part the network does not have.
    """
    for part in parts:
        try:
            model.get_submodule(part).requires_grad_(False)
        except AttributeError as error:
            names = ", ".join(name for name, _ in model.named_children())
            raise LongTailError(f"model.frozen: the network has no part '{part}'; there are {names}.") from error
