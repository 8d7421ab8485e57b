"""From uint8 pixels to the network's input."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """Scale uint8 images to [0, 1] and standardise each channel, bit-equal to torchvision's ``ToTensor`` and ``Normalize``.

    Args:
        mean: mean of each channel of the [0, 1] values.
        std: standard deviation of each channel, likewise.
    """

    levels: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        # A tensor on the device: an accelerator would multiply by the rounded reciprocal of a plain number.
        self.register_buffer("levels", torch.tensor(255.0), persistent=False)
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return float32 [B, 3, H, W] for uint8 [B, 3, H, W], in the same memory format (channels_last or contiguous)."""
        if images.is_contiguous():
            return images.float().div_(self.levels).sub_(self.mean[:, None, None]).div_(self.std[:, None, None])
        # Whole rows of [H, W * 3] with the constants repeated: broadcasting over three values at a time would cost several times as much.
        pixels = images.permute(0, 2, 3, 1).contiguous()
        mean, std = (constant.repeat(pixels.shape[2]) for constant in (self.mean, self.std))
        values = pixels.flatten(2).float().div_(self.levels).sub_(mean).div_(std)
        return values.view(pixels.shape).permute(0, 3, 1, 2)
