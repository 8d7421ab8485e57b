"""timm's training transform on whole batches of packed images: the way from 32 to 224 pixels must not be slower than the network.

Every draw comes from a CPU generator, so that all devices see the same views. Boxes are resized by two matrix products an image, with Pillow's
weights (:mod:`~lt_pipeline.augment.resize`); then the policy, or jitter, grey and blur.
"""

import math

import torch
from torch import Generator, Tensor

from lt_pipeline.augment.batched_colour import colour_jitter, gaussian_blur, lose_colour
from lt_pipeline.augment.config import TimmCropView
from lt_pipeline.augment.resize import resized, resizing_matrix

_ATTEMPTS = 10


def draw_boxes(
    count: int, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], generator: Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return top, left, height and width, int64 [B] each, of random-resized crops (Inception, Szegedy et al., CVPR 2015).

    Area and logarithm of the shape are uniform; a box that does not fit is drawn again, after ten attempts it is the largest one in the middle
    whose shape is allowed.
    """
    draws = torch.rand(4, count, _ATTEMPTS, generator=generator, dtype=torch.float64)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[0])
    shape = torch.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * draws[1])
    widths, heights = (area * shape).sqrt().round().long(), (area / shape).sqrt().round().long()
    fits = (widths <= width) & (heights <= height)
    first = fits.int().argmax(1, keepdim=True)  # the first that fits
    found = fits.any(1)
    w, h = widths.gather(1, first)[:, 0], heights.gather(1, first)[:, 0]
    widest, highest = min(width, round(height * ratio[1])), min(height, round(width / ratio[0]))
    w, h = torch.where(found, w, widest).clamp_min(1), torch.where(found, h, highest).clamp_min(1)
    top, left = (draws[number].gather(1, first)[:, 0] for number in (2, 3))
    top = torch.where(found, (top * (height - h + 1)).long(), (height - h) // 2)
    left = torch.where(found, (left * (width - w + 1)).long(), (width - w) // 2)
    return top, left, h, w


class BatchedCrop:
    """The random view of a batch.

    Raises:
        LongTailError: if the policy has an operation without a batched form.
    """

    def __init__(self, view: TimmCropView) -> None:
        self.view, self._policy = view, None
        if view.policy != "none":
            from lt_pipeline.augment.batched_randaugment import BatchedRandAugment  # timm takes seconds to import

            self._policy = BatchedRandAugment(view.policy, view.interpolation == "bicubic")

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Return views, uint8 [B, 3, size, size] in channels_last, of images [B, 3, H, W]; equal generator states give equal views."""
        view, (count, _, height, width), device = self.view, images.shape, images.device
        box = draw_boxes(count, height, width, view.scale, view.ratio, generator)
        top, left, heights, widths = (values.to(device) for values in box)
        mirror = (torch.rand(count, generator=generator) < view.flip).to(device)
        cubic = view.interpolation == "bicubic"
        rows = resizing_matrix(top, heights, height, view.size, cubic)
        columns = resizing_matrix(left, widths, width, view.size, cubic, mirror)
        pixels = resized(images, rows, columns)
        if self._policy is not None:
            pixels = self._policy(pixels, generator)
        if any(view.color_jitter):
            pixels = colour_jitter(pixels, generator, view.color_jitter, view.color_jitter_probability)
        if view.grey:
            pixels = lose_colour(pixels, generator, view.grey)
        if view.blur:
            pixels = gaussian_blur(pixels, generator, view.blur)
        return pixels.permute(0, 3, 1, 2)


class BatchedEvaluation:
    """The view at test time: the shorter side to ``test_resize``, the centre of ``size``."""

    def __init__(self, view: TimmCropView) -> None:
        self.view = view

    def __call__(self, images: Tensor) -> Tensor:
        """Return uint8 [B, 3, size, size] of images [B, 3, H, W]."""
        size, cubic, side = self.view.size, self.view.interpolation == "bicubic", min(images.shape[2:])
        matrices = []
        for length in images.shape[2:]:
            whole = int(self.view.test_resize * length / side)
            matrix = resizing_matrix(torch.zeros(1, dtype=torch.int64), torch.tensor([length]), length, whole, cubic)
            start = round((whole - size) / 2)
            matrices.append(matrix[:, start : start + size].to(images.device))
        return resized(images, *matrices).permute(0, 3, 1, 2)
