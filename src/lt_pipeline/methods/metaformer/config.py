"""Parameters of MetaFormer; the defaults are those of the official code, for 224 pixels and steps of 512 images."""

from typing import Literal

from pydantic import Field, model_validator

from lt_pipeline.augment.config import IMAGENET_MEAN, IMAGENET_STD, TimmCropView, View
from lt_pipeline.config import Config
from lt_pipeline.models.config import ExpertsConfig
from lt_pipeline.training.config import (
    Epochs,
    OptimizerConfig,
    ParameterGroup,
    SamplerConfig,
    Schedule,
    StageConfig,
    StepCosineSchedule,
)

RECIPE_IMAGES = 512
"""Images a step for which the official rates are meant; they grow with the step."""


class MetaFGConfig(Config):
    """The paper's hybrid of convolution and attention, with tokens for the metadata."""

    backbone: Literal["metafg_0", "metafg_1", "metafg_2", "metafg_tiny", "metafg_micro"] = "metafg_0"
    """0, 1 and 2 as published; tiny and micro are ours, for small images and for tests."""
    image_size: int = Field(224, ge=32, multiple_of=32)
    """Side in pixels of what the view gives."""
    drop_path: float = Field(0.1, ge=0, lt=1)
    """Stochastic depth of the last block."""
    last_only: bool = False
    """Classify by the class token of the last stage alone, instead of both attention stages'."""
    checkpointed: bool = False
    """Compute the inside of convolutional blocks again in the backward pass: about a third of the memory for a quarter more time, same result."""
    weights: str | None = None
    """File to start from: the authors' ``.pth``, or a checkpoint of ours; at whatever resolution it was trained."""
    keep: tuple[Literal["head", "metadata"], ...] = ()
    """What to take over from it beside the backbone: the classifier, where classes are the same, and the encoders, where the groups are."""
    resize: Literal["aligned", "published"] = "aligned"
    """How position biases are brought to another resolution; the published rule moves them by one place."""


class BackboneConfig(Config):
    """Any backbone, with the metadata joined to its features."""

    backbone: str = "resnet32"
    """``resnet32`` for small images, or a name of timm's."""
    fusion: Literal["late", "tokens"] = "late"
    """Added to the pooled features, or as tokens of one transformer block over the feature map (not with resnet32)."""
    weights: str | None = None
    """File with the backbone's weights under its own names."""


class ModelConfig(Config):
    """The network, by ``kind``; the other two blocks are not read."""

    kind: Literal["metafg", "timm", "experts"] = "metafg"
    """The paper's network; any backbone with the metadata; RIDE's experts, each of which weighs the metadata for itself."""
    metafg: MetaFGConfig = MetaFGConfig()
    timm: BackboneConfig = BackboneConfig()
    experts: ExpertsConfig = ExpertsConfig()

    @property
    def backbone(self) -> str:
        """Of the block in use."""
        name: str = getattr(self, self.kind).backbone
        return name


class MaskingConfig(Config):
    """Which share of the images of a batch loses its metadata while training."""

    kind: Literal["linear", "constant"] = "linear"
    """``start - epoch / epochs`` (0-based epoch), or ``start`` throughout."""
    start: float = Field(1.0, ge=0, le=1)
    floored: bool = True
    """With a ``start`` below 1 the line ends at zero. In the authors' code it goes on, and a negative share masks almost everything."""


class MetaformerLossConfig(Config):
    """What is minimised, on mixed images with smoothed labels."""

    kind: Literal["cross_entropy", "balanced_softmax"] = "cross_entropy"
    """Plain, or with the logarithm of the class counts added to the logits (Ren et al., NeurIPS 2020)."""
    reweight_epoch: Epochs = -1
    """Effective-number weights act from the epoch after this one (1-based); -1 is never."""
    diversity: float = Field(-0.2, le=0)
    """Experts only: factor on their divergence from the mean; negative pushes them apart (RIDE)."""
    mixup: float = Field(0.8, ge=0)
    """Alpha of mixup; 0 is without. Metadata is never mixed: a mixed image has that of its first part."""
    cutmix: float = Field(1.0, ge=0)
    """Alpha of cutmix; 0 is without. With both, each batch gets one of them."""
    smoothing: float = Field(0.1, ge=0, lt=1)
    """Of the labels."""
    erasing: float = Field(0.25, ge=0, le=1)
    """Probability of erasing a rectangle of an image with noise, after normalisation."""


