"""The attention half of MetaFG: relative attention over class, metadata and image tokens (Diao et al., arXiv 2203.02751, section 3.2).

Tokens are [B, E + h w, D]: E extra tokens (the class token, then those of the metadata), then the image's, row by row.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_pipeline.models.metafg.convolution import StochasticDepth


def table_rows(height: int, width: int) -> int:
    """Return the rows of a bias table: one for each offset between two places of a grid, and one that nothing reads."""
    return (2 * height - 1) * (2 * width - 1) + 1


def relative_position_index(height: int, width: int, extra_tokens: int) -> Tensor:
    """Return the row of the bias table for each (query, key), int64 [E + h w, E + h w].

    Two image tokens at offset (dy, dx) have row ``(dy + h - 1) (2 w - 1) + dx + w - 1``. Every pair with an extra token has row 0, which is also
    that of the offset (-(h - 1), -(w - 1)); released weights were trained so.
    """
    rows = torch.arange(height).repeat_interleave(width)
    columns = torch.arange(width).repeat(height)
    down = rows[:, None] - rows[None, :] + height - 1
    across = columns[:, None] - columns[None, :] + width - 1
    return F.pad(down * (2 * width - 1) + across, (extra_tokens, 0, extra_tokens, 0))


class RelativeAttention(nn.Module):
    """Self-attention with a learned bias for each head and offset.

    Args:
        width: D, a multiple of ``heads``.
        heads: H.
        grid: height and width of the image's token grid.
        extra_tokens: E.
    """

    def __init__(self, width: int, heads: int, grid: tuple[int, int], extra_tokens: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.bias_table = nn.Parameter(torch.zeros(table_rows(*grid), heads))
        self.out = nn.Linear(width, width)
        self.register_buffer("index", relative_position_index(*grid, extra_tokens).flatten(), persistent=False)

    def position_bias(self) -> Tensor:
        """Return the bias [H, N, N] for N tokens.

        Selecting columns of the transposed table writes each head's matrix at once; ``table[index]`` would write [N, N, H] to be turned around.
        """
        index = self.get_buffer("index")
        tokens = round(len(index) ** 0.5)
        return self.bias_table.t().index_select(1, index).view(self.heads, tokens, tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens [B, N, D] of tokens [B, N, D]."""
        batch, number, width = tokens.shape
        query, key, value = self.qkv(tokens).view(batch, number, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=self.position_bias().to(query.dtype).unsqueeze(0))
        merged: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, number, width))
        return merged

    def product_macs(self, tokens: int) -> int:
        """Return the multiply-accumulates of scores and mixing for one image of so many tokens."""
        return 2 * tokens**2 * self.qkv.in_features


class PatchEmbedding(nn.Module):
    """Overlapping patches: a 3x3 convolution that halves the side, flattened row by row and normalised.

    Args:
        in_channels: C.
        width: D.
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 3, 2, 1)
        self.norm = nn.LayerNorm(width)

    def forward(self, maps: Tensor) -> Tensor:
        """Return tokens [B, h w / 4, D] of maps [B, C, h, w]."""
        tokens: Tensor = self.norm(self.conv(maps).flatten(2).transpose(1, 2))
        return tokens


class Mlp(nn.Module):
    """Two linear layers with GELU between them.

    Args:
        width: of the input.
        hidden: between the layers.
        out: of the result.
    """

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., out] of [..., width]."""
        y: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return y


class TransformerBlock(nn.Module):
    """Pre-norm attention and MLP; the first block of a stage embeds the maps before it.

    Args:
        width: D.
        heads: of the attention.
        grid: height and width of the image's tokens in this block.
        extra_tokens: E.
        mlp_ratio: hidden width of the MLP by D.
        drop: probability of stochastic depth, for each of the two branches.
        in_channels: of the maps that the first block of a stage embeds; None in the others.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        grid: tuple[int, int],
        extra_tokens: int,
        mlp_ratio: int = 4,
        drop: float = 0.0,
        in_channels: int | None = None,
    ) -> None:
        super().__init__()
        if in_channels is not None:
            self.downsample = PatchEmbedding(in_channels, width)
        self.attn_norm = nn.LayerNorm(width)
        self.attn = RelativeAttention(width, heads, grid, extra_tokens)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = Mlp(width, mlp_ratio * width, width)
        self.drop = StochasticDepth(drop)

    def forward(self, x: Tensor, extra: Tensor | None = None) -> Tensor:
        """Return tokens [B, E + h w, D] of such tokens, or of maps [B, C, 2 h, 2 w] and the extra tokens [B, E, D] to put before theirs."""
        if extra is not None:
            x = torch.cat([extra, self.downsample(x)], dim=1)
        x = x + self.drop(self.attn(self.attn_norm(x)))
        return x + self.drop(self.mlp(self.mlp_norm(x)))


class AttentionStage(nn.Module):
    """A class token and the blocks it runs through with the image.

    The blocks are the children ``0``, ``1``, ...

    Args:
        in_channels: of the maps before the stage.
        width: D.
        heads: of the attention.
        grid: height and width of the stage's tokens.
        extra_tokens: E, the class token among them.
        drops: probability of stochastic depth of each block.
        mlp_ratio: hidden width of the MLPs by D.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        heads: int,
        grid: tuple[int, int],
        extra_tokens: int,
        drops: tuple[float, ...],
        mlp_ratio: int = 4,
    ) -> None:
        super().__init__()
        self.grid, self.depth, self.extra_tokens = grid, len(drops), extra_tokens
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        for number, drop in enumerate(drops):
            block = TransformerBlock(width, heads, grid, extra_tokens, mlp_ratio, drop, in_channels if number == 0 else None)
            self.add_module(str(number), block)

    def forward(self, maps: Tensor, metadata_tokens: Tensor | None = None) -> Tensor:
        """Return tokens [B, E + h w, D] of maps [B, C, 2 h, 2 w] and metadata tokens [B, E - 1, D]."""
        token = self.cls_token.expand(len(maps), -1, -1)
        extra: Tensor | None = token if metadata_tokens is None else torch.cat([token, metadata_tokens.to(token.dtype)], dim=1)
        x = maps
        for number in range(self.depth):
            x = self.get_submodule(str(number))(x, extra)
            extra = None
        return x

    def maps(self, tokens: Tensor) -> Tensor:
        """Return the image's tokens as maps [B, D, h, w]."""
        return tokens[:, self.extra_tokens :].transpose(1, 2).unflatten(2, self.grid)
