"""AutoAugment's CIFAR-10 policy as torchvision carries it out on Pillow images and APA (Alexandridis et al.) uses it.

Rows and probabilities are those of ``policies.CIFAR_POLICY``. Rotation goes either way, borders are black, rotation and shear interpolate
bilinearly, translation moves by whole pixels, solarize counts from 255, magnitudes are float32 numbers. Every operation is bit-equal to
torchvision's on Pillow images, which is what APA trains on. torchvision's on tensors differs from that by a grey level here and there, and
along the borders of what rotation and shear show.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from lt_pipeline.augment.operations import KERNELS, grid, in_pieces, outside, remap, to_bytes
from lt_pipeline.augment.policies import MAGNITUDES, SIGNED, Variant


def _translate(pixels: Tensor, amount: Tensor, fill: Sequence[int], axis: int) -> Tensor:
    height, width = pixels.shape[1:3]
    x, y = grid(height, width, pixels.device)
    shift = torch.trunc(amount * pixels.shape[axis]).int()[:, None, None]  # towards the right or down
    if axis == 2:
        x = x - shift
    else:
        y = y - shift
    return remap(pixels, x, y, outside(x, y, height, width), fill)


def _shear(pixels: Tensor, amount: Tensor, fill: Sequence[int], axis: int) -> Tensor:
    zero, one = torch.zeros_like(amount), torch.ones_like(amount)
    x_row, y_column = (amount, zero) if axis == 2 else (zero, amount)
    return _affine(pixels, (one, x_row, zero, y_column, one, zero), fill)


def _rotate(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    angle = -torch.deg2rad(torch.remainder(amount, 360.0))
    # Pillow rounds like this; it also hides in which last bit processors differ.
    cosine, sine = torch.round(torch.cos(angle), decimals=15), torch.round(torch.sin(angle), decimals=15)
    middle_y, middle_x = pixels.shape[1] / 2, pixels.shape[2] / 2
    x_start = (cosine * -middle_x + sine * -middle_y) + middle_x
    y_start = (-sine * -middle_x + cosine * -middle_y) + middle_y
    return _affine(pixels, (cosine, sine, x_start, -sine, cosine, y_start), fill)


def _affine(pixels: Tensor, matrix: tuple[Tensor, ...], fill: Sequence[int]) -> Tensor:
    """Interpolate each output pixel (column + 0.5, row + 0.5) bilinearly at its source, in Pillow's order of operations.

    Args:
        pixels: uint8 [b, H, W, 3], contiguous.
        matrix: float64 [b] each: the source's x as a multiple of column and row plus a constant, then its y.
        fill: colour of what comes from outside.
    """
    height, width = pixels.shape[1:3]
    column, row = grid(height, width, pixels.device)
    column, row = column + 0.5, row + 0.5
    x_column, x_row, x_start, y_column, y_row, y_start = (entry[:, None, None] for entry in matrix)
    x = (x_column * column + x_row * row) + x_start
    y = (y_column * column + y_row * row) + y_start
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    x, y = x - 0.5, y - 0.5
    left, top = torch.floor(x), torch.floor(y)
    x_part, y_part = (x - left)[..., None], (y - top)[..., None]
    columns = [(left.int() + step).clamp_(0, width - 1) for step in (0, 1)]
    rows = [(top.int() + step).clamp_(0, height - 1) for step in (0, 1)]
    upper, lower = (_between(remap(pixels, columns[0], y), remap(pixels, columns[1], y), x_part) for y in rows)
    colour = torch.tensor(tuple(fill), dtype=torch.float64, device=pixels.device)
    return to_bytes(torch.where(inside[..., None], _between(upper, lower, y_part), colour))


def _between(first: Tensor, second: Tensor, part: Tensor) -> Tensor:
    start = first.double()
    return start + (second.double() - start) * part


def _single(first: float, last: float) -> tuple[float, ...]:
    return tuple(torch.linspace(first, last, 10).tolist())


SIGNED_VARIANT = Variant(
    magnitudes={
        **MAGNITUDES,  # translation stays a fraction of the side, posterize, and what takes none
        "shearX": _single(0, 0.3),
        "shearY": _single(0, 0.3),
        "rotate": _single(0, 30),
        "solarize": _single(255, 0),
        **dict.fromkeys(("color", "contrast", "sharpness", "brightness"), _single(0, 0.9)),
    },
    signed=SIGNED | {"rotate"},
    kernels={
        **KERNELS,
        "shearX": partial(in_pieces, partial(_shear, axis=2)),
        "shearY": partial(in_pieces, partial(_shear, axis=1)),
        "translateX": partial(_translate, axis=2),
        "translateY": partial(_translate, axis=1),
        "rotate": partial(in_pieces, _rotate),
    },
    fill=(0, 0, 0),
)
"""The policy as torchvision and APA have it."""