class ScalingConfig(Config):
    """The linear rule ``rate * batch_size / 512`` for all three rates, as a check on the stage's optimizer and schedule."""

    lr: float = Field(1e-4, gt=0)
    """Rates for 512 images: the highest,"""
    warmup_lr: float = Field(5e-7, ge=0)
    """the first,"""
    min_lr: float = Field(1e-5, ge=0)
    """the last of a cosine."""


class MetaformerStageConfig(StageConfig):
    """The one stage."""

    epochs: Epochs = Field(300, ge=1)
    batch_size: int = Field(512, ge=1)
    optimizer: OptimizerConfig = OptimizerConfig(
        kind="adamw",
        lr=1e-4,
        weight_decay=0.05,
        clip_norm=5.0,
        decay_vectors=False,
        groups=(ParameterGroup(match=r"(cls_token|bias)$", weight_decay=0.0),),
    )
    schedule: Schedule = StepCosineSchedule(final_lr=1e-5, warmup_epochs=20, warmup_start=5e-7, one_behind=True)
    sampler: SamplerConfig = SamplerConfig(drop_last=True)
    views: tuple[View, ...] = Field((TimmCropView(policy="rand-m9-mstd0.5-inc1"),), min_length=1, max_length=1)
    mean: tuple[float, float, float] | None = IMAGENET_MEAN
    std: tuple[float, float, float] | None = IMAGENET_STD
    scaling: ScalingConfig | None = None
    """If given, the rates must be what the rule says."""

    @model_validator(mode="after")
    def _rates_as_scaled(self) -> "MetaformerStageConfig":
        if self.scaling is None:
            return self
        lr, warmup_lr, min_lr = scaled_rates(self.scaling, self.batch_size)
        given = {
            "optimizer.lr": (self.optimizer.lr, lr),
            "schedule.warmup_start": (getattr(self.schedule, "warmup_start", None), warmup_lr),
        }
        if hasattr(self.schedule, "final_lr"):
            given["schedule.final_lr"] = (self.schedule.final_lr, min_lr)
        wrong = [f"{name} should be {rule:g}" for name, (value, rule) in given.items() if value is None or abs(value - rule) > 1e-3 * rule]
        if wrong:
            raise ValueError(f"with scaling and batch_size={self.batch_size} {', '.join(wrong)}; set them so, or scaling to null")
        return self


def scaled_rates(rates: ScalingConfig, images: int) -> tuple[float, float, float]:
    """Return highest, first and last learning rate of a step of so many images, all ranks and accumulation together."""
    factor = images / RECIPE_IMAGES
    return rates.lr * factor, rates.warmup_lr * factor, rates.min_lr * factor


class Metaformer(Config):
    """One stage: images and their metadata."""

    model: ModelConfig = ModelConfig()
    loss: MetaformerLossConfig = MetaformerLossConfig()
    masking: MaskingConfig = MaskingConfig()
    classifier: MetaformerStageConfig = MetaformerStageConfig()

    @model_validator(mode="after")
    def _consistent(self) -> "Metaformer":
        stage, size = self.classifier, getattr(self.classifier.views[0], "size", None)
        wanted = self.model.metafg.image_size
        if self.model.kind == "metafg" and size not in (None, wanted):
            raise ValueError(f"classifier.views gives images of {size} pixels, model.metafg.image_size is {wanted}; set both to the same")
        if (self.loss.mixup or self.loss.cutmix) and (stage.batch_size // stage.accumulate) % 2:
            raise ValueError(
                f"classifier.batch_size / accumulate is {stage.batch_size // stage.accumulate}, but mixing pairs images; choose an even number"
            )
        return self
