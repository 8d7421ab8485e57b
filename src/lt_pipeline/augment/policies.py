"""The AutoAugment policy of CIFAR-10 on whole batches, every operation bit-equal to Pillow's.

The policy is the one of Cubuk et al., "AutoAugment: Learning Augmentation Policies from Data", CVPR 2019 (table 7), with the magnitudes and
details of the implementation that SHIKE (Jin et al., CVPR 2023) and MDCS (Zhao et al., ICCV 2023) share: rotation is never negative, geometric
operations fill with grey, shear is bicubic, translation and rotation take the nearest pixel.

Inside this module a batch is uint8 [B, H, W, 3] in memory order; the public functions take and return [B, 3, H, W].
"""

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


def apply_operation(images: Tensor, name: str, magnitude: float | Tensor, sign: int | Tensor = 1, *, fill: Sequence[int] = GREY) -> Tensor:
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
        operation = torch.where(applied[:, place], _OPERATION[choice, place], len(OPERATIONS))
        amount = _AMOUNT[choice, place] * torch.where(_HEEDS_SIGN[choice, place], sign[:, place], 1)
        order = torch.argsort(operation, stable=True)
        sizes = torch.bincount(operation, minlength=len(OPERATIONS) + 1).tolist()
        groups = zip(order.to(pixels.device).split(sizes), amount[order].to(pixels.device).split(sizes), strict=True)
        for name, (rows, amounts) in zip(OPERATIONS, groups, strict=False):  # the last group is left alone
            if len(rows):
                pixels.index_copy_(0, rows, _KERNELS[name](pixels.index_select(0, rows), amounts, fill))
    return pixels.permute(0, 3, 1, 2)


def remap(pixels: Tensor, x: Tensor, y: Tensor, inside: Tensor | None = None, fill: Sequence[int] = GREY) -> Tensor:
    """Take each output pixel from column x and row y of its image, or ``fill`` where that lies outside.

    Args:
        pixels: uint8 [B, H, W, 3], contiguous.
        x: int32 that broadcast to [B, h, w] with y.
        y: likewise.
        inside: bool [B, h, w], where x and y lie in the image; None promises that they always do.
        fill: colour outside.

    Returns:
        uint8 [B, h, w, 3].
    """
    count, height, width, channels = pixels.shape
    table = pixels.view(-1, channels)
    start = torch.arange(count, device=pixels.device, dtype=torch.int32)[:, None, None] * (height * width)
    source = (start + y * width) + x
    if inside is not None:
        source = torch.where(inside, source, len(table))
        table = torch.cat((table, torch.tensor([tuple(fill)], dtype=torch.uint8, device=pixels.device)))
    return table.index_select(0, source.reshape(-1)).view(*source.shape, channels)


