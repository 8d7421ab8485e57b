"""AutoAugment's operations on batches of images, every one bit-equal to Pillow's, and what moves pixels in general.

Here a batch is uint8 [B, H, W, 3] in memory order. An operation is a ``Kernel``: it takes such images (contiguous), their signed
magnitudes, float64 [B], and the colour outside, and returns images of the same shape.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import torch
from torch import Tensor

Kernel = Callable[[Tensor, Tensor, Sequence[int]], Tensor]


def outside(x: Tensor, y: Tensor, height: int, width: int) -> Tensor:
    """Return int32 with all bits set where (x, y) lies outside an image, 0 elsewhere; ``x`` and ``y`` are int32 that broadcast.

    The sign bit tells; torch vectorises integers but not comparisons, which take three times as long.
    """
    return (x | (width - 1 - x) | y | (height - 1 - y)) >> 31


def remap(pixels: Tensor, x: Tensor, y: Tensor, hidden: Tensor | None = None, fill: Sequence[int] = (0, 0, 0)) -> Tensor:
    """Take each output pixel from column x and row y of its image, or ``fill`` where ``hidden``.

    Args:
        pixels: uint8 [B, H, W, 3], contiguous.
        x: int32, broadcasts to [B, h, w] with y.
        y: likewise.
        hidden: as ``outside`` returns it; None promises that x and y lie inside.
        fill: colour where hidden.

    Returns:
        uint8 [B, h, w, 3].
    """
    count, height, width, channels = pixels.shape
    table = pixels.view(-1, channels)
    start = torch.arange(count, device=pixels.device, dtype=torch.int32)[:, None, None] * (height * width)
    source = (start + y * width) + x
    if hidden is not None:  # the colour goes first: all bits set is -1, one place before the first pixel
        source = (source | hidden).add_(1)
        table = torch.cat((torch.tensor([tuple(fill)], dtype=torch.uint8, device=pixels.device), table))
    return table.index_select(0, source.reshape(-1)).view(*source.shape, channels)


def rotation_source(degrees: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return where each output pixel of a rotation comes from, as Pillow computes it: column and row, which may lie outside.

    Pillow walks the affine map in 16.16 fixed point from the centre of the first pixel and cuts off the fraction.

    Args:
        degrees: float64 [B], counter-clockwise.
        height: of the images, below 16384.
        width: of the images, likewise.

    Returns:
        int32 [B, H, W] each.
    """
    angle = -torch.deg2rad(torch.remainder(degrees.double(), 360.0))
    cosine, sine = torch.cos(angle), torch.sin(angle)
    middle_x, middle_y = width / 2, height / 2
    x_start = (cosine * -middle_x + sine * -middle_y + middle_x) + cosine * 0.5 + sine * 0.5
    y_start = (-sine * -middle_x + cosine * -middle_y + middle_y) - sine * 0.5 + cosine * 0.5
    coefficients = torch.floor(torch.stack((x_start, cosine, sine, y_start, -sine)) * 65536.0 + 0.5).int()
    x_0, x_column, x_row, y_0, y_column = coefficients[:, :, None, None].unbind(0)
    column, row = grid(height, width, degrees.device)
    x = (x_0 + x_column * column) + x_row * row
    y = (y_0 + y_column * column) + x_column * row
    return x.bitwise_right_shift_(16), y.bitwise_right_shift_(16)


