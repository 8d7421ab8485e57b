"""The AutoAugment policy of CIFAR-10 on whole batches, every operation bit-equal to Pillow's.

The policy is the one of Cubuk et al., "AutoAugment: Learning Augmentation Policies from Data", CVPR 2019 (table 7), with the magnitudes and
details of the implementation that SHIKE (Jin et al., CVPR 2023) and MDCS (Zhao et al., ICCV 2023) share: rotation is never negative, geometric
operations fill with grey, shear is bicubic, translation and rotation take the nearest pixel.

Inside this module a batch is uint8 [B, H, W, 3] in memory order; the public functions take and return [B, 3, H, W].
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

GREY = (128, 128, 128)
"""What geometric operations of the policy show outside the image."""

OPERATIONS = (
    "shearX", "shearY", "translateX", "translateY", "rotate", "color", "posterize",
    "solarize", "contrast", "sharpness", "brightness", "autocontrast", "equalize", "invert",
)  # fmt: skip
"""Names of the operations."""


def _grid(first: float, last: float) -> tuple[float, ...]:
    return tuple(np.linspace(first, last, 10).tolist())


MAGNITUDES: dict[str, tuple[float, ...]] = {
    "shearX": _grid(0, 0.3),
    "shearY": _grid(0, 0.3),
    "translateX": _grid(0, 150 / 331),
    "translateY": _grid(0, 150 / 331),
    "rotate": _grid(0, 30),
    "color": _grid(0, 0.9),
    "posterize": tuple(np.round(np.linspace(8, 4, 10)).tolist()),
    "solarize": _grid(256, 0),
    "contrast": _grid(0, 0.9),
    "sharpness": _grid(0, 0.9),
    "brightness": _grid(0, 0.9),
    "autocontrast": (0.0,) * 10,
    "equalize": (0.0,) * 10,
    "invert": (0.0,) * 10,
}
"""Magnitude of each operation at levels 0 to 9: shear as a slope, translation as a fraction of the side, rotation in degrees, ``factor - 1`` of
the four enhancements, bits kept by posterize, threshold of solarize; the last three operations take none."""

SIGNED = frozenset({"shearX", "shearY", "translateX", "translateY", "color", "contrast", "sharpness", "brightness"})
"""Operations whose magnitude gets a random sign."""

Step = tuple[str, float, int]

CIFAR_POLICY: tuple[tuple[Step, Step], ...] = (
    (("invert", 0.1, 7), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translateX", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shearY", 0.5, 8), ("translateY", 0.7, 9)),
    (("autocontrast", 0.5, 8), ("equalize", 0.9, 2)),
    (("shearY", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 5), ("equalize", 0.5, 1)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translateX", 0.5, 8)),
    (("equalize", 0.3, 7), ("autocontrast", 0.4, 8)),
    (("translateY", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 3)),
    (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalize", 0.2, 8), ("equalize", 0.6, 4)),
    (("color", 0.9, 9), ("equalize", 0.6, 6)),
    (("autocontrast", 0.8, 4), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, 3)),
    (("translateY", 0.9, 9), ("translateY", 0.7, 9)),
    (("autocontrast", 0.9, 2), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 8), ("invert", 0.1, 3)),
    (("translateY", 0.7, 9), ("autocontrast", 0.9, 1)),
)
"""The 25 sub-policies: two steps (operation, probability, level) each."""


def apply_operation(
    images: Tensor, name: str, magnitude: float | Tensor, sign: int | Tensor = 1, *, fill: Sequence[int] = GREY
) -> Tensor:
    """Apply one operation to every image of a batch.

    Args:
        images: uint8 [B, 3, H, W].
        name: one of ``OPERATIONS``.
        magnitude: a value from ``MAGNITUDES[name]``, or one per image as float64 [B].
        sign: +1 or -1, or one per image [B]; heeded by the operations in ``SIGNED`` only.
        fill: colour outside the image for geometric operations.

    Returns:
        uint8 [B, 3, H, W], a channels_last view.

    Raises:
        KeyError: if there is no such operation.
    """
    pixels = images.permute(0, 2, 3, 1).contiguous()
    amount = torch.as_tensor(magnitude, dtype=torch.float64)
    if name in SIGNED:
        amount = amount * torch.as_tensor(sign)
    return _KERNELS[name](pixels, amount.expand(len(images)).to(pixels.device), fill).permute(0, 3, 1, 2)


def apply_policy(images: Tensor, choice: Tensor, applied: Tensor, sign: Tensor, *, fill: Sequence[int] = GREY) -> Tensor:
    """Apply a drawn sub-policy to each image of a batch.

    Args:
        images: uint8 [B, 3, H, W].
        choice: int64 [B] on the CPU, rows of ``CIFAR_POLICY``.
        applied: bool [B, 2] on the CPU, whether the first and the second step take place.
        sign: int64 [B, 2] on the CPU, +1 or -1 for the steps that heed it.
        fill: colour outside the image for geometric operations.

    Returns:
        uint8 [B, 3, H, W], a channels_last view; the input is left alone.
    """
    pixels = images.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format)
    for place in range(2):
        operation = torch.where(applied[:, place], _OPERATION[choice, place], -1)
        amount = _AMOUNT[choice, place] * torch.where(_HEEDS_SIGN[choice, place], sign[:, place], 1)
        for number, name in enumerate(OPERATIONS):
            where = torch.nonzero(operation == number)[:, 0]
            if len(where):
                rows = where.to(pixels.device)
                pixels[rows] = _KERNELS[name](pixels[rows], amount[where].to(pixels.device), fill)
    return pixels.permute(0, 3, 1, 2)


def remap(pixels: Tensor, x: Tensor, y: Tensor, fill: Sequence[int]) -> Tensor:
    """Take each output pixel from (x, y) of its image, or ``fill`` where that lies outside.

    Args:
        pixels: uint8 [B, H, W, 3].
        x: integers that broadcast to [B, H, W].
        y: likewise.
        fill: colour outside.

    Returns:
        uint8 [B, H, W, 3].
    """
    count, height, width, channels = pixels.shape
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    start = torch.arange(count, device=pixels.device)[:, None, None] * (height * width)
    source = torch.where(inside, start + y * width + x, 0).expand(count, height, width)
    taken = pixels.reshape(-1, channels).index_select(0, source.reshape(-1)).view(count, height, width, channels)
    colour = torch.tensor(tuple(fill), dtype=torch.uint8, device=pixels.device)
    return torch.where(inside.expand(count, height, width)[..., None], taken, colour)


def rotation_source(degrees: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return for each output pixel of a rotation the source column and row, int64 [B, H, W], as Pillow computes them.

    Pillow walks the affine map in 16.16 fixed point from the centre of the first pixel and cuts off the fraction.

    Args:
        degrees: float64 [B], counter-clockwise.
        height: of the images.
        width: of the images.
    """
    angle = -torch.deg2rad(torch.remainder(degrees.double(), 360.0))
    cosine, sine = torch.cos(angle), torch.sin(angle)
    middle_x, middle_y = width / 2, height / 2
    shift_x = cosine * -middle_x + sine * -middle_y + middle_x
    shift_y = -sine * -middle_x + cosine * -middle_y + middle_y

    def fixed(value: Tensor) -> Tensor:
        return torch.floor(value * 65536.0 + 0.5).long()[:, None, None]

    column = torch.arange(width, device=degrees.device)
    row = torch.arange(height, device=degrees.device)[:, None]
    x = fixed(shift_x + cosine * 0.5 + sine * 0.5) + fixed(cosine) * column + fixed(sine) * row
    y = fixed(shift_y - sine * 0.5 + cosine * 0.5) + fixed(-sine) * column + fixed(cosine) * row
    return x >> 16, y >> 16


