"""Views of one decoded image, for worker processes: everything a call draws comes from its seed, so workers do not matter."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from lt_pipeline.augment.config import ResizedCropView
from lt_pipeline.errors import LongTailError

MEAN_COLOUR = (124, 116, 104)
"""ImageNet's, in grey levels."""


def _to_tensor(image: np.ndarray) -> Tensor:
    # A copy: torch refuses negative strides and warns of read-only memory maps.
    return torch.from_numpy(np.array(image, order="C")).permute(2, 0, 1)


class DecodedView:
    """Random resized crop, mirroring, colour jitter, policy and erasing; picklable."""

    def __init__(self, view: ResizedCropView) -> None:
        interpolation = InterpolationMode(view.interpolation)
        steps: list[torch.nn.Module] = [
            v2.RandomResizedCrop(view.size, view.scale, view.ratio, interpolation, antialias=True),
            v2.RandomHorizontalFlip(view.flip),
        ]
        if any(view.color_jitter):
            steps.append(v2.ColorJitter(*view.color_jitter))
        steps += _policy(view.policy)
        if view.erasing:
            steps.append(v2.RandomErasing(view.erasing, value=MEAN_COLOUR))
        self._transform = v2.Compose(steps)

    def __call__(self, image: np.ndarray, seed: int) -> Tensor:
        """Return a view, uint8 [3, size, size], of an RGB image, uint8 [H, W, 3]; equal seeds give equal views."""
        with _seeded(seed):
            return self._transform(_to_tensor(image)).contiguous()


def _policy(name: str) -> list[torch.nn.Module]:
    """Return the steps of a policy.

    Raises:
        LongTailError: if timm does not understand its configuration.
    """
    if name == "none":
        return []
    if name == "autoaugment_imagenet":
        return [v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET, InterpolationMode.BILINEAR)]
    if name == "randaugment":
        return [v2.RandAugment(interpolation=InterpolationMode.BILINEAR)]
    return [v2.ToPILImage(), v2.Lambda(_TimmPolicy(name)), v2.PILToTensor()]


class _TimmPolicy:
    """timm's RandAugment, made when it is first called: worker processes receive its name."""

    def __init__(self, name: str) -> None:
        self._name, self._made = name, None
        self._make()

    def __call__(self, image: Image.Image) -> Image.Image:
        return self._make()(image)

    def _make(self) -> Any:
        if self._made is None:
            from timm.data.auto_augment import rand_augment_transform

            try:
                self._made = rand_augment_transform(self._name, {"img_mean": MEAN_COLOUR})
            except (AssertionError, ValueError, KeyError) as error:
                raise LongTailError(
                    f"timm does not understand the policy '{self._name}' ({error}); an example is rand-n2-m10-mstd0.5."
                ) from error
        return self._made

    def __getstate__(self) -> dict[str, Any]:
        return {"_name": self._name, "_made": None}


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Let every global generator start from ``seed``, and go on afterwards as if nothing had happened: timm draws from all of them."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - timm's generator
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


class EvaluationView:
    """The view at test time: resize the shorter side, crop the centre; picklable."""

    def __init__(self, view: ResizedCropView) -> None:
        resize = v2.Resize(view.test_resize, InterpolationMode(view.interpolation), antialias=True)
        self._transform = v2.Compose([resize, v2.CenterCrop(view.size)])

    def __call__(self, image: np.ndarray) -> Tensor:
        """Return uint8 [3, size, size] for an RGB image, uint8 [H, W, 3]."""
        return self._transform(_to_tensor(image)).contiguous()
