"""Parameters of DeiT-LT; the defaults are the official CIFAR-LT recipe (1,200 epochs) with the LDAM-DRW-SAM teacher."""

from typing import Literal

from pydantic import Field, model_validator

from lt_pipeline.augment.config import IMAGENET_MEAN, IMAGENET_STD, PadCropView, TimmCropView, View
from lt_pipeline.config import Config
from lt_pipeline.models.config import Backbone, StartConfig
from lt_pipeline.training.config import (
    Epochs,
    MultistepSchedule,
    OptimizerConfig,
    ParameterGroup,
    SamplerConfig,
    Schedule,
    StageConfig,
    StepCosineSchedule,
)


class TeacherModelConfig(StartConfig):
    """The convolutional teacher."""

    backbone: Backbone = "resnet32"
    """``resnet32`` is the CIFAR network for small images; the others take images of about 224 pixels."""


class TeacherLossConfig(Config):
    """What the teacher minimises."""

    kind: Literal["ldam", "cross_entropy", "paco"] = "ldam"
    """LDAM on a cosine head, cross-entropy, or parametric contrast on two views (the stronger and slower teacher)."""
    reweight_epoch: Epochs = 160
    """Effective-number weights act from the epoch after this one (1-based); -1 is never. Not with PaCo."""
    max_margin: float = Field(0.5, gt=0)
    """LDAM: margin of the rarest class."""
    scale: float = Field(30.0, gt=0)
    """LDAM: factor on the cosines."""
    alpha: float = Field(0.01, gt=0)
    """PaCo: pull towards samples of the same class."""
    beta: float = Field(1.0, gt=0)
    """PaCo: pull towards the own class centre."""
    gamma: float = Field(1.0, gt=0)
    """PaCo: weight of the samples in the denominator."""
    temperature: float = Field(0.05, gt=0)
    """PaCo: of the cosines between samples."""
    queue_size: int = Field(1024, ge=1)
    """PaCo: keys that are remembered; a multiple of the batch."""
    dimension: int = Field(32, ge=1)
    """PaCo: of the contrastive features."""
    momentum: float = Field(0.999, ge=0, lt=1)
    """PaCo: of the slow copy that makes the keys."""


class TeacherStageConfig(StageConfig):
    """The teacher: first view is the image to classify, PaCo needs a second one for its keys."""

    optimizer: OptimizerConfig = OptimizerConfig(lr=0.1, weight_decay=2e-4, nesterov=False, sam_rho=0.8)
    schedule: Schedule = MultistepSchedule(milestones=(160, 180), gamma=0.01, warmup_epochs=5)
    views: tuple[View, ...] = Field((PadCropView(padding=4, flip=0.5),), min_length=1)
    model: TeacherModelConfig = TeacherModelConfig()
    loss: TeacherLossConfig = TeacherLossConfig()

    @model_validator(mode="after")
    def _views_fit(self) -> "TeacherStageConfig":
        wanted = 2 if self.loss.kind == "paco" else 1
        if len(self.views) != wanted:
            words = "the image's and the key's view, in this order" if wanted == 2 else "one view"
            raise ValueError(f"views must be {words} with loss.kind={self.loss.kind}; there are {len(self.views)}")
        if self.loss.kind == "paco" and (self.accumulate > 1 or not self.sampler.drop_last):
            raise ValueError("loss.kind=paco fills its queue with whole steps: set accumulate=1 and sampler.drop_last=true")
        if self.loss.kind == "paco" and self.loss.queue_size % self.batch_size:
            raise ValueError(f"loss.queue_size ({self.loss.queue_size}) must be a multiple of batch_size ({self.batch_size})")
        return self


class StudentModelConfig(Config):
    """The distilled ViT."""

    backbone: Literal["deit_base", "deit_small", "deit_tiny", "deit_micro"] = "deit_base"
    """base as published; small and tiny are DeiT's smaller ones; micro is ours, for small images and tests."""
    image_size: int = Field(224, ge=1)
    """Side in pixels of what the view gives."""
    patch_size: int = Field(16, ge=1)
    drop_path: float = Field(0.1, ge=0, lt=1)
    """Stochastic depth of the last block."""

    @model_validator(mode="after")
    def _whole_patches(self) -> "StudentModelConfig":
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size ({self.image_size}) must be a multiple of patch_size ({self.patch_size})")
        return self


