"""Gates that weigh a feature map by itself: squeeze and excitation (Hu et al., CVPR 2018) and CBAM (Woo et al., ECCV 2018).

The activation at the end of a gate is given to it: the sigmoid as published first, or the adaptive one of APA (Alexandridis et al., ECCV 2024,
section 3.3), which brings a layer norm and a dropout with it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_pipeline.models.blocks import Activation


class SqueezeExcitation(nn.Module):
    """Weighs channels by a two-layer perceptron without biases on their spatial means.

    Args:
        channels: C.
        reduction: C / reduction hidden units.
        activation: of the gate; None is the plain gate: sigmoid, neither layer norm nor dropout.
        dropout: on what goes into an adaptive activation.
    """

    def __init__(self, channels: int, reduction: int, activation: Activation | None = None, dropout: float = 0.1) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels) if activation else nn.Identity()
        self.fc1 = nn.Linear(channels, channels // reduction, bias=False)
        self.fc2 = nn.Linear(channels // reduction, channels, bias=False)
        self.dropout = nn.Dropout(dropout) if activation else nn.Identity()
        self.act = activation() if activation else nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Return x [B, C, H, W] with each channel weighed."""
        scores = self.dropout(self.fc2(F.relu(self.fc1(self.norm(x.mean((2, 3)))))))
        return x * self.act(scores).to(x.dtype)[:, :, None, None]


class ChannelGate(nn.Module):
    """CBAM's channel gate: mean and maximum of each channel through one shared layer norm and perceptron with biases, added.

    Args:
        channels: C.
        reduction: C / reduction hidden units.
        activation: of the gate.
        dropout: at the end of the perceptron.
    """

    def __init__(self, channels: int, reduction: int, activation: Activation = nn.Sigmoid, dropout: float = 0.1) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, channels // reduction)
        self.fc2 = nn.Linear(channels // reduction, channels)
        self.dropout = nn.Dropout(dropout)
        self.act = activation()

    def forward(self, x: Tensor) -> Tensor:
        """Return x [B, C, H, W] with each channel weighed."""
        scores = self._perceptron(x.mean((2, 3))) + self._perceptron(x.amax((2, 3)))
        return x * self.act(scores).to(x.dtype)[:, :, None, None]

    def _perceptron(self, pooled: Tensor) -> Tensor:
        return self.dropout(self.fc2(F.relu(self.fc1(self.norm(pooled)))))


class SpatialGate(nn.Module):
    """CBAM's spatial gate: a convolution over the maximum and the mean of the channels at each place."""

    def __init__(self, activation: Activation = nn.Sigmoid, kernel_size: int = 7, bn_momentum: float = 0.01) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(1, momentum=bn_momentum)
        self.act = activation()

    def forward(self, x: Tensor) -> Tensor:
        """Return x [B, C, H, W] with each place weighed."""
        pooled = torch.stack([x.amax(1), x.mean(1)], dim=1)
        return x * self.act(self.bn(self.conv(pooled))).to(x.dtype)


class CBAM(nn.Module):
    """Channel gate, then spatial gate.

    Args:
        channels: C.
        reduction: of the channel gate.
        channel_activation: of the channel gate; None leaves that gate out.
        spatial_activation: of the spatial gate; None leaves that gate out.
        dropout: of the channel gate.
    """

    def __init__(
        self,
        channels: int,
        reduction: int,
        channel_activation: Activation | None = nn.Sigmoid,
        spatial_activation: Activation | None = nn.Sigmoid,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.channel = ChannelGate(channels, reduction, channel_activation, dropout) if channel_activation else nn.Identity()
        self.spatial = SpatialGate(spatial_activation) if spatial_activation else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return x [B, C, H, W] weighed by channel, then by place."""
        return self.spatial(self.channel(x))
