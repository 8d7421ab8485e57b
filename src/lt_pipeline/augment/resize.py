"""Resizing boxes of images as two matrix products, for whole batches on any device."""

import torch
from torch import Tensor


def resizing_matrix(start: Tensor, length: Tensor, source: int, size: int, cubic: bool = True, mirror: Tensor | None = None) -> Tensor:
    """Return the weights with which ``size`` output pixels are made of ``source`` input pixels along one axis, float32 [B, size, source].

    They are Pillow's: the cubic with a = -0.5 (or the triangle) around each output pixel's centre, widened where the box shrinks
    (antialiasing), cut off at the box's border and normalised.

    Args:
        start: first pixel of each image's box, int64 [B].
        length: pixels in it, likewise.
        source: of the input along the axis.
        size: of the output.
        cubic: bicubic, otherwise bilinear.
        mirror: bool [B], whose output is turned round.
    """
    device = start.device
    length, start = length.float()[:, None, None], start.float()[:, None, None]
    scale = length / size
    reach = scale.clamp_min(1.0)
    centre = (torch.arange(size, device=device) + 0.5)[None, :, None] * scale
    if mirror is not None:
        centre = torch.where(mirror.to(device)[:, None, None], length - centre, centre)
    place = torch.arange(source, device=device)[None, None] - start
    weights = _kernel((place + 0.5 - centre) / reach, cubic) * ((place >= 0) & (place < length))
    return weights / weights.sum(-1, keepdim=True)


def resized(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return uint8 [B, h, w, 3] in memory order of uint8 [B, 3, H, W] by the weights of rows [B, h, H] and columns [B, w, W].

    The columns come first and are rounded to whole levels in between, as in Pillow; its fixed point rarely gives another level. Weights [1, ...]
    hold for all images.
    """
    pieces = [
        _resized(images[piece], rows[piece if len(rows) > 1 else slice(None)], columns[piece if len(columns) > 1 else slice(None)])
        for piece in pieces_of(len(images), images.device)
    ]
    return torch.cat(pieces) if len(pieces) > 1 else pieces[0]


def pieces_of(count: int, device: torch.device) -> list[slice]:
    """Return the parts in which large images are worked on: on a CPU a few at a time, whose intermediates stay small, else all."""
    size = _PIECE if device.type == "cpu" else max(count, 1)
    return [slice(start, start + size) for start in range(0, max(count, 1), size)]


_PIECE = 8
"""Images: eight of 224 pixels take 5 MB in float32."""


def _resized(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    count, channels, height, width = images.shape
    wide = images.float().reshape(count, channels * height, width) @ columns.mT
    wide = wide.add_(0.5).floor_().clamp_(0, 255).view(count, channels, height, -1).permute(0, 2, 3, 1).reshape(count, height, -1)
    result = (rows @ wide).add_(0.5).clamp_(0, 255).short().to(torch.uint8)  # by way of int16, which torch vectorises
    return result.view(count, rows.shape[1], -1, channels)


def _kernel(distance: Tensor, cubic: bool) -> Tensor:
    x = distance.abs()
    if not cubic:
        return (1 - x).clamp_min(0)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
