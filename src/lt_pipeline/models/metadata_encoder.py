"""What networks make of an image's side information: tokens (Diao et al., arXiv 2203.02751, section 3.3).

Metadata is float [B, d], the groups side by side, or [B, T, d] for the one group that has T tokens, such as the words of a caption. NaN is missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_pipeline.errors import LongTailError


@dataclass(frozen=True)
class MetadataShape:
    """What a network needs to know about the metadata.

    Attributes:
        widths: numbers of each group, in order; none is a network without metadata.
        tokens: T of the one group of tokens; 1 for vectors, each group of which becomes a token.
    """

    widths: tuple[int, ...] = ()
    tokens: int = 1

    def __post_init__(self) -> None:
        if self.tokens > 1 and len(self.widths) != 1:
            raise LongTailError(f"Metadata of several tokens must be one group, such as a text; there are {len(self.widths)} groups.")

    @property
    def extra_tokens(self) -> int:
        """Tokens that the metadata adds to a sequence."""
        return len(self.widths) * self.tokens

    def split(self, metadata: Tensor | None, batch: int, like: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return the groups [B, width] or [B, T, width], zero where missing, and for each which samples have any of it, bool [B].

        Args:
            metadata: [B, d] or [B, T, d]; None is missing altogether.
            batch: B.
            like: gives device and, where nothing is given, type.

        Raises:
            LongTailError: if the metadata has another shape than the network was made for.
        """
        wanted = (batch, sum(self.widths)) if self.tokens == 1 else (batch, self.tokens, sum(self.widths))
        if metadata is None:
            metadata = torch.full(wanted, torch.nan, device=like.device)
        if metadata.shape != wanted:
            raise LongTailError(
                f"Metadata of shape {tuple(metadata.shape)} does not fit this network, which takes {wanted}: groups of "
                f"{', '.join(map(str, self.widths))} numbers."
            )
        groups = metadata.split(self.widths, dim=-1)
        present = tuple((~group.isnan()).flatten(1).any(1) for group in groups)
        return tuple(group.nan_to_num(nan=0.0) for group in groups), present


class _Residual(nn.Module):
    """``x + LN(ReLU(W2 LN(ReLU(W1 x))))``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.norm1 = nn.Linear(width, width), nn.LayerNorm(width)
        self.fc2, self.norm2 = nn.Linear(width, width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm1(F.relu(self.fc1(x)))
        return x + self.norm2(F.relu(self.fc2(hidden)))


class MetadataEncoder(nn.Module):
    """A small residual network that turns one group of metadata into tokens; its norms come after the ReLUs.

    Args:
        in_features: numbers of the group.
        width: D of the tokens.
    """

    def __init__(self, in_features: int, width: int) -> None:
        super().__init__()
        self.fc, self.norm = nn.Linear(in_features, width), nn.LayerNorm(width)
        self.res = _Residual(width)

    def forward(self, group: Tensor) -> Tensor:
        """Return [..., D] of [..., in_features]."""
        encoded: Tensor = self.res(self.norm(F.relu(self.fc(group))))
        return encoded


def encode_tokens(encoders: Sequence[nn.Module], groups: Sequence[Tensor]) -> Tensor:
    """Return the tokens [B, E, D] of groups [B, width] or [B, T, width], each by its encoder."""
    encoded = [encoder(group) for encoder, group in zip(encoders, groups, strict=True)]
    return torch.cat([tokens if tokens.ndim == 3 else tokens.unsqueeze(1) for tokens in encoded], dim=1)
