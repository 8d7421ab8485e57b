"""ResNet for small images (He et al., CVPR 2016, section 4.2) with expert branches (RIDE).

3x3 stem, three stages of basic blocks with parameter-free shortcuts, global pooling: any image side from a few pixels up. The stem and stage 1
are shared, stages 2 and 3 belong to an expert.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from torch import nn

from lt_pipeline.models.blocks import Activation, BasicBlock, Gate, Stage, ZeroPadShortcut, relu
from lt_pipeline.models.experts import Expert, MultiExpert
from lt_pipeline.models.heads import Head, head_factory

FULL_WIDTHS = (16, 32, 64)
REDUCED_WIDTHS = (16, 24, 48)
"""Three quarters of the width in the stages that every expert has for itself."""


def small_stem(width: int, activation: Activation = relu) -> nn.Sequential:
    """Return the 3x3 stem that keeps the size of the image."""
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, width, 3, 1, 1, bias=False), bn=nn.BatchNorm2d(width), act=activation()))


def resnet_cifar(
    num_classes: int,
    num_experts: int = 1,
    blocks: Sequence[int] = (5, 5, 5),
    widths: Sequence[int] = FULL_WIDTHS,
    cosine_head: bool = True,
    scale: float = 30.0,
    activation: Activation = relu,
    gate: Gate | None = None,
    head: Head | None = None,
) -> MultiExpert:
    """Return a CIFAR ResNet with ``num_experts`` branches; the default is ResNet-32.

    Args:
        num_classes: C.
        num_experts: K >= 1.
        blocks: number of blocks in each of the three stages.
        widths: channels of the three stages; each step must be even.
        cosine_head: cosine classifier instead of a linear one.
        scale: of the cosine classifier.
        activation: of every hidden site.
        gate: of every block.
        head: another classifier than the cosine and linear ones.
    """
    block = partial(BasicBlock, shortcut_kind=ZeroPadShortcut, activation=activation, gate=gate)
    trunk = {"stem": small_stem(widths[0], activation), "stage1": Stage(block, widths[0], widths[0], blocks[0], stride=1)}

    make_head = head or head_factory(cosine_head, scale)

    def expert() -> Expert:
        stages = {f"stage{i + 1}": Stage(block, widths[i - 1], widths[i], blocks[i], stride=2) for i in (1, 2)}
        return Expert(stages, make_head(widths[2], num_classes))

    model = MultiExpert(trunk, [expert() for _ in range(num_experts)], feature_dim=widths[2], num_classes=num_classes)
    return model.apply(initialise)


def initialise(module: nn.Module) -> None:
    """Kaiming-normal (fan-in, gain sqrt 2) for convolutions and linear layers, the CIFAR recipe of LDAM-DRW and RIDE."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight)
