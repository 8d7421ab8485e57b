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

    table: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        levels = torch.arange(256, dtype=torch.uint8).float().div(255)
        mean_, std_ = (torch.tensor(list(values), dtype=torch.float32)[:, None] for values in (mean, std))
        # 256 levels x 3 channels is all there is to compute; the table is made on the CPU, so every device gives the same floats.
        self.register_buffer("table", levels.sub(mean_).div_(std_), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return float32 [B, 3, H, W] for uint8 [B, 3, H, W], in the same memory format."""
        channels = torch.arange(self.table.shape[0], device=images.device, dtype=torch.int32) * 256
        return torch.take(self.table, (images + channels[:, None, None]).long())
