"""Networks that assign images to clusters: features, and heads on them.

The cosine head is P2OT's (arXiv 2401.09266, section 4.1), the equiangular one SP2OT's option (arXiv 2404.03446).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_pipeline.errors import LongTailError
from lt_pipeline.models.backbones import build_backbone, last_block
from lt_pipeline.models.clustering_config import ClusterModelConfig
from lt_pipeline.models.heads import NORM_FLOOR, CosineClassifier, LinearClassifier


def cosine_head(in_features: int, num_clusters: int, scale: float = 10.0) -> CosineClassifier:
    """Return a cosine head that starts as a linear layer without bias does, uniformly within plus and minus D^-1/2.

    The length of a direction does not matter to the logits, but it does to Adam: directions of half the length turn twice as fast.
    """
    head = CosineClassifier(in_features, num_clusters, scale)
    bound = in_features**-0.5
    nn.init.uniform_(head.weight, -bound, bound)
    return head


class EquiangularHead(nn.Module):
    """Cosines with the vertices of a simplex: K fixed directions, each pair at the same and largest possible angle (simplex ETF).

    ``logits = scale * normalize(x) @ M`` with ``M = sqrt(K / (K - 1)) U (I - 1 1^T / K)`` and orthonormal columns U [D, K]. Where D < K, a trained
    affine layer first doubles the width until U exists.

    Args:
        in_features: D.
        num_clusters: K >= 2.
        scale: s.
    """

    orthogonal: Tensor

    def __init__(self, in_features: int, num_clusters: int, scale: float = 10.0) -> None:
        super().__init__()
        self.scale = scale
        width = in_features * 2 ** max(0, math.ceil(math.log2(num_clusters / in_features)))
        self.expand = nn.Linear(in_features, width) if width > in_features else nn.Identity()
        self.register_buffer("orthogonal", torch.linalg.qr(torch.rand(width, num_clusters))[0])

    @property
    def frame(self) -> Tensor:
        """M [D', K]."""
        clusters = self.orthogonal.shape[1]
        return math.sqrt(clusters / (clusters - 1)) * (self.orthogonal - self.orthogonal.mean(1, keepdim=True))

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [B, K] of features [B, D]."""
        with torch.autocast(features.device.type, enabled=False):
            wide = self.expand(features.to(self.orthogonal.dtype))
            return self.scale * (F.normalize(wide, dim=-1, eps=NORM_FLOOR) @ self.frame)


def build_head(kind: str, in_features: int, num_clusters: int, scale: float) -> nn.Module:
    """Return a freshly initialised head: ``cosine``, ``linear`` or ``etf``."""
    if kind == "etf":
        return EquiangularHead(in_features, num_clusters, scale)
    return cosine_head(in_features, num_clusters, scale) if kind == "cosine" else LinearClassifier(in_features, num_clusters)


class ClusterNetwork(nn.Module):
    """A backbone with H cluster heads; it answers with the chosen one.

    Args:
        backbone: images [B, 3, H, W] to features [B, D].
        heads: features to logits [B, K_h]; at least one.
        frozen: parts of the backbone that are not trained; they stay in evaluation mode, so that running statistics do not move either.
    """

    chosen: Tensor

    def __init__(self, backbone: nn.Module, heads: Sequence[nn.Module], frozen: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.backbone, self.heads = backbone, nn.ModuleList(heads)
        self.register_buffer("chosen", torch.zeros((), dtype=torch.int64))
        self._frozen = tuple(frozen)

    def train(self, mode: bool = True) -> "ClusterNetwork":
        """Switch between training and evaluation, but for the frozen parts."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    def head_logits(self, features: Tensor) -> list[Tensor]:
        """Return the logits [B, K_h] of every head for features [B, D]."""
        return [head(features) for head in self.heads]

    def trunk(self, images: Tensor) -> Tensor:
        """Return features [B, D] of images [B, 3, H, W]."""
        features: Tensor = self.backbone(images)
        return features

    @property
    def experts(self) -> tuple[nn.Module, ...]:
        """The chosen head, as networks of experts name their branches."""
        return (self.heads[int(self.chosen)],)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``logits`` [B, K] of the chosen head and ``features`` [B, D] of images [B, 3, H, W]."""
        features = self.trunk(images)
        return {"logits": self.experts[0](features), "features": features}


def cluster_network(config: ClusterModelConfig, num_clusters: int, image_shape: tuple[int, int, int] | None) -> ClusterNetwork:
    """Return the network that ``config`` describes, with random weights and what is not trained frozen.

    Args:
        config: backbone and heads.
        num_clusters: K of every head, unless ``config.clusters`` says otherwise.
        image_shape: height, width and channels of what the network sees, None where that varies; ``pixels`` needs it.

    Raises:
        LongTailError: for an unknown backbone, a part that cannot be trained alone, or fewer than two clusters.
    """
    clusters = config.clusters or (num_clusters,) * config.heads
    if min(clusters) < 2:
        raise LongTailError(f"A clustering needs at least 2 clusters, not {min(clusters)}.")
    backbone, width = build_backbone(config.backbone, image_shape)
    heads = [build_head(config.head, width, count, config.scale) for count in clusters]
    return trained_where(backbone, heads, config.train)


def trained_where(backbone: nn.Module, heads: Sequence[nn.Module], train: str) -> ClusterNetwork:
    """Return the network of which the heads and ``all`` of the backbone, its ``last_block`` or nothing of it (``heads``) are trained.

    Raises:
        LongTailError: if the last block is to be trained and there are no blocks.
    """
    backbone.requires_grad_(train == "all")
    if train == "all":
        return ClusterNetwork(backbone, heads)
    if train == "heads":
        return ClusterNetwork(backbone, heads, [backbone])
    last = last_block(backbone)
    last.requires_grad_(True)
    within = set(last.modules())
    return ClusterNetwork(backbone, heads, [part for part in backbone.modules() if part not in within and not any(part.children())])
