"""MetaFG as a whole (Diao et al., arXiv 2203.02751, section 3.2 and table 1).

Children and weights are named after the parts: ``stem``, ``stage1`` .. ``stage4``, ``meta.<group>.stage3`` and ``.stage4``, ``aggregate``, ``head``.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from lt_pipeline.errors import LongTailError
from lt_pipeline.models.heads import LinearClassifier
from lt_pipeline.models.metadata_encoder import MetadataEncoder, MetadataShape, encode_tokens
from lt_pipeline.models.metadata_network import MetadataClassifier
from lt_pipeline.models.metafg.attention import AttentionStage, Mlp, RelativeAttention
from lt_pipeline.models.metafg.convolution import MBConv, Stem

STRIDE = 32
"""Image side by the side of stage 4's tokens; stage 3 has twice as many a side."""
_INIT_STD = 0.02


@dataclass(frozen=True)
class Architecture:
    """Widths and depths.

    Attributes:
        conv_widths: channels of the stem, stage 1 and stage 2.
        attention_widths: of the tokens in stages 3 and 4.
        conv_depths: blocks of stages 1 and 2.
        attention_depths: blocks of stages 3 and 4.
        heads: of each attention.
        ratio: expansion of the MBConv blocks and of the MLPs.
    """

    conv_widths: tuple[int, int, int]
    attention_widths: tuple[int, int]
    conv_depths: tuple[int, int]
    attention_depths: tuple[int, int]
    heads: int = 8
    ratio: int = 4


SIZES: dict[str, Architecture] = {
    "metafg_micro": Architecture((16, 16, 24), (48, 64), (1, 1), (1, 1), heads=4),
    "metafg_tiny": Architecture((32, 48, 96), (192, 384), (2, 2), (3, 2)),
    "metafg_0": Architecture((64, 96, 192), (384, 768), (2, 3), (5, 2)),
    "metafg_1": Architecture((64, 96, 192), (384, 768), (2, 6), (14, 2)),
    "metafg_2": Architecture((128, 128, 256), (512, 1024), (2, 6), (14, 2)),
}
"""Micro and tiny are ours, for tests and for small images; the others are published."""


def drop_rates(blocks: int, last: float) -> tuple[float, ...]:
    """Return the stochastic depth of each block, rising evenly from 0 to ``last``."""
    return tuple(float(rate) for rate in np.linspace(0, last, blocks))


class Aggregation(nn.Module):
    """Makes one feature vector of the class tokens of both attention stages.

    Stage 3's is lifted to stage 4's width; the two are mixed by a learned pair of scalars and a bias, the same for all channels.

    Args:
        width3: of stage 3's token.
        width4: of stage 4's token and of the result.
        last_only: leave stage 3's token out.
    """

    def __init__(self, width3: int, width4: int, last_only: bool = False) -> None:
        super().__init__()
        self.norm_stage4 = nn.LayerNorm(width4)
        self.last_only = last_only
        if not last_only:
            self.norm_stage3 = nn.LayerNorm(width3)
            self.lift, self.lift_norm = Mlp(width3, width3, width4), nn.LayerNorm(width4)
            self.mix = nn.Conv1d(2, 1, 1)
            self.norm_out = nn.LayerNorm(width4)

    def forward(self, token3: Tensor, token4: Tensor) -> Tensor:
        """Return features [B, D4] of class tokens [B, 1, D3] and [B, 1, D4]."""
        last: Tensor = self.norm_stage4(token4)
        if self.last_only:
            return last.squeeze(1)
        lifted = self.lift_norm(self.lift(self.norm_stage3(token3)))
        features: Tensor = self.norm_out(self.mix(torch.cat([lifted.to(last.dtype), last], dim=1)).squeeze(1))
        return features


