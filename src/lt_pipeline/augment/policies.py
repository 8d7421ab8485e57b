"""The AutoAugment policy of CIFAR-10 on whole batches.

The policy is the one of Cubuk et al., "AutoAugment: Learning Augmentation Policies from Data", CVPR 2019 (table 7). Implementations differ
in how they carry it out; a ``Variant`` says how. ``ONE_WAY`` is the one that SHIKE (Jin et al., CVPR 2023) and MDCS (Zhao et al., ICCV 2023)
share: rotation is never negative, geometric operations fill with grey, shear is bicubic, translation and rotation take the nearest pixel.
torchvision's is in ``signed_policy``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from lt_pipeline.augment.operations import KERNELS, Kernel

GREY = (128, 128, 128)
"""What geometric operations of ``ONE_WAY`` show outside the image."""

OPERATIONS = (
    "shearX", "shearY", "translateX", "translateY", "rotate", "color", "posterize",
    "solarize", "contrast", "sharpness", "brightness", "autocontrast", "equalize", "invert",
)  # fmt: skip
"""Names of the operations."""


def _grid(first: float, last: float) -> tuple[float, ...]:
    return tuple(np.linspace(first, last, 10).tolist())


MAGNITUDES: dict[str, tuple[float, ...]] = {
    "shearX": _grid(0, 0.3),
    "shearY": _grid(0, 0.3),
    "translateX": _grid(0, 150 / 331),
    "translateY": _grid(0, 150 / 331),
    "rotate": _grid(0, 30),
    "color": _grid(0, 0.9),
    "posterize": tuple(np.round(np.linspace(8, 4, 10)).tolist()),
    "solarize": _grid(256, 0),
    "contrast": _grid(0, 0.9),
    "sharpness": _grid(0, 0.9),
    "brightness": _grid(0, 0.9),
    "autocontrast": (0.0,) * 10,
    "equalize": (0.0,) * 10,
    "invert": (0.0,) * 10,
}
"""Magnitude of each operation of ``ONE_WAY`` at levels 0 to 9: shear as a slope, translation as a fraction of the side, rotation in
degrees, ``factor - 1`` of the four enhancements, bits kept by posterize, threshold of solarize; the last three operations take none."""

SIGNED = frozenset({"shearX", "shearY", "translateX", "translateY", "color", "contrast", "sharpness", "brightness"})
"""Operations of ``ONE_WAY`` whose magnitude gets a random sign."""

Step = tuple[str, float, int]

CIFAR_POLICY: tuple[tuple[Step, Step], ...] = (
    (("invert", 0.1, 7), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translateX", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shearY", 0.5, 8), ("translateY", 0.7, 9)),
    (("autocontrast", 0.5, 8), ("equalize", 0.9, 2)),
    (("shearY", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 5), ("equalize", 0.5, 1)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translateX", 0.5, 8)),
    (("equalize", 0.3, 7), ("autocontrast", 0.4, 8)),
    (("translateY", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 3)),
    (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalize", 0.2, 8), ("equalize", 0.6, 4)),
    (("color", 0.9, 9), ("equalize", 0.6, 6)),
    (("autocontrast", 0.8, 4), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, 3)),
    (("translateY", 0.9, 9), ("translateY", 0.7, 9)),
    (("autocontrast", 0.9, 2), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 8), ("invert", 0.1, 3)),
    (("translateY", 0.7, 9), ("autocontrast", 0.9, 1)),
)
"""The 25 sub-policies: two steps (operation, probability, level) each."""


@dataclass(frozen=True, eq=False)
class Variant:
    """How an implementation carries out ``CIFAR_POLICY``."""

    magnitudes: Mapping[str, tuple[float, ...]]
    """Magnitude of each operation at levels 0 to 9."""
    signed: frozenset[str]
    """Operations whose magnitude gets a random sign."""
    kernels: Mapping[str, Kernel]
    """The operations."""
    fill: tuple[int, int, int]
    """What geometric operations show outside the image."""

    @cached_property
    def amounts(self) -> Tensor:
        """Magnitude of each step of each row of ``CIFAR_POLICY``, float64 [25, 2] on the CPU."""
        return torch.tensor([[self.magnitudes[name][level] for name, _, level in row] for row in CIFAR_POLICY], dtype=torch.float64)

    @cached_property
    def heeds_sign(self) -> Tensor:
        """Whether each step's magnitude gets a sign, bool [25, 2] on the CPU."""
        return torch.tensor([[name in self.signed for name, _, _ in row] for row in CIFAR_POLICY])


ONE_WAY = Variant(MAGNITUDES, SIGNED, KERNELS, GREY)
"""The policy as SHIKE and MDCS have it."""


def apply_operation(
    images: Tensor,
    name: str,
    magnitude: float | Tensor,
    sign: int | Tensor = 1,
    *,
    fill: Sequence[int] | None = None,
    variant: Variant = ONE_WAY,
) -> Tensor:
    """Apply one operation to every image of a batch.

    Args:
        images: uint8 [B, 3, H, W].
        name: one of ``OPERATIONS``.
        magnitude: a value from ``variant.magnitudes[name]``, or one per image as float64 [B].
        sign: +1 or -1, or one per image [B]; heeded by the operations in ``variant.signed`` only.
        fill: colour outside the image for geometric operations, if not the variant's.
        variant: whose operation.

    Returns:
        uint8 [B, 3, H, W], a channels_last view.

    Raises:
        KeyError: if there is no such operation.
    """
    pixels = images.permute(0, 2, 3, 1).contiguous()
    amount = torch.as_tensor(magnitude, dtype=torch.float64)
    if name in variant.signed:
        amount = amount * torch.as_tensor(sign)
    amounts = amount.expand(len(images)).to(pixels.device)
    return variant.kernels[name](pixels, amounts, variant.fill if fill is None else fill).permute(0, 3, 1, 2)


def apply_policy(images: Tensor, choice: Tensor, applied: Tensor, sign: Tensor, variant: Variant = ONE_WAY) -> Tensor:
    """Apply a drawn sub-policy to each image of a batch.

    Args:
        images: uint8 [B, 3, H, W].
        choice: int64 [B] on the CPU, rows of ``CIFAR_POLICY``.
        applied: bool [B, 2] on the CPU, whether the first and the second step take place.
        sign: int64 [B, 2] on the CPU, +1 or -1 for the steps that heed it.
        variant: whose operations and magnitudes.

    Returns:
        uint8 [B, 3, H, W], a channels_last view; the input is left alone.
    """
    pixels = images.permute(0, 2, 3, 1).contiguous()
    for place in range(2):
        operation = torch.where(applied[:, place], _OPERATION[choice, place], len(OPERATIONS))
        amount = variant.amounts[choice, place] * torch.where(variant.heeds_sign[choice, place], sign[:, place], 1)
        # Sorted by operation, a group is a slice of the batch; what has no operation comes last and is only carried along.
        order = torch.argsort(operation, stable=True)
        sizes = torch.bincount(operation, minlength=len(OPERATIONS) + 1).tolist()
        groups = pixels.index_select(0, order.to(pixels.device)).split(sizes)
        amounts = amount[order].to(pixels.device).split(sizes)
        done = [
            variant.kernels[name](groups[number], amounts[number], variant.fill) for number, name in enumerate(OPERATIONS) if sizes[number]
        ]
        pixels = torch.cat((*done, groups[-1])).index_select(0, torch.argsort(order).to(pixels.device))
    return pixels.permute(0, 3, 1, 2)


_OPERATION = torch.tensor([[OPERATIONS.index(name) for name, _, _ in row] for row in CIFAR_POLICY])
