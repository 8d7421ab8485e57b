"""Parameters of RIDE; the defaults are the official CIFAR-100-LT recipe (imbalance 100, three experts)."""

from typing import Literal

from pydantic import Field, model_validator

from lt_pipeline.augment.config import PadCropView, View
from lt_pipeline.config import Config
from lt_pipeline.models.config import ExpertsConfig
from lt_pipeline.training.config import CosineSchedule, Epochs, MultistepSchedule, OptimizerConfig, SamplerConfig, Schedule, StageConfig

_VIEW = PadCropView(padding=4, flip=0.5, rotation=15.0)


class RideLossConfig(Config):
    """Section 3 of the paper, in the form of the official code: margins, diversity, deferred re-weighting."""

    max_margin: float = Field(0.5, gt=0)
    """LDAM margin of the rarest class."""
    diversity: float = -0.45
    """Factor on the divergence of each expert from their mean; negative pushes experts apart."""
    temperature_spread: float = Field(0.05, ge=0, lt=1)
    """gamma: how much lower the temperature of rare classes is once re-weighting is on."""
    base_temperature: float = Field(1.0, gt=0)
    reweight_epoch: Epochs = 160
    """Class weights and temperatures act from the epoch after this one (1-based); -1 is never."""
    base: Literal["individual", "collaborative"] = "individual"
    """Cross-entropy of each expert, or of their mean (the official code falls into the latter when diversity is 0)."""
    divergence: Literal["to_mean", "pairwise"] = "to_mean"
    """KL of the mean to each expert (code) or between all pairs (paper, eq. 3)."""


class RouterStageConfig(StageConfig):
    """The routing stage (section 3.3): everything frozen but the router."""

    epochs: Epochs = Field(5, ge=1)
    batch_size: int = Field(512, ge=1)
    optimizer: OptimizerConfig = OptimizerConfig(lr=0.01)
    schedule: Schedule = CosineSchedule()
    sampler: SamplerConfig = SamplerConfig(kind="class_balanced")
    views: tuple[View, ...] = Field((_VIEW,), min_length=1)
    top_choices: int = Field(30, ge=1)
    """How many of the largest running mean logits the router sees; at most the number of classes is used."""
    hidden: int = Field(16, ge=1)
    shared_output: bool = True
    """One output layer for all routing decisions, as published, or one per decision."""
    positive_weight: float = Field(100.0, gt=0)
    """Weight of "ask further experts" in the binary cross-entropy."""
    threshold: float = Field(0.5, ge=0, le=1)
    """An image goes on to the next expert while sigmoid(score) is above this."""


class Ride(Config):
    """Experts trained with the diversity loss, then the router."""

    model: ExpertsConfig = ExpertsConfig()
    loss: RideLossConfig = RideLossConfig()
    experts: StageConfig = StageConfig(views=(_VIEW,))
    router: RouterStageConfig = RouterStageConfig()

    @model_validator(mode="after")
    def _router_needs_experts(self) -> "Ride":
        if self.model.experts < 2:
            raise ValueError(
                "model.experts must be at least 2: with one expert there is nothing to diversify or route (use the baseline pipeline)"
            )
        return self


class DistillationConfig(Config):
    """Self-distillation from a larger ensemble of the same family."""

    temperature: float = Field(1.5, gt=0)
    factor: float = Field(1.0, ge=0)
    total: Literal["official", "once"] = "official"
    """``official`` multiplies the whole loss by the number of experts, as the code behind the published checkpoints does."""
    teacher_experts: int = Field(6, ge=1)
    teacher_statistics: Literal["eval", "batch"] = "eval"
    """Batch norm of the teacher: its running statistics, or those of the batch as in the official code."""


class RideDistilled(Ride):
    """A teacher of more experts first; the experts then learn from it as well."""

    experts: StageConfig = StageConfig(views=(_VIEW,), schedule=MultistepSchedule(warmup_epochs=20))
    teacher: StageConfig = StageConfig(views=(_VIEW,))
    distillation: DistillationConfig = DistillationConfig()
