"""AutoAugment and Cutout, which several methods' fixtures have."""

import torch
from torch import Tensor

from lt_pipeline.augment.batched import cut
from lt_pipeline.augment.policies import CIFAR_POLICY

Row = list[float]


def planes(image: Tensor) -> Tensor:
    """Return a batch of one, [1, 3, H, W], of an image [H, W, 3]."""
    return image.permute(2, 0, 1)[None]


def picture(images: Tensor) -> dict[str, Tensor]:
    """Return the image [H, W, 3] of a batch of one."""
    return {"image": images[0].permute(1, 2, 0)}


def cut_all(image: Tensor, centres: list[list[int]], length: int) -> dict[str, Tensor]:
    """Return the image [C, H, W] with a hole at each centre."""
    for centre in centres:
        image = cut(image[None], torch.tensor([centre]), length)[0]
    return {"image": image}


def policy_rows(names: list[str]) -> list[Row]:
    """Return each sub-policy as probability, operation, level, twice; operations by their place in ``names``."""
    return [[p1, names.index(op1), l1, p2, names.index(op2), l2] for (op1, p1, l1), (op2, p2, l2) in CIFAR_POLICY]
