"""Metadata beside any backbone: added to pooled features, or as tokens that attend to the feature map.

Late fusion adds an embedding of each group to the features, which is what a prior over classes given place and date does to the logits (Mac Aodha
et al., ICCV 2019, eq. 3), but learned with the image. Token fusion is MetaFormer's idea (Diao et al., arXiv 2203.02751) after a foreign backbone.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lt_pipeline.errors import LongTailError
from lt_pipeline.models.backbones import build_backbone
from lt_pipeline.models.experts import Expert, MultiExpert
from lt_pipeline.models.heads import LinearClassifier
from lt_pipeline.models.metadata_encoder import MetadataEncoder, MetadataShape, encode_tokens
from lt_pipeline.models.metadata_network import MetadataClassifier, MetadataNetwork

_HEAD_WIDTH = 64
"""Features of each attention head in token fusion, as vision transformers have them."""


class LateFusion(nn.Module):
    """Adds to features an embedding of each group of metadata that is there; images without metadata keep their features.

    A gain for each group and channel starts at zero, so the network begins as its backbone.

    Args:
        metadata: its groups.
        width: D of the features.
    """

    def __init__(self, metadata: MetadataShape, width: int) -> None:
        super().__init__()
        self.metadata = metadata
        self.encoders = nn.ModuleList(MetadataEncoder(group, width) for group in metadata.widths)
        self.gains = nn.ParameterList(torch.zeros(width) for _ in metadata.widths)

    def forward(self, features: Tensor, metadata: Tensor | None = None) -> Tensor:
        """Return features [B, D] of features [B, D] and metadata; see :mod:`~lt_pipeline.models.metadata_encoder`."""
        groups, present = self.metadata.split(metadata, len(features), features)
        for encoder, gain, group, there in zip(self.encoders, self.gains, groups, present, strict=True):
            tokens = encode_tokens([encoder], [group])
            features = features + gain * tokens.mean(1) * there.unsqueeze(1)
        return features


class TokenFusion(nn.Module):
    """One transformer block over a class token, the metadata's tokens and the places of a feature map; the class token is the result.

    Args:
        metadata: its groups.
        width: D of the feature map.
    """

    def __init__(self, metadata: MetadataShape, width: int) -> None:
        super().__init__()
        self.metadata = metadata
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.encoders = nn.ModuleList(MetadataEncoder(group, width) for group in metadata.widths)
        heads = max(heads for heads in range(1, max(width // _HEAD_WIDTH, 1) + 1) if width % heads == 0)
        self.embed_norm = nn.LayerNorm(width)
        self.block = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(width)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward(self, places: Tensor, metadata: Tensor | None = None) -> Tensor:
        """Return features [B, D] of places [B, N, D] and metadata."""
        groups, _ = self.metadata.split(metadata, len(places), places)
        parts = [self.cls_token.expand(len(places), -1, -1), self.embed_norm(places)]
        if groups:
            parts.insert(1, encode_tokens(list(self.encoders), groups))
        fused: Tensor = self.norm(self.block(torch.cat([part.to(parts[0].dtype) for part in parts], dim=1))[:, 0])
        return fused


class FusedNetwork(MetadataClassifier):
    """A backbone, metadata and a linear classifier.

    Args:
        backbone: name of timm's, or ``resnet32``.
        num_classes: C.
        metadata: its groups.
        tokens: fuse as tokens rather than late.

    Raises:
        LongTailError: if there is no such backbone, or it has no feature map to attend to.
    """

    def __init__(self, backbone: str, num_classes: int, metadata: MetadataShape, tokens: bool = False) -> None:
        super().__init__()
        self.backbone, width = build_backbone(backbone)
        if tokens:
            if not hasattr(self.backbone, "forward_features"):
                raise LongTailError(f"model.fusion=tokens needs a feature map, which '{backbone}' does not give; use fusion=late.")
            width = int(getattr(self.backbone, "num_features"))  # noqa: B009 - a plain number, which the type of modules does not know
        self.takes_metadata = bool(metadata.widths)
        self.num_classes, self.num_experts, self.feature_dim, self.tokens = num_classes, 1, width, tokens
        self.fusion = TokenFusion(metadata, width) if tokens else LateFusion(metadata, width)
        self.head = LinearClassifier(width, num_classes)

    def look(self, images: Tensor) -> Tensor:
        """Return features [B, D], or [B, N, D] for token fusion, of images [B, 3, H, W] alone."""
        backbone: Any = self.backbone
        features: Tensor = self._places(backbone.forward_features(images)) if self.tokens else backbone(images)
        return features

    def fuse(self, seen: Tensor, metadata: Tensor | None) -> Tensor:
        """Return fused features [B, D]."""
        fused: Tensor = self.fusion(seen, metadata)
        return fused

    def _places(self, features: Tensor) -> Tensor:
        """Return the backbone's last features as [B, N, D]; transformers give them so, others as maps with channels first or last."""
        if features.ndim == 3:
            return features
        if getattr(self.backbone, "output_fmt", "NCHW") == "NHWC":
            return features.flatten(1, 2)
        return features.flatten(2).transpose(1, 2)


class MetadataExperts(MetadataNetwork):
    """Experts on one trunk, each of which weighs the metadata for itself.

    Args:
        network: the experts.
        metadata: its groups.

    Raises:
        LongTailError: if the experts are not pooled features and a classifier.
    """

    def __init__(self, network: MultiExpert, metadata: MetadataShape) -> None:
        super().__init__()
        if not all(isinstance(expert, Expert) for expert in network.experts):
            raise LongTailError("Metadata can join experts that pool one feature map, as RIDE's do; this network has others.")
        self.network = network
        self.takes_metadata = bool(metadata.widths)
        self.num_experts, self.feature_dim, self.num_classes = network.num_experts, network.feature_dim, network.num_classes
        self.fusions = nn.ModuleList(LateFusion(metadata, network.feature_dim) for _ in network.experts)

    def look(self, images: Tensor) -> Tensor:
        """Return the trunk's feature map of images [B, 3, H, W] alone."""
        maps: Tensor = self.network.trunk(images)
        return maps

    def trunk(self, images: Tensor, metadata: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return what the experts share: the trunk's feature map, and the metadata."""
        return self.look(images), metadata

    @property
    def experts(self) -> tuple[Callable[[tuple[Tensor, Tensor | None]], tuple[Tensor, Tensor]], ...]:
        """The branches in order; each maps the trunk's output to (logits [B, C], features [B, D])."""
        return tuple(partial(_answer, expert, fusion) for expert, fusion in zip(self.network.experts, self.fusions, strict=True))

    def answer(self, seen: Tensor, metadata: Tensor | None = None) -> dict[str, Tensor]:
        """Return ``logits`` [B, C], ``expert_logits`` [K, B, C] and ``features`` [K, B, D]."""
        logits, features = zip(*(expert((seen, metadata)) for expert in self.experts), strict=True)
        expert_logits = torch.stack(logits)
        return {"logits": expert_logits.mean(0), "expert_logits": expert_logits, "features": torch.stack(features)}


def _answer(expert: Any, fusion: nn.Module, shared: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor]:
    maps, metadata = shared
    features = fusion(expert.pooled(maps), metadata)
    return expert.classifier(features), features
