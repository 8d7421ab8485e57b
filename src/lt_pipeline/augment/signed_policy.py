"""AutoAugment's CIFAR-10 policy as torchvision has it, a batch at a time: rotation either way, black borders, bilinear.

Few combinations of operation and magnitude exist, so images that drew the same one are transformed together by torchvision's own operation.
"""

import torch
from torch import Generator, Tensor
from torchvision.transforms import InterpolationMode, v2

_TRANSFORM = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, InterpolationMode.BILINEAR)
_ROWS = _TRANSFORM._policies
_OPERATIONS = sorted({step[0] for row in _ROWS for step in row})
_OPERATION = torch.tensor([[_OPERATIONS.index(step[0]) for step in row] for row in _ROWS])
_PROBABILITY = torch.tensor([[step[1] for step in row] for row in _ROWS], dtype=torch.float64)
_LEVEL = torch.tensor([[-1 if step[2] is None else step[2] for step in row] for row in _ROWS])


def signed_autoaugment(images: Tensor, generator: Generator) -> Tensor:
    """Apply to each of the uint8 images [B, 3, H, W] one of the 25 sub-policies, drawn uniformly."""
    count = len(images)
    choice = torch.randint(len(_ROWS), (count,), generator=generator)
    applied = torch.rand(count, 2, generator=generator, dtype=torch.float64) < _PROBABILITY[choice]
    negative = torch.randint(2, (count, 2), generator=generator)
    pixels = images.contiguous().clone()
    for step in range(2):
        keys = torch.stack([_OPERATION[choice, step], _LEVEL[choice, step], negative[:, step]], 1)
        keys[~applied[:, step]] = -2
        for key in keys.unique(dim=0).tolist():
            if key[0] >= 0:
                rows = (keys == torch.tensor(key)).all(1).nonzero().squeeze(1).to(images.device)
                pixels[rows] = apply_step(pixels[rows], _OPERATIONS[key[0]], key[1], bool(key[2]))
    return pixels.contiguous(memory_format=torch.channels_last)


def apply_step(images: Tensor, operation: str, level: int, negative: bool) -> Tensor:
    """Return images [B, 3, H, W] under one operation; ``level`` is 0..9, -1 for an operation without one, and signed ones may be ``negative``."""
    magnitudes, signed = _TRANSFORM._AUGMENTATION_SPACE[operation]
    grid = magnitudes(10, *images.shape[2:])
    magnitude = 0.0 if grid is None else float(grid[level]) * (-1 if signed and negative else 1)
    changed: Tensor = _TRANSFORM._apply_image_or_video_transform(
        images, operation, magnitude, interpolation=_TRANSFORM.interpolation, fill=_TRANSFORM._fill
    )
    return changed