class MetaFG(MetadataClassifier):
    """Convolutional stages, then attention stages that mix the image with a class token and the tokens of its metadata.

    Args:
        architecture: widths and depths.
        num_classes: C.
        image_size: S, side in pixels of the square input, a multiple of 32.
        metadata: groups of numbers that come beside the image.
        drop_path: stochastic depth of the last block.
        last_only: classify by the class token of stage 4 alone.
        checkpointed: keep only the inputs of MBConv blocks for the backward pass and compute the rest again.

    Raises:
        LongTailError: if the image's side is not a multiple of 32.
    """

    def __init__(
        self,
        architecture: Architecture,
        num_classes: int,
        image_size: int = 224,
        metadata: MetadataShape | None = None,
        drop_path: float = 0.0,
        last_only: bool = False,
        checkpointed: bool = False,
    ) -> None:
        super().__init__()
        if image_size < STRIDE or image_size % STRIDE:
            raise LongTailError(f"MetaFG takes images whose side is a multiple of {STRIDE}, not {image_size} pixels.")
        self.metadata = metadata or MetadataShape()
        self.takes_metadata = bool(self.metadata.widths)
        self.image_size, self.num_classes, self.num_experts = image_size, num_classes, 1
        conv, widths, ratio = architecture.conv_widths, architecture.attention_widths, architecture.ratio
        depths = (*architecture.conv_depths, *architecture.attention_depths)
        rates = iter(drop_rates(sum(depths), drop_path))
        per_stage = [tuple(next(rates) for _ in range(depth)) for depth in depths]

        self.stem = Stem(conv[0])
        self.stage1 = _conv_stage(conv[0], conv[1], 1, ratio, per_stage[0])
        self.stage2 = _conv_stage(conv[1], conv[2], 2, ratio, per_stage[1])
        extra, side = 1 + self.metadata.extra_tokens, image_size // STRIDE
        self.stage3 = AttentionStage(conv[2], widths[0], architecture.heads, (2 * side, 2 * side), extra, per_stage[2], ratio)
        self.stage4 = AttentionStage(widths[0], widths[1], architecture.heads, (side, side), extra, per_stage[3], ratio)
        self.meta = nn.ModuleList(
            nn.ModuleDict({f"stage{stage}": MetadataEncoder(group, width) for stage, width in zip((3, 4), widths, strict=True)})
            for group in self.metadata.widths
        )
        self.aggregate = Aggregation(*widths, last_only)
        self.feature_dim = widths[1]
        self.head = LinearClassifier(widths[1], num_classes)
        for module in self.modules():
            _initialise(module)
            if isinstance(module, MBConv):
                module.checkpointed = checkpointed

    def look(self, images: Tensor) -> Tensor:
        """Return the convolutional stages' maps [B, D2, S/8, S/8] of images [B, 3, S, S], which metadata has no part in.

        Raises:
            LongTailError: if the images have another size than the network was made for.
        """
        if images.shape[-2:] != (self.image_size, self.image_size):
            raise LongTailError(
                f"This MetaFG was made for images of {self.image_size}x{self.image_size} pixels, not {images.shape[-2]}x{images.shape[-1]}: "
                "set model.metafg.image_size and the view's size to the same number."
            )
        maps: Tensor = self.stage2(self.stage1(self.stem(images)))
        return maps

    def fuse(self, seen: Tensor, metadata: Tensor | None) -> Tensor:
        """Return features [B, D] of the maps and metadata; see :mod:`~lt_pipeline.models.metadata_encoder`.

        Raises:
            LongTailError: if the metadata have another shape than the network was made for.
        """
        tokens3, tokens4 = self._metadata_tokens(metadata, seen)
        third = self.stage3(seen, tokens3)
        fourth = self.stage4(self.stage3.maps(third), tokens4)
        features: Tensor = self.aggregate(third[:, :1], fourth[:, :1])
        return features

    def _metadata_tokens(self, metadata: Tensor | None, images: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if not self.takes_metadata:
            return None, None
        groups, _ = self.metadata.split(metadata, len(images), images)
        stages = ([encoders.get_submodule(f"stage{stage}") for encoders in self.meta] for stage in (3, 4))
        third, fourth = (encode_tokens(encoders, groups) for encoders in stages)
        return third, fourth


def build_metafg(
    size: str,
    num_classes: int,
    image_size: int = 224,
    metadata: MetadataShape | None = None,
    drop_path: float = 0.0,
    last_only: bool = False,
    checkpointed: bool = False,
) -> MetaFG:
    """Return a freshly initialised network of a named size, one of :data:`SIZES`; arguments as of :class:`MetaFG`.

    Raises:
        LongTailError: if the image's side is not a multiple of 32.
    """
    return MetaFG(SIZES[size], num_classes, image_size, metadata, drop_path, last_only, checkpointed)


def _conv_stage(in_channels: int, width: int, stride: int, ratio: int, drops: tuple[float, ...]) -> nn.Sequential:
    widths = pairwise([in_channels, *[width] * len(drops)])
    return nn.Sequential(
        *(
            MBConv(before, after, stride if number == 0 else 1, ratio, drop)
            for number, ((before, after), drop) in enumerate(zip(widths, drops, strict=True))
        )
    )


def _initialise(module: nn.Module) -> None:
    """Truncated normal for linear layers, class tokens and bias tables; convolutions by their outputs, as if they had no groups."""
    match module:
        case nn.Linear():
            nn.init.trunc_normal_(module.weight, std=_INIT_STD)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        case nn.Conv2d():
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        case RelativeAttention():
            nn.init.trunc_normal_(module.bias_table, std=_INIT_STD)
        case AttentionStage():
            nn.init.trunc_normal_(module.cls_token, std=_INIT_STD)
            nn.init.zeros_(module.get_submodule("0.downsample.conv").bias)  # type: ignore[arg-type]
