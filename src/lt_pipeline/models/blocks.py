"""Residual blocks (He et al., CVPR 2016; Xie et al., CVPR 2017 for groups) and the stages made of them.

The shortcut is a module given to the block, so that networks differ in their shortcut without another block class.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

BlockFactory = Callable[[int, int, int], nn.Module]
"""``(in_channels, planes, stride) -> block``."""


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

    def __init__(self, in_channels: int, planes: int, stride: int, shortcut_kind: Callable[[int, int, int], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = shortcut(shortcut_kind, in_channels, planes, stride)
        self.out_channels = planes

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, planes, H/stride, W/stride] of x [B, in, H, W]."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        return F.relu(out.add_(self.downsample(x)), inplace=True)  # batch norm's backward needs its input, not its output


class Bottleneck(nn.Module):
    """1x1, (grouped) 3x3 with the stride, 1x1 to four times the planes; width ``int(planes * width_per_group / 64) * groups``."""

    expansion = 4

    def __init__(self, in_channels: int, planes: int, stride: int, groups: int = 1, width_per_group: int = 64) -> None:
        super().__init__()
        width = int(planes * width_per_group / 64) * groups
        self.out_channels = planes * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, self.out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.out_channels)
        self.downsample = shortcut(ProjectionShortcut, in_channels, self.out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, 4 planes, H/stride, W/stride] of x [B, in, H, W]."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        return F.relu(out.add_(self.downsample(x)), inplace=True)


class Stage(nn.Sequential):
    """``block0``, ``block1``, ...: the first block carries the stride and changes the width."""

    def __init__(self, block: BlockFactory, in_channels: int, planes: int, blocks: int, stride: int) -> None:
        super().__init__()
        for index in range(blocks):
            made = block(in_channels, planes, stride if index == 0 else 1)
            self.add_module(f"block{index}", made)
            in_channels = int(made.out_channels)  # type: ignore[arg-type]
        self.out_channels = in_channels
