"""Augmentation of whole batches of uint8 images [B, 3, H, W] on any device.

Every function draws from a CPU generator, so that all devices give the same result, and returns a channels_last view of new memory. Batches
that are channels_last already (a permuted [B, H, W, 3]) are not copied first.
"""

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from lt_pipeline.augment.config import PadCropView
from lt_pipeline.augment.operations import grid, outside, remap, rotation_source
from lt_pipeline.augment.policies import CIFAR_POLICY, ONE_WAY, Variant, apply_policy
from lt_pipeline.augment.signed_policy import SIGNED_VARIANT

BLACK = (0, 0, 0)

VARIANTS = {"autoaugment_cifar": ONE_WAY, "autoaugment_cifar_signed": SIGNED_VARIANT}
"""Names of the policies a view may have."""


def random_crop(images: Tensor, generator: Generator, padding: int = 4) -> Tensor:
    """Pad each image with ``padding`` black pixels on every side and crop it to its size at a place drawn uniformly."""
    return _move(images, _draw_offsets(len(images), generator, padding), None, None)


def horizontal_flip(images: Tensor, generator: Generator, probability: float = 0.5) -> Tensor:
    """Mirror each image left and right with the given probability."""
    return _move(images, None, _draw_flips(len(images), generator, probability), None)


def rotate(images: Tensor, generator: Generator, degrees: float) -> Tensor:
    """Rotate each image about its centre by an angle uniform in +-``degrees``: nearest pixel, black corners, bit-equal to Pillow."""
    return _move(images, None, None, _draw_angles(len(images), generator, degrees))


def autoaugment(images: Tensor, generator: Generator, variant: Variant = ONE_WAY) -> Tensor:
    """Apply to each image one of the 25 sub-policies of ``CIFAR_POLICY``, drawn uniformly, as ``variant`` carries it out."""
    count = len(images)
    choice = torch.randint(len(CIFAR_POLICY), (count,), generator=generator)
    applied = torch.rand(count, 2, generator=generator, dtype=torch.float64) < _PROBABILITY[choice]
    sign = torch.randint(2, (count, 2), generator=generator) * 2 - 1
    return apply_policy(images, choice, applied, sign, variant)


def cutout(images: Tensor, generator: Generator, length: int) -> Tensor:
    """Blacken in each image a square of side ``length`` whose centre is uniform over the pixels (DeVries and Taylor, 2017)."""
    height, width = images.shape[2:]
    rows = torch.randint(height, (len(images),), generator=generator)
    columns = torch.randint(width, (len(images),), generator=generator)
    return cut(images, torch.stack((rows, columns), 1), length)


def cut(images: Tensor, centres: Tensor, length: int) -> Tensor:
    """Set a square of each image to zero: ``length // 2`` pixels before its centre, as many from the centre on, clipped at the border.

    Args:
        images: [B, 3, H, W] of any type.
        centres: int64 [B, 2], rows and columns.
        length: side of the square in pixels.
    """
    half = length // 2
    pixels = images.permute(0, 2, 3, 1).contiguous()
    row, column = centres.to(images.device)[:, :, None].unbind(1)
    rows = torch.arange(pixels.shape[1], device=images.device)
    columns = torch.arange(pixels.shape[2], device=images.device).repeat_interleave(pixels.shape[3])
    # A product of bytes is vectorised, masked_fill is not.
    kept = _beyond(rows, row, half)[:, :, None] | _beyond(columns, column, half)[:, None, :]
    return (pixels.flatten(2) * kept).view_as(pixels).permute(0, 3, 1, 2)


def _beyond(positions: Tensor, centre: Tensor, half: int) -> Tensor:
    return ((positions < centre - half) | (positions >= centre + half)).view(torch.uint8)


class BatchedView:
    """The random view of a batch: crop, mirroring and rotation in one pass over the pixels, then the policy, then cutout.

    The draws are made in that order, so a view equals its single functions applied one after the other with one generator.
    """

    def __init__(self, view: PadCropView) -> None:
        self.view = view

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Return a view, uint8 [B, 3, H, W], of images of the same shape; equal generator states give equal views."""
        view, count = self.view, len(images)
        offsets = _draw_offsets(count, generator, view.padding) if view.padding else None
        flips = _draw_flips(count, generator, view.flip) if view.flip else None
        angles = _draw_angles(count, generator, view.rotation) if view.rotation else None
        images = _move(images, offsets, flips, angles)
        if view.policy != "none":
            images = autoaugment(images, generator, VARIANTS[view.policy])
        return cutout(images, generator, view.cutout) if view.cutout else images


def _draw_offsets(count: int, generator: Generator, padding: int) -> Tensor:
    return torch.randint(-padding, padding + 1, (count, 2), generator=generator)


def _draw_flips(count: int, generator: Generator, probability: float) -> Tensor:
    return torch.rand(count, generator=generator) < probability


def _draw_angles(count: int, generator: Generator, degrees: float) -> Tensor:
    return (torch.rand(count, generator=generator, dtype=torch.float64) * 2 - 1) * degrees


def _move(images: Tensor, offsets: Tensor | None, flips: Tensor | None, angles: Tensor | None) -> Tensor:
    """Crop at ``offsets`` (int64 [B, 2], row and column of the corner), mirror where ``flips``, rotate by ``angles``, in one gather.

    Coordinates are followed backwards, from the output through the rotation and the mirroring to the crop. What a rotation takes from outside
    the crop is black even where the whole image has a pixel there.
    """
    device = images.device
    pixels = images.permute(0, 2, 3, 1).contiguous()
    count, height, width, _ = pixels.shape
    hidden = None
    if angles is None:
        x, y = grid(height, width, device)
    else:
        x, y = rotation_source(angles.to(device), height, width)
        hidden = outside(x, y, height, width)
    if flips is not None:
        mirror = flips.to(device, torch.int32)[:, None, None]
        x = x * (1 - 2 * mirror) + mirror * (width - 1)
    if offsets is not None:
        margin = int(offsets.abs().max()) if count else 0
        pixels = F.pad(pixels, (0, 0, margin, margin, margin, margin))
        top, left = (offsets + margin).to(device, torch.int32)[:, :, None, None].unbind(1)
        x, y = x + left, y + top
    return remap(pixels, x.expand(count, -1, -1), y, hidden, BLACK).permute(0, 3, 1, 2)


_PROBABILITY = torch.tensor([[probability for _, probability, _ in row] for row in CIFAR_POLICY], dtype=torch.float64)
