"""Parameters of the training views and of their test-time counterparts."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from lt_pipeline.config import Config

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Normalisation of recipes that use ImageNet's statistics on every benchmark."""

Positive = Annotated[float, Field(gt=0)]

POLICIES = ("none", "autoaugment_imagenet", "randaugment")
"""Policies of decoded images by name, apart from timm's configurations."""

_TIMM_POLICY = re.compile(r"rand(-(n\d+|m\d+|mstd\d+(\.\d+)?|mmax\d+|p(0|1|0?\.\d+|1\.0+)|inc[01]|t(weights|3aw?)))+")
"""timm passes over sections it does not know, a typing error would go unnoticed."""


class PadCropView(Config):
    """A view of small images of one size, made a batch at a time; at test time images are only normalised."""

    kind: Literal["pad_crop"] = "pad_crop"
    """Tells this view from the others."""
    padding: int = Field(4, ge=0)
    """Black pixels added on each side before a crop of the original size is drawn; 0 keeps the image in place."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of mirroring left and right."""
    rotation: float = Field(0.0, ge=0, le=180)
    """Largest rotation in degrees, either way; the angle is uniform, corners become black."""
    policy: Literal["none", "autoaugment_cifar", "autoaugment_cifar_signed"] = "none"
    """AutoAugment's CIFAR-10 policy, applied after crop, flip and rotation: as SHIKE, MDCS and NCL have it (rotation one way only, grey
    borders), or as torchvision has it and APA uses it (rotation either way, black borders, bilinear)."""
    cutout: int = Field(0, ge=0)
    """Side in pixels of the square that is blackened last; 0 turns it off."""


class ResizedCropView(Config):
    """A view of larger images, decoded and cropped one at a time by worker processes."""

    kind: Literal["resized_crop"] = "resized_crop"
    """Tells this view from the others."""
    size: int = Field(224, ge=1)
    """Side in pixels of the square the network sees."""
    scale: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] = (0.08, 1.0)
    """Smallest and largest fraction of the image's area that a crop covers."""
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    """Smallest and largest width of a crop divided by its height."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How pixels are interpolated, always with antialiasing."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of mirroring left and right."""
    color_jitter: tuple[
        Annotated[float, Field(ge=0)],
        Annotated[float, Field(ge=0)],
        Annotated[float, Field(ge=0)],
        Annotated[float, Field(ge=0, le=0.5)],
    ] = (0.0, 0.0, 0.0, 0.0)
    """Strength of the change of brightness, contrast, saturation and hue; 0 leaves one alone."""
    policy: str = "none"
    """``none``, torchvision's ``autoaugment_imagenet`` or ``randaugment`` (2 operations of magnitude 9), both bilinear, or a configuration
    of timm's RandAugment such as ``rand-n2-m10-mstd0.5``, bilinear or bicubic at random; applied after the colour jitter."""
    erasing: float = Field(0.0, ge=0, le=1)
    """Probability of erasing a random rectangle, last. It shows (124, 116, 104), ImageNet's mean colour in whole grey levels, which
    its normalisation takes to about 0 (APA erases after it, with 0): a view knows no mean, normalisation comes later on the device."""
    train_resize: int | None = Field(None, ge=1)
    """Length in pixels of the shorter side before a crop of ``size`` is drawn (P2OT); null draws crops by ``scale`` and ``ratio``."""
    test_resize: int = Field(256, ge=1)
    """Length in pixels of the shorter side at test time, before the centre crop; at least ``size``."""

    @field_validator("policy")
    @classmethod
    def _known(cls, policy: str) -> str:
        if policy not in POLICIES and not _TIMM_POLICY.fullmatch(policy):
            raise ValueError(
                f"unknown policy '{policy}'; there are {', '.join(POLICIES)} and timm's 'rand-' followed by sections such as "
                "n2 (operations), m10 (magnitude), mstd0.5 (its standard deviation), mmax10, p0.5, inc1 or tweights, "
                "for example rand-n2-m10-mstd0.5"
            )
        return policy

    @model_validator(mode="after")
    def _ordered(self) -> "ResizedCropView":
        for name in ("test_resize", "train_resize"):
            if (getattr(self, name) or self.size) < self.size:
                raise ValueError(f"{name} ({getattr(self, name)}) must be at least size ({self.size})")
        for name in ("scale", "ratio"):
            smallest, largest = getattr(self, name)
            if smallest > largest:
                raise ValueError(f"{name} must be (smallest, largest), got ({smallest}, {largest})")
        return self


class TimmCropView(Config):
    """timm's training transform up to normalisation: random-resized crop, mirroring, RandAugment or colour jitter, grey, blur.

    Files are decoded and pass through timm's own transform one by one in worker processes. Packed images of one size pass through the same
    steps a batch at a time on the device, whatever the side of the crop; see :mod:`lt_pipeline.augment.batched_crop`.
    """

    kind: Literal["timm_crop"] = "timm_crop"
    """Tells this view from the others."""
    size: int = Field(224, ge=1)
    """Side in pixels of the square the network sees."""
    scale: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] = (0.08, 1.0)
    """Smallest and largest fraction of the image's area that a crop covers."""
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    """Smallest and largest width of a crop divided by its height."""
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    """How pixels are interpolated, in the crop and in the policy's operations."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of mirroring left and right."""
    policy: str = "none"
    """A configuration of timm's RandAugment such as ``rand-m9-mstd0.5-inc1``; without ``p`` each operation takes place half the time."""
    color_jitter: tuple[
        Annotated[float, Field(ge=0)],
        Annotated[float, Field(ge=0)],
        Annotated[float, Field(ge=0)],
        Annotated[float, Field(ge=0, le=0.5)],
    ] = (0.0, 0.0, 0.0, 0.0)
    """Strength of the change of brightness, contrast, saturation and hue, in random order; beside a policy all are 0, as in timm."""
    color_jitter_probability: float = Field(1.0, ge=0, le=1)
    """How often colours are jittered at all."""
    grey: float = Field(0.0, ge=0, le=1)
    """Probability of losing the colours."""
    blur: float = Field(0.0, ge=0, le=1)
    """Probability of a Gaussian blur of 23 pixels with a standard deviation uniform in 0.1 to 2 pixels."""
    test_resize: int = Field(256, ge=1)
    """Length in pixels of the shorter side at test time, before the centre crop; at least ``size``."""

    @model_validator(mode="after")
    def _consistent(self) -> "TimmCropView":
        if self.test_resize < self.size:
            raise ValueError(f"test_resize ({self.test_resize}) must be at least size ({self.size})")
        if self.policy != "none" and not _TIMM_POLICY.fullmatch(self.policy):
            raise ValueError(
                f"unknown policy '{self.policy}'; it is none or timm's 'rand-' with sections, for example rand-m9-mstd0.5-inc1"
            )
        if self.policy != "none" and any(self.color_jitter):
            raise ValueError("policy and color_jitter exclude each other here; set color_jitter to four zeros")
        for name in ("scale", "ratio"):
            smallest, largest = getattr(self, name)
            if smallest > largest:
                raise ValueError(f"{name} must be (smallest, largest), got ({smallest}, {largest})")
        return self


View = Annotated[PadCropView | ResizedCropView | TimmCropView, Field(discriminator="kind")]
"""Any view; ``kind`` tells which."""


def shape_of_view(view: View, image_shape: tuple[int, int, int] | None) -> tuple[int, int, int] | None:
    """Return height, width and channels of what a network sees of images of ``image_shape``, which is None where sizes vary; None where it varies
    too."""
    if isinstance(view, PadCropView):
        return image_shape
    return view.size, view.size, image_shape[2] if image_shape else 3
