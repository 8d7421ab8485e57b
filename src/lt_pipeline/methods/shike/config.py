"""Parameters of SHIKE; the defaults are the official CIFAR-100-LT recipe (imbalance 100, three experts, 180 + 20 epochs)."""

from typing import Literal

from pydantic import Field

from lt_pipeline.augment.config import PadCropView
from lt_pipeline.config import Config
from lt_pipeline.models.config import StartConfig
from lt_pipeline.training.config import CosineSchedule, Epochs, OptimizerConfig, Schedule, StageConfig

_VIEWS = (PadCropView(padding=4, flip=0.5, policy="autoaugment_cifar", cutout=16),)


class DepthFusionConfig(StartConfig):
    """The network: shared stages, and for each expert a last stage and a branch from an earlier one (section 3.2)."""

    backbone: Literal["resnet32", "resnet50", "resnet101", "resnet152", "resnext50"] = "resnet32"
    """``resnet32`` is the CIFAR network for small images; the others take images of about 224 pixels."""
    experts: int = Field(3, ge=2)
    """At least 2: experts learn from each other."""
    cosine_head: bool = True
    """Cosine classifiers; linear ones for the first stage's heads were never used in a recipe."""
    scale: float = Field(30.0, gt=0)
    """Factor on the cosines."""
    align_conv: Literal["full", "bottleneck", "separable"] = "full"
    """Convolutions that align a shallow map: published, or with a fraction of the weights."""
    align_relu: Literal["official", "all", "all_but_last"] = "official"
    """After which aligning steps a ReLU follows; the official rule leaves it out after the second."""
    activation: Literal["relu", "silu", "gelu", "aglu"] = "relu"
    """Of the hidden layers outside the align branches; aglu learns a shape for each of them (APA, ECCV 2024)."""


class TransferConfig(Config):
    """Section 3.3: how experts teach each other."""

    transfer_weight: float = Field(10.0, ge=0)
    """Of the divergence from the assembled teacher (DKT)."""
    mutual_weight: float = Field(1.0, ge=0)
    """Of the divergences between experts."""
    reduction: Literal["mean", "batchmean"] = "mean"
    """Divergences over batch and classes (published, 100 classes) or over the batch alone."""
    detach_teacher: bool = False
    """No gradient through the assembled teacher; officially there is."""
    teacher_target: Literal["zero", "student", "none"] = "zero"
    """Logit of a sample's own class in the teacher: 0 (official), -30 as the students have, or no mass at all."""
    hardest: Literal["floor", "masked"] = "floor"
    """How the own class is kept from being the hardest: -30 (official, right for cosine heads), or masked (right for any)."""


class ClassifierStageConfig(StageConfig):
    """The second stage: fresh classifiers under balanced softmax on frozen features."""

    epochs: Epochs = Field(20, ge=1)
    optimizer: OptimizerConfig = OptimizerConfig(lr=0.1, nesterov=False)
    schedule: Schedule = CosineSchedule(warmup_epochs=5, warmup_start=0.0375)
    freeze_statistics: bool = False
    """Keep batch norm in evaluation mode; officially its running statistics go on moving although the weights are frozen."""


class Shike(Config):
    """Representation with knowledge transfer, then re-balanced classifiers."""

    model: DepthFusionConfig = DepthFusionConfig()
    loss: TransferConfig = TransferConfig()
    representation: StageConfig = StageConfig(
        epochs=180,
        optimizer=OptimizerConfig(lr=0.15, nesterov=False),
        schedule=CosineSchedule(warmup_epochs=5, warmup_start=0.025),
        views=_VIEWS,
    )
    classifier: ClassifierStageConfig = ClassifierStageConfig(views=_VIEWS)
