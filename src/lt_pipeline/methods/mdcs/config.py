"""Parameters of MDCS; the defaults are the official CIFAR-100-LT recipe (400 epochs)."""

from typing import Literal

from pydantic import Field, model_validator

from lt_pipeline.augment.config import PadCropView
from lt_pipeline.config import Config
from lt_pipeline.models.config import ExpertsConfig
from lt_pipeline.training.config import Epochs, MultistepSchedule, OptimizerConfig, StageConfig

_WEAK = PadCropView(padding=4, flip=0.5, rotation=15.0)
_STRONG = PadCropView(padding=4, flip=0.5, policy="autoaugment_cifar", cutout=16)


class ConsistencyConfig(Config):
    """Diversity loss (section 3.2) and consistency self-distillation (section 3.3)."""

    exponents: tuple[float, ...] = Field((-0.5, 1.0, 2.5), min_length=2)
    """Power of the class counts in each expert's prior: below 0 leans to the head, 1 is balanced softmax, above leans to the tail."""
    consistency: float = Field(0.6, ge=0)
    """Weight of the self-distillation once it is fully on."""
    warmup_epochs: Epochs = Field(20, ge=0)
    """Over these epochs the weight rises from 0."""


class Mdcs(Config):
    """One stage; the first view is the weak one that teaches, the second the strong one that learns."""

    model: ExpertsConfig = ExpertsConfig()
    loss: ConsistencyConfig = ConsistencyConfig()
    experts: StageConfig = StageConfig(
        epochs=400,
        batch_size=64,
        schedule=MultistepSchedule(milestones=(200, 320, 380), gamma=0.1, warmup_epochs=20),
        optimizer=OptimizerConfig(lr=0.1),
        views=(_WEAK, _STRONG),
    )
    batch_norm: Literal["mixed", "separate"] = "mixed"
    """Statistics of both views together, as on one GPU; or of each view alone with the weak view's running, as the published four-GPU runs
    have them."""

    @model_validator(mode="after")
    def _two_views_and_a_prior_each(self) -> "Mdcs":
        if len(self.experts.views) != 2:
            raise ValueError(f"experts.views must be the weak and the strong view, in this order; there are {len(self.experts.views)}")
        if self.model.experts != len(self.loss.exponents):
            raise ValueError(
                f"loss.exponents needs one number for each expert, at least 2; there are {len(self.loss.exponents)} "
                f"for model.experts={self.model.experts}"
            )
        return self
