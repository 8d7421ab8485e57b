"""Views of one decoded image, for worker processes: everything a call draws comes from its seed, so workers do not matter."""

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from lt_pipeline.augment.config import ResizedCropView


def _to_tensor(image: np.ndarray) -> Tensor:
    # A copy: torch refuses negative strides and warns of read-only memory maps.
    return torch.from_numpy(np.array(image, order="C")).permute(2, 0, 1)


class DecodedView:
    """Random resized crop, mirroring and colour jitter; picklable."""

    def __init__(self, view: ResizedCropView) -> None:
        interpolation = InterpolationMode(view.interpolation)
        steps: list[torch.nn.Module] = [
            v2.RandomResizedCrop(view.size, view.scale, view.ratio, interpolation, antialias=True),
            v2.RandomHorizontalFlip(view.flip),
        ]
        if any(view.color_jitter):
            steps.append(v2.ColorJitter(*view.color_jitter))
        self._transform = v2.Compose(steps)

    def __call__(self, image: np.ndarray, seed: int) -> Tensor:
        """Return a view, uint8 [3, size, size], of an RGB image, uint8 [H, W, 3]; equal seeds give equal views."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._transform(_to_tensor(image)).contiguous()


class EvaluationView:
    """The view at test time: resize the shorter side, crop the centre; picklable."""

    def __init__(self, view: ResizedCropView) -> None:
        resize = v2.Resize(view.test_resize, InterpolationMode(view.interpolation), antialias=True)
        self._transform = v2.Compose([resize, v2.CenterCrop(view.size)])

    def __call__(self, image: np.ndarray) -> Tensor:
        """Return uint8 [3, size, size] for an RGB image, uint8 [H, W, 3]."""
        return self._transform(_to_tensor(image)).contiguous()
