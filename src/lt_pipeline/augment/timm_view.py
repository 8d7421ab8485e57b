"""timm's training transform for decoded images, in worker processes: everything a call draws comes from its seed, so workers do not matter."""

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torchvision.transforms import PILToTensor

from lt_pipeline.augment.config import TimmCropView
from lt_pipeline.augment.randaugment import seeded


class TimmView:
    """Crop, mirroring, policy or jitter, grey and blur by timm; picklable. Normalisation and erasing come later, on the device."""

    def __init__(self, view: TimmCropView) -> None:
        jitters = any(view.color_jitter)
        crop, change, _ = create_transform(
            view.size,
            is_training=True,
            scale=view.scale,
            ratio=view.ratio,
            hflip=view.flip,
            interpolation=view.interpolation,
            auto_augment=None if view.policy == "none" else view.policy,
            color_jitter=view.color_jitter if jitters else 0.0,
            color_jitter_prob=view.color_jitter_probability if jitters else None,
            grayscale_prob=view.grey,
            gaussian_blur_prob=view.blur,
            separate=True,
        )
        self._steps = [*crop.transforms, *change.transforms, PILToTensor()]

    def draw(self, image: np.ndarray) -> Tensor:
        """Return a view, uint8 [3, size, size], of an RGB image, uint8 [H, W, 3]; draws from the global generators."""
        changed = Image.fromarray(np.ascontiguousarray(image))
        for step in self._steps:
            changed = step(changed)
        assert isinstance(changed, torch.Tensor)
        return changed.contiguous()

    def __call__(self, image: np.ndarray, seed: int) -> Tensor:
        """Return a view; equal seeds give equal views."""
        with seeded(seed):
            return self.draw(image)
