"""Experts of one backbone that see different depths (SHIKE, Jin et al., CVPR 2023, arXiv 2304.01279, section 3.2: depth-wise knowledge fusion).

All experts share every stage but the last. Each has a last stage of its own and multiplies its map, element by element, with a shared map of
an earlier stage that a branch of strided convolutions has brought to the same shape. The official code has the CIFAR network only; the
ImageNet-size networks follow the paper's overview figure.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor, nn

from lt_pipeline.errors import LongTailError, nearest
from lt_pipeline.models import resnet_cifar, resnet_imagenet
from lt_pipeline.models.blocks import Activation, BasicBlock, Bottleneck, ProjectionShortcut, Stage, relu
from lt_pipeline.models.experts import MultiExpert, global_mean
from lt_pipeline.models.heads import head_factory
from lt_pipeline.models.resnet_cifar import small_stem
from lt_pipeline.models.resnet_imagenet import large_stem

AlignConv = Literal["full", "bottleneck", "separable"]
AlignRelu = Literal["official", "all", "all_but_last"]


class AlignBranch(nn.Sequential):
    """Brings a shallow map to the depth of the last stage: each step halves the side and doubles the channels.

    Args:
        in_channels: c of the map it reads.
        steps: how often; the output has ``c * 2^steps`` channels.
        conv: ``full`` 3x3 convolutions as published; ``bottleneck`` (1x1 to a quarter, 3x3, 1x1) and ``separable`` (depthwise 3x3, 1x1) need a
            fraction of their weights, which matters with 2048 channels.
        relu: after which steps a ReLU follows. ``official``: after all but the second, so that a two-step branch may end negative and a one-step
            branch may not.
    """

    def __init__(self, in_channels: int, steps: int, conv: AlignConv = "full", relu: AlignRelu = "official") -> None:
        super().__init__()
        for step in range(steps):
            channels = in_channels * 2**step
            rectified = {"official": step != 1, "all": True, "all_but_last": step < steps - 1}[relu]
            self.add_module(f"step{step}", AlignStep(channels, conv, rectified))


class AlignStep(nn.Module):
    """Convolution with stride 2, batch norm, ReLU if ``rectified``."""

    def __init__(self, channels: int, conv: AlignConv, rectified: bool) -> None:
        super().__init__()
        self.conv = _halving_convolution(channels, conv)
        self.bn = nn.BatchNorm2d(2 * channels)
        self.act = nn.ReLU(inplace=True) if rectified else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, 2c, H/2, W/2] of x [B, c, H, W], odd sides rounded up."""
        return self.act(self.bn(self.conv(x)))


