"""Residual blocks (He et al., CVPR 2016; Xie et al., CVPR 2017 for groups) and the stages made of them.

Shortcut, activation and gate are modules given to the block, so that networks differ in them without another block class.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

BlockFactory = Callable[[int, int, int], nn.Module]
"""``(in_channels, planes, stride) -> block``."""
Activation = Callable[[], nn.Module]
"""Makes the activation of one site."""
Gate = Callable[[int], nn.Module]
"""``channels -> module`` that weighs a feature map by itself (squeeze and excitation, CBAM), before the shortcut is added."""


def relu() -> nn.Module:
    """Return the activation of the published residual networks; it overwrites its input, which saves a copy."""
    return nn.ReLU(inplace=True)


class ZeroPadShortcut(nn.Module):
    """Parameter-free shortcut (option A of He et al.): every second row and column, zero channels added evenly on both sides."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        added = out_channels - in_channels
        if added < 0 or added % 2:
            raise ValueError(f"a zero-padded shortcut adds an even number of channels, not {added}")
        self.stride, self.padding = stride, added // 2

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, out, H/stride, W/stride] of x [B, in, H, W]; the memory format is kept."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))


class ProjectionShortcut(nn.Module):
    """1x1 convolution and batch norm (option B of He et al.)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, out, H/stride, W/stride] of x [B, in, H, W]."""
        return self.bn(self.conv(x))


def shortcut(kind: Callable[[int, int, int], nn.Module], in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Return the identity where the shape stays, otherwise a shortcut of ``kind``."""
    return nn.Identity() if stride == 1 and in_channels == out_channels else kind(in_channels, out_channels, stride)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the first one carries the stride."""

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int,
        shortcut_kind: Callable[[int, int, int], nn.Module],
        activation: Activation = relu,
        gate: Gate | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.act1 = activation()
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.gate = gate(planes) if gate else nn.Identity()
        self.downsample = shortcut(shortcut_kind, in_channels, planes, stride)
        self.act2 = activation()
        self.out_channels = planes

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, planes, H/stride, W/stride] of x [B, in, H, W]."""
        out = self.act1(self.bn1(self.conv1(x)))
        out = self.gate(self.bn2(self.conv2(out)))
        return self.act2(out.add_(self.downsample(x)))  # neither batch norm nor a gate needs its output in backward


class Bottleneck(nn.Module):
    """1x1, (grouped) 3x3 with the stride, 1x1 to four times the planes; width ``int(planes * width_per_group / 64) * groups``."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int,
        groups: int = 1,
        width_per_group: int = 64,
        activation: Activation = relu,
        gate: Gate | None = None,
    ) -> None:
        super().__init__()
        width = int(planes * width_per_group / 64) * groups
        self.out_channels = planes * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = activation()
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.act2 = activation()
        self.conv3 = nn.Conv2d(width, self.out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.out_channels)
        self.gate = gate(self.out_channels) if gate else nn.Identity()
        self.downsample = shortcut(ProjectionShortcut, in_channels, self.out_channels, stride)
        self.act3 = activation()

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, 4 planes, H/stride, W/stride] of x [B, in, H, W]."""
        out = self.act1(self.bn1(self.conv1(x)))
        out = self.act2(self.bn2(self.conv2(out)))
        out = self.gate(self.bn3(self.conv3(out)))
        return self.act3(out.add_(self.downsample(x)))


class Stage(nn.Sequential):
    """``block0``, ``block1``, ...: the first block carries the stride and changes the width."""

    def __init__(self, block: BlockFactory, in_channels: int, planes: int, blocks: int, stride: int) -> None:
        super().__init__()
        for index in range(blocks):
            made = block(in_channels, planes, stride if index == 0 else 1)
            self.add_module(f"block{index}", made)
            in_channels = int(made.out_channels)  # type: ignore[arg-type]
        self.out_channels = in_channels
