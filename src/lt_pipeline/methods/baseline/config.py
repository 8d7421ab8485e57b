"""Parameters of the baselines; the defaults are LDAM-DRW's CIFAR recipe (Cao et al., NeurIPS 2019)."""

from typing import Literal

from pydantic import Field

from lt_pipeline.augment.config import PadCropView
from lt_pipeline.config import Config
from lt_pipeline.models.config import ExpertsConfig
from lt_pipeline.training.config import Epochs, OptimizerConfig, StageConfig


class BaselineLossConfig(Config):
    """Which classification loss, and its constants."""

    kind: Literal["cross_entropy", "ldam_drw", "balanced_softmax", "logit_adjustment", "focal"] = "cross_entropy"
    """``balanced_softmax`` adds log counts to the logits in training (Ren et al. 2020); ``logit_adjustment`` trains plainly and subtracts
    ``tau`` log prior afterwards (Menon et al. 2021, section 4.1)."""
    tau: float = Field(1.0, ge=0)
    """Strength of the prior in balanced softmax and logit adjustment."""
    max_margin: float = Field(0.5, gt=0)
    """LDAM margin of the rarest class."""
    reweight_epoch: Epochs = 160
    """Effective-number weights act from the epoch after this one (1-based); -1 is never. LDAM-DRW only."""
    gamma: float = Field(1.0, ge=0)
    """Focusing exponent of the focal loss."""


class Baseline(Config):
    """One network, one stage."""

    model: ExpertsConfig = ExpertsConfig(experts=1, reduce_dimension=False)
    loss: BaselineLossConfig = BaselineLossConfig()
    classifier: StageConfig = StageConfig(
        optimizer=OptimizerConfig(weight_decay=2e-4, nesterov=False), views=(PadCropView(padding=4, flip=0.5, rotation=15.0),)
    )