def _halving_convolution(channels: int, kind: AlignConv) -> nn.Module:
    if kind == "full":
        return nn.Conv2d(channels, 2 * channels, 3, 2, 1, bias=False)
    if kind == "separable":
        return nn.Sequential(
            nn.Conv2d(channels, channels, 3, 2, 1, groups=channels, bias=False), nn.Conv2d(channels, 2 * channels, 1, bias=False)
        )
    narrow = max(channels // 4, 1)
    return nn.Sequential(
        nn.Conv2d(channels, narrow, 1, bias=False),
        nn.Conv2d(narrow, narrow, 3, 2, 1, bias=False),
        nn.Conv2d(narrow, 2 * channels, 1, bias=False),
    )


class FusedExpert(nn.Module):
    """One branch: a last stage on the deepest shared map, times an aligned shallower one, pooled and classified.

    Args:
        last: the last stage.
        align: the branch that reads the shallow map.
        tap: which of the shared maps that is, from 0.
        classifier: the head.
    """

    def __init__(self, last: nn.Module, align: AlignBranch, tap: int, classifier: nn.Module) -> None:
        super().__init__()
        self.last, self.align, self.tap, self.classifier = last, align, tap, classifier

    def forward(self, shared: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return logits [B, C] (scale included) and pooled fused features [B, D] of the shared maps, shallow to deep."""
        features = global_mean(self.last(shared[-1]) * self.align(shared[self.tap]))
        return self.classifier(features), features


def depth_of_expert(index: int, shared_stages: int) -> tuple[int, int]:
    """Return which shared stage (from 0) expert ``index`` reads and how many steps its map needs: the experts take turns, shallowest first."""
    tap = index % shared_stages
    return tap, shared_stages - tap


@dataclass(frozen=True)
class _Form:
    """What tells one backbone from another."""

    stem: Callable[..., nn.Module]
    block: Callable[..., nn.Module]
    planes: tuple[int, ...]
    expansion: int
    blocks: tuple[int, ...]
    initialise: Callable[[nn.Module], None]


_PROJECTED = partial(BasicBlock, shortcut_kind=ProjectionShortcut)  # unlike most CIFAR ResNets of this field
_large = partial(_Form, large_stem, planes=(64, 128, 256, 512), expansion=Bottleneck.expansion, initialise=resnet_imagenet.initialise)
_FORMS = {
    "resnet32": _Form(partial(small_stem, 16), _PROJECTED, (16, 32, 64), 1, (5, 5, 5), resnet_cifar.initialise),
    "resnet50": _large(Bottleneck, blocks=(3, 4, 6, 3)),
    "resnet101": _large(Bottleneck, blocks=(3, 4, 23, 3)),
    "resnet152": _large(Bottleneck, blocks=(3, 8, 36, 3)),
    "resnext50": _large(partial(Bottleneck, groups=32, width_per_group=4), blocks=(3, 4, 6, 3)),
}


def build_depth_fused(
    backbone: str,
    num_classes: int,
    num_experts: int = 3,
    cosine_head: bool = True,
    scale: float = 30.0,
    align_conv: AlignConv = "full",
    align_relu: AlignRelu = "official",
    blocks: Sequence[int] | None = None,
    activation: Activation = relu,
) -> MultiExpert:
    """Return a freshly initialised network.

    Args:
        backbone: ``resnet32`` is the CIFAR network, the others take images of about 224 pixels.
        num_classes: C.
        num_experts: M >= 1.
        cosine_head: cosine classifier instead of a linear one.
        scale: of the cosine classifier.
        align_conv: kind of the align branches' convolutions; ``full`` ones are half of an ImageNet-size model.
        align_relu: where the align branches have a ReLU.
        blocks: number of blocks in each stage, if not the backbone's own.
        activation: of the hidden sites outside the align branches.

    Raises:
        LongTailError: for a backbone that this family does not have.
    """
    if backbone not in _FORMS:
        raise LongTailError(f"Backbone '{backbone}' has no depth-wise fusion; there are {', '.join(_FORMS)}.{nearest(backbone, _FORMS)}")
    form = _FORMS[backbone]
    block = partial(form.block, activation=activation)
    channels = [form.expansion * width for width in form.planes]
    inputs = (form.planes[0], *channels)
    make_head = head_factory(cosine_head, scale)

    def stage(index: int) -> Stage:
        number = (blocks or form.blocks)[index]
        made: Stage = Stage(block, inputs[index], form.planes[index], number, 1 if index == 0 else 2).apply(form.initialise)
        return made

    def expert(index: int) -> FusedExpert:
        tap, steps = depth_of_expert(index, len(shared))
        # the align branches keep the framework's initial values: in the official code they are made after the initialisation
        align = AlignBranch(channels[tap], steps, align_conv, align_relu)
        head = make_head(channels[-1], num_classes).apply(form.initialise)
        return FusedExpert(stage(len(shared)), align, tap, head)

    shared = {f"stage{index + 1}": stage(index) for index in range(len(form.planes) - 1)}
    trunk = {"stem": form.stem(activation=activation).apply(form.initialise), **shared}
    return MultiExpert(trunk, [expert(index) for index in range(num_experts)], channels[-1], num_classes, taps=tuple(shared))
