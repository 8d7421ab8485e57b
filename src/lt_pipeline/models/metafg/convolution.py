"""The convolutional half of MetaFG: stem and MBConv stages (Diao et al., arXiv 2203.02751, section 3.2)."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

NORM_EPS = 1e-2
"""Of the batch norms in MBConv blocks; the stem's have the framework's 1e-5."""


def stochastic_depth(branch: Tensor, probability: float, uniform: Tensor) -> Tensor:
    """Return a residual branch [B, ...] that is zero for some samples and divided by ``1 - probability`` for the others (Huang et al., 2016).

    Args:
        branch: [B, ...].
        probability: of dropping a sample's branch.
        uniform: draws in [0, 1), float32 [B]; a sample is kept where ``1 - probability + uniform`` reaches 1.
    """
    kept = (1 - probability + uniform).floor() / (1 - probability)
    return branch * kept.to(branch.dtype).view(-1, *[1] * (branch.ndim - 1))


class StochasticDepth(nn.Module):
    """Drops the residual branch of single samples in training; draws in float32 whatever the precision.

    Args:
        probability: of dropping, in [0, 1).
    """

    def __init__(self, probability: float = 0.0) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, branch: Tensor) -> Tensor:
        """Return the branch [B, ...]."""
        if not self.training or self.probability == 0:
            return branch
        return stochastic_depth(branch, self.probability, torch.rand(len(branch), device=branch.device))

    def extra_repr(self) -> str:
        """Describe the module in one line."""
        return f"probability={self.probability:g}"


class Stem(nn.Module):
    """Three 3x3 convolutions and a max pool that take images to a quarter of their side.

    Args:
        width: D channels of the result; the first convolution has ``3 * (D // 4)``.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        narrow = 3 * (width // 4)
        self.conv1 = nn.Conv2d(3, narrow, 3, 2, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(narrow)
        self.conv2 = nn.Conv2d(narrow, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(width)

    def forward(self, images: Tensor) -> Tensor:
        """Return maps [B, D, S/4, S/4] of images [B, 3, S, S]."""
        x = images
        for conv, norm in ((self.conv1, self.norm1), (self.conv2, self.norm2), (self.conv3, self.norm3)):
            x = F.relu(norm(conv(x)), inplace=True)
        return F.max_pool2d(x, 3, 2, 1)


class MBConv(nn.Module):
    """Inverted residual with squeeze and excitation (Sandler et al., 2018; Tan & Le, 2019), normalised after each convolution.

    The expansion and the squeeze are measured by the block's input; there is a shortcut only where input and output have one shape.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        stride: of the depthwise convolution.
        expansion: width of the depthwise convolution by ``in_channels``; 1 leaves the expanding convolution out.
        drop: probability of stochastic depth; without a shortcut nothing is dropped.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, expansion: int = 4, drop: float = 0.0) -> None:
        super().__init__()
        width, squeezed = in_channels * expansion, max(1, in_channels // 4)
        self.has_shortcut = stride == 1 and in_channels == out_channels
        self.checkpointed = False
        if expansion != 1:
            self.expand = nn.Conv2d(in_channels, width, 1, bias=False)
            self.expand_norm = nn.BatchNorm2d(width, eps=NORM_EPS)
        self.depthwise = nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(width, eps=NORM_EPS)
        self.se_reduce = nn.Conv2d(width, squeezed, 1)
        self.se_expand = nn.Conv2d(squeezed, width, 1)
        self.project = nn.Conv2d(width, out_channels, 1, bias=False)
        self.project_norm = nn.BatchNorm2d(out_channels, eps=NORM_EPS)
        self.drop = StochasticDepth(drop if self.has_shortcut else 0.0)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps [B, C', H/stride, W/stride] of maps [B, C, H, W]."""
        if self.checkpointed and torch.is_grad_enabled():
            branch: Tensor = checkpoint(self._branch, maps, use_reentrant=False, context_fn=self._recomputation)
        else:
            branch = self._branch(maps)
        return maps + self.drop(branch) if self.has_shortcut else branch

    def _branch(self, maps: Tensor) -> Tensor:
        x = F.silu(self.expand_norm(self.expand(maps))) if "expand" in self._modules else maps
        x = F.silu(self.depthwise_norm(self.depthwise(x)))
        squeezed = F.silu(self.se_reduce(x.mean((2, 3), keepdim=True)))
        return self.project_norm(self.project(x * self.se_expand(squeezed).sigmoid()))

    def _recomputation(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """The backward pass runs the branch again; only the first time may move the running statistics."""
        return nullcontext(), _statistics_untouched(self)


@contextmanager
def _statistics_untouched(module: nn.Module) -> Iterator[None]:
    """Let batch norms use the statistics of the batch and leave their running ones and step counters as they are.

    They still receive the running ones, at momentum 0: recomputation must save the same tensors as the first pass.
    """
    norms = [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d)]
    held = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, steps) in zip(norms, held, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, steps
