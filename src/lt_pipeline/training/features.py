"""Features of a whole set by a network that is not trained: once as the images are, and in augmented views."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn

from lt_pipeline.augment.config import View
from lt_pipeline.augment.normalise import Normalise
from lt_pipeline.data.split import ImageSet
from lt_pipeline.errors import LongTailError
from lt_pipeline.files import atomic_file
from lt_pipeline.progress import progress
from lt_pipeline.training.config import TrainerConfig
from lt_pipeline.training.feed import Chunk, build_feed
from lt_pipeline.training.inference import autocast, choose_device, in_parts, memory_format, run_model


@dataclass(frozen=True)
class Features:
    """What a network says of the images before anything is trained.

    Attributes:
        train: of the training images at test-time view, float32 [N, D].
        test: of the test images, float32 [T, D].
        views: of the training images in M draws of each of V views, float32 [V, M, N, D]; None where the network itself will be trained.
        fingerprint: what the features depend on.
    """

    train: NDArray[np.float32]
    test: NDArray[np.float32]
    views: NDArray[np.float32] | None
    fingerprint: str


def plain_features(
    backbone: nn.Module, images: ImageSet, view: View, mean: Sequence[float], std: Sequence[float], trainer: TrainerConfig, title: str
) -> NDArray[np.float32]:
    """Return features [N, D] of a set through the test-time transform of ``view``; see :func:`~lt_pipeline.training.inference.run_model`."""
    return run_model(_Named(backbone), images, view, mean, std, trainer, title)["logits"]


@torch.inference_mode()
def augmented_features(
    backbone: nn.Module,
    images: ImageSet,
    views: Sequence[View],
    draws: int,
    mean: Sequence[float],
    std: Sequence[float],
    trainer: TrainerConfig,
    seed: int,
) -> NDArray[np.float32]:
    """Return features of ``draws`` random draws of every view, float32 [V, draws, N, D].

    Args:
        backbone: images [B, 3, H, W] to features [B, D]; put in evaluation mode.
        images: the set.
        views: the training views.
        draws: how often each is drawn.
        mean: of the normalisation, per channel in [0, 1].
        std: likewise.
        trainer: device, precision, batch size.
        seed: of the augmentation.
    """
    device = choose_device(trainer.device)
    layout = memory_format(device, trainer)
    backbone = backbone.to(device).to(memory_format=layout).eval()
    feed = build_feed(images, views, Normalise(mean, std), device, layout, trainer.workers)
    places = np.array_split(np.arange(len(images.rows)), -(-len(images.rows) // trainer.evaluation_batch))
    chunks = [Chunk(part, (seed, "features", draw, int(part[0]))) for draw in range(draws) for part in places]
    parts: list[list[Tensor]] = [[] for _ in views]
    with progress("features of augmented views", draws * len(images.rows)) as advance:
        for batch in feed.batches(chunks):
            for found, view in zip(parts, batch.views, strict=True):
                with autocast(device, trainer.precision):
                    found += [backbone(part).float().cpu() for part in in_parts(view)]
            advance(len(batch.indices))
    return torch.stack([torch.cat(found).unflatten(0, (draws, -1)) for found in parts]).numpy()


def save_features(features: Features, path: Path) -> None:
    """Write features as one safetensors file, whole or not at all.

    Raises:
        LongTailError: if the disk is full or not writable.
    """
    tensors = {name: getattr(features, name) for name in ("train", "test", "views") if getattr(features, name) is not None}
    with atomic_file(path) as part:
        save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, part, {"fingerprint": features.fingerprint})


def load_features(path: Path) -> Features:
    """Read what :func:`save_features` wrote.

    Raises:
        LongTailError: if there is no whole file.
    """
    try:
        with safe_open(path, "np") as file:
            arrays: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            return Features(arrays["train"], arrays["test"], arrays.get("views"), file.metadata()["fingerprint"])
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise LongTailError(f"No whole features at {path} ({error}); run the node that extracts them first.") from error


def features_fingerprint(path: Path) -> str | None:
    """Return what the features of a file depend on, None where there is no whole file."""
    try:
        with safe_open(path, "np") as file:
            return (file.metadata() or {}).get("fingerprint")
    except (OSError, SafetensorError):
        return None


@dataclass(frozen=True)
class FeatureCache:
    """Files of features that may or may not be there: a method's own, and those of other methods in the folders beside its.

    Attributes:
        path: of the own one, ``…/<method>/features.safetensors``.
    """

    path: Path

    def find(self, fingerprint: str) -> Features | None:
        """Return the features of ``fingerprint``, whichever method has extracted them."""
        beside = sorted(self.path.parent.parent.glob(f"*/{self.path.name}"))
        found = next((path for path in beside if features_fingerprint(path) == fingerprint), None)
        return load_features(found) if found else None


class _Named(nn.Module):
    """A backbone in the shape of a network that classifies, for :func:`run_model`."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"logits": self.backbone(images)}