class DistillationConfig(Config):
    """Sections 3.1 to 3.3 of the paper: what each token learns, and what changes once re-weighting begins."""

    kind: Literal["hard", "soft", "none"] = "hard"
    """The teacher's class, its distribution, or no teacher: then both tokens learn the labels."""
    alpha: float = Field(0.5, ge=0, le=1)
    """Share of the distillation token's loss."""
    temperature: float = Field(1.0, gt=0)
    """Of the soft answer."""
    reweight_epoch: Epochs = 1100
    """Effective-number weights act on the distillation token from the epoch after this one (1-based); -1 is never."""
    reweight_class_token: bool = False
    """Weigh the class token's loss then, too; no recipe does."""
    mix_when_reweighted: bool = False
    """Keep mixing images and smoothing labels then (ImageNet-LT, iNaturalist); otherwise both end (CIFAR)."""
    mixup: float = Field(0.8, ge=0)
    """Alpha of mixup; 0 is without."""
    cutmix: float = Field(1.0, ge=0)
    """Alpha of cutmix; 0 is without. With both, each batch gets one of them."""
    smoothing: float = Field(0.1, ge=0, lt=1)
    """Of the labels while images are mixed."""
    erasing: float = Field(0.25, ge=0, le=1)
    """Probability of erasing a rectangle of an image with noise, after normalisation."""
    teacher_size: int | None = Field(32, ge=1)
    """Side in pixels of what the teacher sees of the student's image, without antialiasing; null shows it whole."""
    teacher_norm: Literal["student", "teacher"] = "student"
    """Whose normalisation the teacher's input has: the student's as published, or the one it was trained with."""
    teacher_accuracy: float | None = Field(None, ge=0, le=1)
    """Least accuracy, mean over classes, of the teacher on clean training images, else the stage stops: a wrong label space answers at
    chance. null takes three times chance."""

    @model_validator(mode="after")
    def _hard_labels_for_weights(self) -> "DistillationConfig":
        if self.kind == "soft" and self.reweight_epoch >= 0:
            raise ValueError("kind=soft cannot be re-weighted, for weights go by the teacher's class; set reweight_epoch=-1")
        return self


class ScalingConfig(Config):
    """DeiT's linear rule, ``lr = base_lr * images / 512``, as a check on ``optimizer.lr``."""

    base_lr: float = Field(5e-4, gt=0)
    """Rate for 512 images."""
    images: int = Field(256, ge=1)
    """What the rule counts. The official scripts count GPUs times images per GPU but not accumulation: 256 of the 1,024 in a step."""


class StudentStageConfig(StageConfig):
    """The student; its one view feeds both networks."""

    epochs: Epochs = Field(1200, ge=1)
    batch_size: int = Field(1024, ge=1)
    accumulate: int = Field(4, ge=1)
    optimizer: OptimizerConfig = OptimizerConfig(
        kind="adamw",
        lr=2.5e-4,
        weight_decay=0.05,
        decay_vectors=False,
        groups=(ParameterGroup(match=r"(cls_token|dist_token|pos_embed)$", weight_decay=0.0),),
    )
    schedule: Schedule = StepCosineSchedule()
    sampler: SamplerConfig = SamplerConfig(kind="repeated", repeats=3)
    views: tuple[View, ...] = Field((TimmCropView(policy="rand-m9-mstd0.5-inc1"),), min_length=1)
    mean: tuple[float, float, float] | None = IMAGENET_MEAN
    std: tuple[float, float, float] | None = IMAGENET_STD
    model: StudentModelConfig = StudentModelConfig()
    distillation: DistillationConfig = DistillationConfig()
    scaling: ScalingConfig | None = None
    """If given, ``optimizer.lr`` must be what the rule says."""

    @model_validator(mode="after")
    def _consistent(self) -> "StudentStageConfig":
        if len(self.views) != 1:
            raise ValueError(f"views must be one view, which student and teacher share; there are {len(self.views)}")
        size = getattr(self.views[0], "size", self.model.image_size)
        if size != self.model.image_size:
            raise ValueError(f"views give images of {size} pixels, model.image_size is {self.model.image_size}; set both to the same")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size ({self.batch_size}) must be a multiple of accumulate ({self.accumulate})")
        if self.scaling is not None:
            lr = self.scaling.base_lr * self.scaling.images / 512
            if abs(lr - self.optimizer.lr) > 1e-3 * lr:
                raise ValueError(
                    f"optimizer.lr is {self.optimizer.lr:g}, but scaling.base_lr * scaling.images / 512 is {lr:g}; "
                    "set them to agree, or scaling to null"
                )
        return self


class DeitLt(Config):
    """The teacher, then the student."""

    teacher: TeacherStageConfig = TeacherStageConfig()
    student: StudentStageConfig = StudentStageConfig()