@lru_cache(maxsize=32)
def grid(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the columns, int32 [1, 1, W], and rows, int32 [1, H, 1], of an image; shared, so not to be changed."""
    columns = torch.arange(width, device=device, dtype=torch.int32)[None, None, :]
    return columns, torch.arange(height, device=device, dtype=torch.int32)[None, :, None]


def in_pieces(kernel: Kernel, pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    """Run a kernel that makes 64-bit intermediates on a few images at a time, which keeps these small.

    That is no faster where freed memory is kept (``training/allocator.py``); elsewhere a large one is mapped from the system and returned to it
    each time, which on a CPU takes longer than the arithmetic.
    """
    if pixels.device.type != "cpu" or pixels.numel() <= _PIECE:
        return kernel(pixels, amount, fill)
    size = max(1, _PIECE // pixels[0].numel())
    return torch.cat([kernel(*piece, fill) for piece in zip(pixels.split(size), amount.split(size), strict=True)])


_PIECE = 1 << 16
"""Values of a piece: about twenty CIFAR images."""


def _rotate(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    height, width = pixels.shape[1:3]
    x, y = rotation_source(amount, height, width)
    return remap(pixels, x, y, outside(x, y, height, width), fill)


def _translate(pixels: Tensor, amount: Tensor, fill: Sequence[int], axis: int) -> Tensor:
    height, width = pixels.shape[1:3]
    x, y = grid(height, width, pixels.device)
    if axis == 2:
        x = torch.floor((amount * width + 0.5)[:, None, None] + x).int()
    else:
        y = torch.floor((amount * height + 0.5)[:, None, None] + y).int()
    return remap(pixels, x, y, outside(x, y, height, width), fill)


def _shear(pixels: Tensor, amount: Tensor, fill: Sequence[int], axis: int) -> Tensor:
    # A shear along x is a one-dimensional interpolation: rows meet rows exactly, Pillow's vertical pass then returns its second tap.
    # The rest is Pillow's cubic in its order of operations, in float64 as there; on planes [b, 3, H, W], where positions broadcast fast.
    planes = pixels.permute(0, 3, 1, 2) if axis == 2 else pixels.permute(0, 3, 2, 1)
    height, width = planes.shape[2:]
    column, row = grid(height, width, pixels.device)
    position = (column + 0.5) + amount[:, None, None] * (row + 0.5)
    colour = torch.tensor(tuple(fill), dtype=torch.float64, device=pixels.device)[:, None, None]
    inside = ((position >= 0) & (position < width))[:, None]
    position = position - 0.5
    base = torch.floor(position)
    part, base = (position - base)[:, None], base.long()[:, None]
    values = planes.double().contiguous()
    first, second, third, fourth = (
        values.gather(3, (base + offset).clamp_(0, width - 1).expand(-1, 3, -1, -1)) for offset in (-1, 0, 1, 2)
    )
    slope = third - first
    square = 2 * (first - second) + third - fourth
    cube = -first + second - third + fourth
    value = second + part * (slope + part * (square + part * cube))
    result = to_bytes(torch.where(inside, value, colour))
    return result.permute(0, 2, 3, 1) if axis == 2 else result.permute(0, 3, 2, 1)


@lru_cache(maxsize=32)
def _table_starts(width: int, device: torch.device) -> Tensor:
    return torch.arange(3, device=device).mul_(256).repeat(width)


@lru_cache(maxsize=8)
def _levels(device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.arange(256, device=device).to(dtype)


def _entries(pixels: Tensor) -> Tensor:
    """Return int64 [b, H * W * 3]: where each value stands in a table [3 * 256] of its image."""
    return pixels.flatten(2).long().add_(_table_starts(pixels.shape[2], pixels.device)).flatten(1)


def _look_up(pixels: Tensor, table: Tensor, entries: Tensor) -> Tensor:
    """Replace each value by ``table[image, channel, value]``, uint8 [b, 3, 256]."""
    return torch.gather(table.view(len(pixels), 768), 1, entries).view_as(pixels)


def _invert(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    return ~pixels


def _posterize(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    mask = (256 - torch.pow(2, 8 - amount)).to(torch.uint8)
    return pixels & mask[:, None, None, None]


def _solarize(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    dark = (pixels.short() - torch.ceil(amount).short()[:, None, None, None]) >> 15  # all bits set below the threshold, else 0
    return pixels ^ ~dark.to(torch.uint8)  # 255 - value is the value with all bits turned over


def _autocontrast(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    columns = pixels.flatten(2)  # first over the rows, whose values lie side by side: far faster than over every third value
    low = columns.amin(1).view(len(pixels), -1, 3).amin(1).double()[:, :, None]
    high = columns.amax(1).view(len(pixels), -1, 3).amax(1).double()[:, :, None]
    scale = torch.full_like(low, 255.0) / (high - low)  # `255.0 / tensor` would multiply by a rounded reciprocal
    levels = _levels(pixels.device, torch.float64)
    table = (levels * scale).add_(-low * scale).clamp_(0, 255).to(torch.uint8)
    return _look_up(pixels, torch.where(high > low, table, _levels(pixels.device, torch.uint8)), _entries(pixels))


def _equalize(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    count, height, width, _ = pixels.shape
    entries = _entries(pixels)
    images = torch.arange(count, device=pixels.device)[:, None] * 768
    histogram = torch.bincount((entries + images).view(-1), minlength=count * 768).view(count, 3, 256).double()
    upto = histogram.cumsum(2)
    # All but the pixels of the brightest level: the largest cumulative count below the total.
    step = torch.floor(torch.where(upto < height * width, upto, 0).amax(2, keepdim=True) / 255)
    table = torch.floor((upto - histogram + torch.floor(step / 2)) / step.clamp(min=1)).clamp_(max=255).to(torch.uint8)
    return _look_up(pixels, torch.where(step > 0, table, _levels(pixels.device, torch.uint8)), entries)


def to_bytes(values: Tensor) -> Tensor:
    """Cut float values off to uint8 after clipping, changing ``values``; by way of int16, which torch vectorises."""
    return values.clamp_(0, 255).short().to(torch.uint8)


def _blend(degenerate: Tensor, pixels: Tensor, amount: Tensor) -> Tensor:
    """Pillow's blend with factor ``1 + amount`` of float32 values: cut off, clipped."""
    factor = (1 + amount).float().view(-1, *[1] * (pixels.dim() - 1))
    return to_bytes((pixels - degenerate).mul_(factor).add_(degenerate))


def _luminance(pixels: Tensor) -> Tensor:
    """ITU-R 601 luminance in Pillow's fixed point, int32 [b, H, W, 1]."""
    red, green, blue = pixels.int().split(1, dim=3)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def _brightness(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    factor = (1 + amount).float()[:, None, None, None]
    return to_bytes(pixels.float().mul_(factor))


def _color(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    grey = _luminance(pixels).float().expand(-1, -1, -1, 3).contiguous()
    return _blend(grey, pixels.float(), amount)


def _contrast(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    total = _luminance(pixels).sum((1, 2, 3), keepdim=True).double()
    mean = torch.floor(total / (pixels.shape[1] * pixels.shape[2]) + 0.5).float()
    return _blend(mean, pixels.float(), amount)


def _sharpness(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    values = pixels.short().flatten(2)  # [b, H, 3 * W]: a neighbour in the row is three values away
    smooth = values.float()
    if min(pixels.shape[1:3]) > 2:
        middle = values[:, 1:-1]
        column = values[:, :-2] + middle + values[:, 2:]
        total = column[:, :, :-6] + column[:, :, 3:-3] + column[:, :, 6:] + 4 * middle[:, :, 3:-3]
        # Pillow leaves the border as it is. No tie can occur, so float32 rounds as Pillow does.
        smooth[:, 1:-1, 3:-3] = total.float().div_(13).add_(0.5).floor_()
    return _blend(smooth, values, amount).view_as(pixels)


KERNELS: dict[str, Kernel] = {
    "shearX": partial(in_pieces, partial(_shear, axis=2)),
    "shearY": partial(in_pieces, partial(_shear, axis=1)),
    "translateX": partial(_translate, axis=2),
    "translateY": partial(_translate, axis=1),
    "rotate": _rotate,
    "color": _color,
    "posterize": _posterize,
    "solarize": _solarize,
    "contrast": _contrast,
    "sharpness": _sharpness,
    "brightness": _brightness,
    "autocontrast": partial(in_pieces, _autocontrast),
    "equalize": partial(in_pieces, _equalize),
    "invert": _invert,
}
"""Every operation, named as in ``policies.OPERATIONS``."""
