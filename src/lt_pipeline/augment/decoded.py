"""Views of one decoded image, for worker processes: everything a call draws comes from its seed, so workers do not matter."""

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from lt_pipeline.augment.config import ResizedCropView, TimmCropView
from lt_pipeline.augment.randaugment import MEAN_COLOUR, RandAugment, seeded


def _to_tensor(image: np.ndarray) -> Tensor:
    # A copy: torch refuses negative strides and warns of read-only memory maps.
    return torch.from_numpy(np.array(image, order="C")).permute(2, 0, 1)


class DecodedView:
    """Random resized crop, mirroring, colour jitter, policy and erasing; picklable."""

    def __init__(self, view: ResizedCropView) -> None:
        interpolation = InterpolationMode(view.interpolation)
        steps: list[torch.nn.Module] = (
            [v2.Resize(view.train_resize, interpolation, antialias=True), v2.RandomCrop(view.size)]
            if view.train_resize
            else [v2.RandomResizedCrop(view.size, view.scale, view.ratio, interpolation, antialias=True)]
        )
        steps.append(v2.RandomHorizontalFlip(view.flip))
        if any(view.color_jitter):
            steps.append(v2.ColorJitter(*view.color_jitter))
        steps += _policy(view.policy)
        if view.erasing:
            # Official APA erases after normalisation with 0. Views are normalised later, so the hole gets the colour that becomes about 0.
            steps.append(v2.RandomErasing(view.erasing, value=MEAN_COLOUR))
        self._transform = v2.Compose(steps)

    def __call__(self, image: np.ndarray, seed: int) -> Tensor:
        """Return a view, uint8 [3, size, size], of an RGB image, uint8 [H, W, 3]; equal seeds give equal views."""
        with seeded(seed):
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
        return [v2.RandAugment(num_ops=2, magnitude=9, interpolation=InterpolationMode.BILINEAR)]
    return [v2.ToPILImage(), v2.Lambda(RandAugment(name)), v2.PILToTensor()]


class EvaluationView:
    """The view at test time: resize the shorter side, crop the centre; picklable. Pillow resizes, as it does in published evaluations."""

    def __init__(self, view: ResizedCropView | TimmCropView) -> None:
        resize = v2.Resize(view.test_resize, InterpolationMode(view.interpolation), antialias=True)
        self._transform = v2.Compose([v2.ToPILImage(), resize, v2.CenterCrop(view.size), v2.PILToTensor()])

    def __call__(self, image: np.ndarray) -> Tensor:
        """Return uint8 [3, size, size] for an RGB image, uint8 [H, W, 3]."""
        return self._transform(_to_tensor(image)).contiguous()