def rotation_source(degrees: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return where each output pixel of a rotation comes from, as Pillow computes it: column, row, and whether they lie in the image.

    Pillow walks the affine map in 16.16 fixed point from the centre of the first pixel and cuts off the fraction.

    Args:
        degrees: float64 [B], counter-clockwise.
        height: of the images, below 16384.
        width: of the images, likewise.

    Returns:
        int32, int32 and bool [B, H, W].
    """
    angle = -torch.deg2rad(torch.remainder(degrees.double(), 360.0))
    cosine, sine = torch.cos(angle), torch.sin(angle)
    middle_x, middle_y = width / 2, height / 2
    shift_x = cosine * -middle_x + sine * -middle_y + middle_x
    shift_y = -sine * -middle_x + cosine * -middle_y + middle_y

    def fixed(value: Tensor) -> Tensor:
        return torch.floor(value * 65536.0 + 0.5).int()[:, None, None]

    column = torch.arange(width, device=degrees.device, dtype=torch.int32)
    row = torch.arange(height, device=degrees.device, dtype=torch.int32)[:, None]
    x = (fixed(shift_x + cosine * 0.5 + sine * 0.5) + fixed(cosine) * column) + fixed(sine) * row
    y = (fixed(shift_y - sine * 0.5 + cosine * 0.5) + fixed(-sine) * column) + fixed(cosine) * row
    x >>= 16
    y >>= 16
    return x, y, (x >= 0) & (x < width) & (y >= 0) & (y < height)


# Operations: (pixels uint8 [b, H, W, 3] contiguous, signed magnitude float64 [b], fill) -> uint8 [b, H, W, 3].


def _rotate(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    return remap(pixels, *rotation_source(amount, pixels.shape[1], pixels.shape[2]), fill)


def _translate(pixels: Tensor, amount: Tensor, fill: Sequence[int], axis: int) -> Tensor:
    count, height, width, _ = pixels.shape
    column = torch.arange(width, device=pixels.device, dtype=torch.int32)[None, None, :]
    row = torch.arange(height, device=pixels.device, dtype=torch.int32)[None, :, None]
    side, still = (width, column) if axis == 2 else (height, row)
    moved = torch.floor((amount * side + 0.5)[:, None, None] + still).int()
    inside = ((moved >= 0) & (moved < side)).expand(count, height, width)
    return remap(pixels, moved, row, inside, fill) if axis == 2 else remap(pixels, column, moved, inside, fill)


def _shear(pixels: Tensor, amount: Tensor, fill: Sequence[int], axis: int) -> Tensor:
    # A shear along x is a one-dimensional interpolation: rows meet rows exactly, Pillow's vertical pass then returns its second tap.
    if axis == 1:
        return _shear(pixels.transpose(1, 2), amount, fill, 2).transpose(1, 2)
    width, channels = pixels.shape[2:]
    column = torch.arange(width, device=pixels.device, dtype=torch.float64) + 0.5
    row = torch.arange(pixels.shape[1], device=pixels.device, dtype=torch.float64)[:, None] + 0.5
    position = column + amount[:, None, None] * row
    inside = (position >= 0) & (position < width)
    position = position - 0.5
    base = torch.floor(position)
    part = (position - base)[..., None]
    first, second, third, fourth = (
        torch.gather(pixels, 2, (base.long() + offset).clamp(0, width - 1)[..., None].expand(-1, -1, -1, channels)).double()
        for offset in (-1, 0, 1, 2)
    )
    slope = third - first
    square = 2 * (first - second) + third - fourth
    cube = -first + second - third + fourth
    value = second + part * (slope + part * (square + part * cube))
    colour = torch.tensor(tuple(fill), dtype=torch.uint8, device=pixels.device)
    return torch.where(inside[..., None], value.clamp(0, 255).to(torch.uint8), colour)


def _entries(pixels: Tensor) -> Tensor:
    """Return int64 [b, H * W * 3]: where each value stands in a table [3 * 256] of its image."""
    channels = torch.arange(3, device=pixels.device).mul_(256).repeat(pixels.shape[1] * pixels.shape[2])
    return pixels.view(len(pixels), -1).long().add_(channels)


def _look_up(pixels: Tensor, table: Tensor, entries: Tensor) -> Tensor:
    """Replace each value by ``table[image, channel, value]``, uint8 [b, 3, 256]."""
    return torch.gather(table.view(len(pixels), 768), 1, entries).view_as(pixels)


def _identity(pixels: Tensor) -> Tensor:
    return torch.arange(256, device=pixels.device, dtype=torch.uint8)


def _invert(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    return ~pixels


def _posterize(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    mask = (256 - torch.pow(2, 8 - amount)).to(torch.uint8)
    return pixels & mask[:, None, None, None]


def _solarize(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    bright = pixels.short() >= torch.ceil(amount).short()[:, None, None, None]
    return pixels ^ bright.view(torch.uint8).neg_()  # 255 - value is the value with all bits turned over


def _autocontrast(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    columns = pixels.flatten(2)  # first over the rows, whose values lie side by side: far faster than over every third value
    low = columns.amin(1).view(len(pixels), -1, 3).amin(1).double()[:, :, None]
    high = columns.amax(1).view(len(pixels), -1, 3).amax(1).double()[:, :, None]
    scale = torch.full_like(low, 255.0) / (high - low)  # `255.0 / tensor` would multiply by a rounded reciprocal
    levels = torch.arange(256, device=pixels.device, dtype=torch.float64)
    table = (levels * scale).add_(-low * scale).clamp_(0, 255).to(torch.uint8)
    return _look_up(pixels, torch.where(high > low, table, _identity(pixels)), _entries(pixels))


def _equalize(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    count, height, width, _ = pixels.shape
    entries = _entries(pixels)
    images = torch.arange(count, device=pixels.device)[:, None] * 768
    histogram = torch.bincount((entries + images).view(-1), minlength=count * 768).view(count, 3, 256).double()
    upto = histogram.cumsum(2)
    # All but the pixels of the brightest level: the largest cumulative count below the total.
    step = torch.floor(torch.where(upto < height * width, upto, 0).amax(2, keepdim=True) / 255)
    table = torch.floor((upto - histogram + torch.floor(step / 2)) / step.clamp(min=1)).clamp_(max=255).to(torch.uint8)
    return _look_up(pixels, torch.where(step > 0, table, _identity(pixels)), entries)


def _blend(degenerate: Tensor, pixels: Tensor, amount: Tensor) -> Tensor:
    """Pillow's blend with factor ``1 + amount`` of float32 values: cut off, clipped."""
    factor = (1 + amount).float().view(-1, *[1] * (pixels.dim() - 1))
    return (pixels - degenerate).mul_(factor).add_(degenerate).clamp_(0, 255).to(torch.uint8)


def _luminance(pixels: Tensor) -> Tensor:
    """ITU-R 601 luminance in Pillow's fixed point, int32 [b, H, W, 1]."""
    red, green, blue = pixels.int().split(1, dim=3)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def _brightness(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    factor = (1 + amount).float()[:, None, None, None]
    return pixels.float().mul_(factor).clamp_(0, 255).to(torch.uint8)


def _color(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    grey = _luminance(pixels).float().expand(-1, -1, -1, 3).contiguous()
    return _blend(grey, pixels.float(), amount)


def _contrast(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    total = _luminance(pixels).sum((1, 2, 3), keepdim=True).double()
    mean = torch.floor(total / (pixels.shape[1] * pixels.shape[2]) + 0.5).float()
    return _blend(mean, pixels.float(), amount)


def _sharpness(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    values = pixels.float().flatten(2)  # [b, H, 3 * W]: a neighbour in the row is three values away
    smooth = values
    if min(pixels.shape[1:3]) > 2:
        middle = values[:, 1:-1]
        column = values[:, :-2] + middle + values[:, 2:]
        total = column[:, :, :-6] + column[:, :, 3:-3] + column[:, :, 6:] + 4 * middle[:, :, 3:-3]
        smooth = values.clone()  # Pillow leaves the border as it is
        smooth[:, 1:-1, 3:-3] = torch.floor(total / 13 + 0.5)  # no tie can occur, so float32 rounds as Pillow does
    return _blend(smooth, values, amount).view_as(pixels)


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
