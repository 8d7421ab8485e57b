"""Parameters of the networks."""

from typing import Literal

from pydantic import Field

from lt_pipeline.config import Config

Backbone = Literal["resnet32", "resnet10", "resnet50", "resnet101", "resnet152", "resnext50", "resnext152"]


class StartConfig(Config):
    """What a network starts from."""

    weights: str | None = None
    """Safetensors file with the weights of torchvision's network of the same name, or of a checkpoint of ours; null starts from random ones."""
    frozen: tuple[str, ...] = ()
    """Parts that are not trained, such as ``stem`` and ``stage1``; running statistics in them still move."""


class ExpertsConfig(StartConfig):
    """A shared trunk with one or more expert branches."""

    backbone: Backbone = "resnet32"
    """``resnet32`` is the CIFAR network for small images; the others take a 7x7 stem and images of about 224 pixels."""
    experts: int = Field(3, ge=1)
    reduce_dimension: bool = True
    """Narrower late stages per expert (3/4 of the width), as RIDE trains them."""
    cosine_head: bool = True
    scale: float = Field(30.0, gt=0)
    """Factor on the cosines; an ordinary linear head ignores it."""
    share_stage3: bool = False
    """ImageNet-style networks: share stage 3 between the experts too."""
    activation: Literal["relu", "silu", "gelu", "aglu"] = "relu"
    """Of the hidden layers; aglu learns a shape for each of them (APA, ECCV 2024)."""
