"""Parameters of a clustering network."""

from typing import Literal

from pydantic import Field, model_validator

from lt_pipeline.config import Config


class ClusterModelConfig(Config):
    """A backbone that gives features, and one or more cluster heads on them."""

    backbone: str = "vit_base_patch16_224.dino"
    """``resnet32`` (CIFAR network), ``pixels`` (the normalised image itself) or any network of timm by its name there."""
    weights: str | None = None
    """What the backbone starts from: a safetensors file, a ``.pth`` file (read without unpickling objects), a folder that holds one such file, or
    ``package:efficientnet_lite0`` for the weights in that package (extra ``features``); null starts from random ones."""
    train: Literal["all", "last_block", "heads"] = "last_block"
    """What is trained beside the heads: the whole backbone, its last block (as published), or nothing; then features are computed once."""
    heads: int = Field(1, ge=1)
    """Cluster heads; the one with the lowest loss is chosen after each epoch."""
    clusters: tuple[int, ...] = ()
    """Clusters of each head where they differ (over-clustering); then the first head is the one that is scored."""
    head: Literal["cosine", "linear", "etf"] = "cosine"
    """Learned directions with a cosine, an affine layer, or a fixed simplex equiangular tight frame."""
    scale: float = Field(10.0, gt=0)
    """Factor on cosines; a linear head has none."""

    @model_validator(mode="after")
    def _consistent(self) -> "ClusterModelConfig":
        if self.clusters and len(self.clusters) != self.heads:
            raise ValueError(f"clusters has {len(self.clusters)} numbers for heads={self.heads}; give one for each head, or none")
        if min(self.clusters, default=2) < 2:
            raise ValueError("each head needs at least 2 clusters")
        return self
