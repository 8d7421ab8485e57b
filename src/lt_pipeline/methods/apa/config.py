"""Parameters of APA; the defaults are the official CIFAR-100-LT recipe (imbalance 100, 500 epochs)."""

from typing import Literal

from pydantic import Field, model_validator

from lt_pipeline.augment.config import PadCropView
from lt_pipeline.config import Config
from lt_pipeline.models.config import StartConfig
from lt_pipeline.training.config import CosineSchedule, OptimizerConfig, StageConfig


class AdaptiveConfig(StartConfig):
    """A residual network with gates; the official switch makes gates and hidden layers adaptive together."""

    backbone: Literal["resnet32", "resnet50", "resnet101", "resnet152", "resnext50"] = "resnet32"
    """``resnet32`` is the CIFAR network for small images; the others take images of about 224 pixels."""
    attention: Literal["se", "cbam", "none"] = "se"
    """Gate of every block: squeeze and excitation, or channel and spatial gate."""
    activation: Literal["aglu", "relu", "silu", "gelu"] = "aglu"
    """Of the hidden layers; relu is the published baseline."""
    gate: Literal["apa", "sigmoid"] = "apa"
    """Activation of the (channel) gate."""
    spatial_gate: Literal["apa", "sigmoid"] = "sigmoid"
    """Activation of CBAM's spatial gate."""
    lambda_grad: Literal["exact", "official"] = "exact"
    """Derivative of AGLU in lambda: the true one, or the published code's, which has the opposite sign."""
    lambda_floor: Literal["clamp", "relu_eps"] = "clamp"
    """How lambda is kept positive in hidden layers: at least 1e-4, or max(lambda, 0) + 1e-8 as in the published code."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """On what goes into adaptive gates."""
    head: Literal["cosine", "learned_cosine", "linear"] = "cosine"
    """Squashed cosine with a fixed or a learned scale, or linear."""
    scale: float = Field(16.0, gt=0)
    """Of the fixed cosine; a learned one starts at 25."""


class AdaptiveLossConfig(Config):
    """Training loss, and what is added to the logits after training."""

    kind: Literal["cross_entropy", "bce", "gumbel"] = "cross_entropy"
    """Softmax, or one question per class: with a sigmoid, or with the Gumbel activation that is the limit of APA for lambda to 0."""
    smoothing: float = Field(0.0, ge=0, lt=1)
    """Label smoothing."""
    class_weights: bool = False
    """Weigh classes by N / n_c (cross-entropy only); no recipe does."""
    mixup: float = Field(0.2, ge=0)
    """Alpha of mixup; 0 is without."""
    cutmix: float = Field(0.0, ge=0)
    """Alpha of cutmix; 0 is without. With both, each batch gets one of them."""
    adjustment: Literal["rel", "raw", "smooth", "normit", "gombit", "base2", "base10", "none"] = "rel"
    """Inverse image frequency that is added to the logits at inference."""

    @model_validator(mode="after")
    def _weights_with_softmax(self) -> "AdaptiveLossConfig":
        if self.class_weights and self.kind != "cross_entropy":
            raise ValueError(f"class_weights go with kind=cross_entropy, not with {self.kind}")
        return self


class Apa(Config):
    """One network, one stage."""

    model: AdaptiveConfig = AdaptiveConfig()
    loss: AdaptiveLossConfig = AdaptiveLossConfig()
    classifier: StageConfig = StageConfig(
        epochs=500,
        batch_size=512,
        optimizer=OptimizerConfig(lr=0.2, weight_decay=1e-3, nesterov=False),
        schedule=CosineSchedule(warmup_epochs=3, warmup_start=0.002),
        views=(PadCropView(padding=4, flip=0.5, policy="autoaugment_cifar_signed", cutout=16),),
    )
