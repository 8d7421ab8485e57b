"""MetaFG at another resolution: only the tables of position biases depend on it."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Rule = Literal["aligned", "published"]


def resize_bias_table(table: Tensor, grid: int, rule: Rule = "aligned") -> Tensor:
    """Return a bias table for another token grid, resized bicubically with one image per head.

    A table of ``n^2 + 1`` rows holds the offsets between the places of a square grid in its first ``n^2`` rows; row 0 also serves the extra tokens
    and the last one nobody. ``aligned`` resizes just those rows, then restores row 0. The authors' code takes rows 1 to ``n^2`` for the offsets
    (``published``): each bias moves by one offset, and rows of the picture run over into the next.

    Args:
        table: ``[(2 h - 1)^2 + 1, heads]`` of a grid of h x h tokens.
        grid: side of the new grid in tokens.
        rule: which rows are the picture.

    Returns:
        ``[(2 grid - 1)^2 + 1, heads]``; the very table if the size stays.
    """
    before, after = round((len(table) - 1) ** 0.5), 2 * grid - 1
    if before == after:
        return table
    start = 0 if rule == "aligned" else 1
    picture = table[start : start + before**2].T.reshape(1, -1, before, before)
    computed = picture.to(torch.promote_types(picture.dtype, torch.float32))
    resized = F.interpolate(computed, size=(after, after), mode="bicubic", align_corners=False)[0].flatten(1).T.to(table.dtype)
    if rule == "published":
        return torch.cat([table[:1], resized])
    return torch.cat([table[:1], resized[1:], table[-1:]])


def resized_state(state: dict[str, Tensor], image_size: int, rule: Rule = "aligned") -> dict[str, Tensor]:
    """Return a MetaFG's weights by name with its bias tables resized to images of another side, a multiple of 32."""
    grids = {"stage3": image_size // 16, "stage4": image_size // 32}
    return {
        name: resize_bias_table(tensor, grids[name.split(".")[0]], rule) if name.endswith(".attn.bias_table") else tensor
        for name, tensor in state.items()
    }