# Operations: (pixels uint8 [b, H, W, 3], signed magnitude float64 [b], fill) -> uint8 [b, H, W, 3].


def _rotate(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    return remap(pixels, *rotation_source(amount, pixels.shape[1], pixels.shape[2]), fill)


def _translate(pixels: Tensor, amount: Tensor, fill: Sequence[int], axis: int) -> Tensor:
    height, width = pixels.shape[1:3]
    column = torch.arange(width, device=pixels.device)
    row = torch.arange(height, device=pixels.device)[:, None]
    moved, side = (column, width) if axis == 2 else (row, height)
    source = torch.floor((amount * side + 0.5)[:, None, None] + moved).long()
    return remap(pixels, source, row, fill) if axis == 2 else remap(pixels, column, source, fill)


def _shear(pixels: Tensor, amount: Tensor, fill: Sequence[int], axis: int) -> Tensor:
    # A shear along x is a one-dimensional interpolation: rows meet rows exactly, Pillow's vertical pass then returns its second tap.
    if axis == 1:
        return _shear(pixels.transpose(1, 2), amount, fill, 2).transpose(1, 2)
    count, height, width, channels = pixels.shape
    column = torch.arange(width, device=pixels.device, dtype=torch.float64) + 0.5
    row = torch.arange(height, device=pixels.device, dtype=torch.float64)[:, None] + 0.5
    position = column + amount[:, None, None] * row
    inside = (position >= 0) & (position < width)
    position = position - 0.5
    base = torch.floor(position)
    part = (position - base)[..., None]
    taps = [
        torch.gather(pixels, 2, (base.long() + offset).clamp(0, width - 1)[..., None].expand(-1, -1, -1, channels)).double()
        for offset in (-1, 0, 1, 2)
    ]
    slope = taps[2] - taps[0]
    square = 2 * (taps[0] - taps[1]) + taps[2] - taps[3]
    cube = -taps[0] + taps[1] - taps[2] + taps[3]
    value = taps[1] + part * (slope + part * (square + part * cube))
    colour = torch.tensor(tuple(fill), dtype=torch.uint8, device=pixels.device)
    return torch.where(inside[..., None], value.clamp(0, 255).to(torch.uint8), colour)


def _look_up(pixels: Tensor, table: Tensor) -> Tensor:
    """Replace each value by ``table[image, value, channel]``, uint8 [b, 256, 3 or 1]."""
    count, height, width, channels = pixels.shape
    table = table.expand(count, 256, channels)
    return torch.gather(table, 1, pixels.view(count, height * width, channels).long()).view_as(pixels)


def _levels(device: torch.device) -> Tensor:
    return torch.arange(256, device=device)[:, None]


def _invert(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    return 255 - pixels


def _posterize(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    mask = (256 - torch.pow(2, 8 - amount)).to(torch.uint8)
    return pixels & mask[:, None, None, None]


def _solarize(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    return torch.where(pixels < torch.ceil(amount).short()[:, None, None, None], pixels, 255 - pixels)


def _autocontrast(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    low, high = torch.aminmax(pixels.view(len(pixels), -1, pixels.shape[3]), dim=1, keepdim=True)
    low, high = low.double(), high.double()
    scale = torch.full_like(low, 255.0) / (high - low)  # `255.0 / tensor` would multiply by a rounded reciprocal
    levels = _levels(pixels.device)
    table = (levels * scale + -low * scale).clamp(0, 255).to(torch.uint8)
    return _look_up(pixels, torch.where(high > low, table, levels.to(torch.uint8)))


def _equalize(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    count, height, width, channels = pixels.shape
    flat = pixels.view(count, height * width, channels).long()
    histogram = torch.zeros(count, 256, channels, dtype=torch.long, device=pixels.device)
    histogram.scatter_add_(1, flat, torch.ones_like(flat))
    last = histogram.gather(1, flat.amax(1, keepdim=True))
    step = (height * width - last) // 255
    below = histogram.cumsum(1) - histogram
    table = ((below + step // 2) // step.clamp(min=1)).clamp(max=255).to(torch.uint8)
    return _look_up(pixels, torch.where(step > 0, table, _levels(pixels.device).to(torch.uint8)))


def _blend(degenerate: Tensor, pixels: Tensor, amount: Tensor) -> Tensor:
    """Pillow's blend with factor ``1 + amount``: float32, cut off, clipped."""
    factor = (1 + amount).float().view(-1, *[1] * (pixels.dim() - 1))
    base = degenerate.float()
    return (base + factor * (pixels.float() - base)).clamp(0, 255).to(torch.uint8)


def _luminance(pixels: Tensor) -> Tensor:
    """ITU-R 601 luminance in Pillow's fixed point, int32 [b, H, W, 1]."""
    red, green, blue = pixels.int().split(1, dim=3)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def _brightness(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    return _blend(torch.zeros((), device=pixels.device), pixels, amount)


def _color(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    return _blend(_luminance(pixels), pixels, amount)


def _contrast(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    mean = torch.floor(_luminance(pixels).sum((1, 2, 3), keepdim=True) / (pixels.shape[1] * pixels.shape[2]) + 0.5)
    return _blend(mean, pixels, amount)


def _sharpness(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    smooth = pixels.int()
    if min(pixels.shape[1:3]) > 2:
        across = smooth[:, :, :-2] + smooth[:, :, 1:-1] + smooth[:, :, 2:]
        total = across[:, :-2] + across[:, 1:-1] + across[:, 2:] + 4 * smooth[:, 1:-1, 1:-1]
        smooth = smooth.clone()
        smooth[:, 1:-1, 1:-1] = (2 * total + 13) // 26  # total / 13 rounded; a tie cannot occur
    return _blend(smooth, pixels, amount)


_KERNELS: dict[str, Callable[[Tensor, Tensor, Sequence[int]], Tensor]] = {
    "shearX": lambda pixels, amount, fill: _shear(pixels, amount, fill, 2),
    "shearY": lambda pixels, amount, fill: _shear(pixels, amount, fill, 1),
    "translateX": lambda pixels, amount, fill: _translate(pixels, amount, fill, 2),
    "translateY": lambda pixels, amount, fill: _translate(pixels, amount, fill, 1),
    "rotate": _rotate,
    "color": _color,
    "posterize": _posterize,
    "solarize": _solarize,
    "contrast": _contrast,
    "sharpness": _sharpness,
    "brightness": _brightness,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "invert": _invert,
}

_OPERATION = torch.tensor([[OPERATIONS.index(name) for name, _, _ in row] for row in CIFAR_POLICY])
_AMOUNT = torch.tensor([[MAGNITUDES[name][level] for name, _, level in row] for row in CIFAR_POLICY], dtype=torch.float64)
_HEEDS_SIGN = torch.tensor([[name in SIGNED for name, _, _ in row] for row in CIFAR_POLICY])
