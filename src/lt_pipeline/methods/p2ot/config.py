"""Parameters of P2OT and SP2OT; the defaults are the official recipe on DINO's ViT-B/16, the same for every published data set."""

from typing import Literal

from pydantic import Field, model_validator

from lt_pipeline.augment.config import ResizedCropView
from lt_pipeline.config import Config
from lt_pipeline.models.clustering_config import ClusterModelConfig
from lt_pipeline.training.config import CosineSchedule, OptimizerConfig, SamplerConfig, StageConfig

_VIEW = ResizedCropView(size=224, train_resize=256, interpolation="bicubic", flip=0.5, test_resize=256)
"""Both views are drawn alike: the published colour jitter has no strength."""


class LabelsConfig(Config):
    """The transport problem that a step's labels solve (P2OT, equations 4 to 8)."""

    mass_start: float = Field(0.1, gt=0, le=1)
    """Share of the images' mass that is transported at first; the sigmoid starts a little above it."""
    mass_end: float = Field(1.0, gt=0, le=1)
    """Share that is transported at the end."""
    ramp: Literal["sigmoid", "linear", "fixed"] = "sigmoid"
    """How the mass rises, step by step; fixed stays at ``mass_start``."""
    epsilon: float = Field(0.1, gt=0)
    """Weight of the entropy."""
    gamma: float = Field(1.0, gt=0)
    """Weight of the divergence of the cluster sizes from equal ones, lambda in the paper."""
    columns: Literal["relaxed", "hard"] = "relaxed"
    """Cluster sizes drawn towards equal ones, or forced to be equal."""
    algorithm: Literal["semidual", "scaling"] = "semidual"
    """The converged solution, or the published matrix scaling with its early stop."""

    @model_validator(mode="after")
    def _rising(self) -> "LabelsConfig":
        if self.mass_end < self.mass_start:
            raise ValueError(f"mass_end ({self.mass_end}) must be at least mass_start ({self.mass_start})")
        return self


class SemanticConfig(LabelsConfig):
    """The same with a term that wants neighbours in one cluster (SP2OT, equations 9 to 13)."""

    semantic_weight: float = Field(1000.0, ge=0)
    """Weight of that term where no mass is transported yet; it falls as ``1 - mass``. For rows other than 5,120 it scales like their number."""
    neighbours: int = Field(20, ge=1)
    """Nearest images of each image, by initial features, that count."""
    kernel: Literal["gauss", "cosine", "laplace"] = "gauss"
    """Similarity of two images from their features; gauss is ``exp(-|x - y|^2 / (2 s^2 D))``."""
    kernel_scale: float = Field(2.0, gt=0)
    """s."""
    similarity_of: Literal["features", "pixels"] = "features"
    """What is compared: initial features, or pixels of small images where the initial network has random weights and knows no neighbours."""
    majorizations: int = Field(100, ge=1)
    """Most steps of majorisation and minimisation for one set of labels."""
    averaging: float = Field(1.0, gt=0, le=1)
    """Share of the new plan in each of those steps; below 1 they settle where they would alternate."""


class BankConfig(Config):
    """The memory of logits that transport is solved over beside the batch (P2OT, section 4.3)."""

    batches: int = Field(10, ge=0)
    """Rows in batches; 0 is without a memory."""
    from_epoch: int = Field(1, ge=0)
    """0-based epoch from which the memory is used; it is filled before."""


class P2ot(Config):
    """One stage: two views of each image learn each other's labels."""

    clusters: int | None = Field(None, ge=2)
    """K; null takes the number of classes, and must be given for images without labels."""
    model: ClusterModelConfig = ClusterModelConfig()
    labels: LabelsConfig = LabelsConfig()
    bank: BankConfig = BankConfig()
    draws: int = Field(2, ge=1)
    """Augmented features that are kept of each image in each view where the heads alone are trained; a step takes one of each view."""
    selection: Literal["score", "last"] = "score"
    """Which epoch assigns the images: the one with the lowest loss over the transported mass, as published, or the last."""
    clustering: StageConfig = StageConfig(
        epochs=50,
        batch_size=512,
        optimizer=OptimizerConfig(kind="adam", lr=5e-4, weight_decay=0.0),
        schedule=CosineSchedule(final_lr=5e-7),
        sampler=SamplerConfig(drop_last=True),
        views=(_VIEW, _VIEW),
    )

    @model_validator(mode="after")
    def _consistent(self) -> "P2ot":
        stage = self.clustering
        if len(stage.views) != 2:
            raise ValueError(f"clustering.views must be two views of each image that teach each other; there are {len(stage.views)}")
        if stage.accumulate != 1:
            raise ValueError("clustering.accumulate must be 1: labels are solved over a whole step")
        if stage.sampler.kind != "uniform" or not stage.sampler.drop_last:
            raise ValueError(
                "clustering.sampler must be uniform with drop_last=true: other orders need labels, and the memory whole batches"
            )
        if stage.optimizer.sam_rho or stage.optimizer.sam_rhos:
            raise ValueError("clustering.optimizer.sam_rho must be 0: a second pass of a step would solve other labels")
        return self


class Sp2ot(P2ot):
    """The same with labels that agree between neighbours."""

    labels: SemanticConfig = SemanticConfig()
    bank: BankConfig = BankConfig(from_epoch=0)
    drift_weight: float = Field(0.0, ge=0)
    """Weight of the regulariser that keeps features near the initial ones; 0 is without, as published."""
    drift_follows_mass: bool = True
    """Multiply that weight by the transported mass."""
