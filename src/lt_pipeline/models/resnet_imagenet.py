"""ResNet and ResNeXt for large images (He et al., CVPR 2016; Xie et al., CVPR 2017) with expert branches (RIDE).

7x7 stem and max-pooling, four stages, projection shortcuts, global pooling instead of the official fixed 7x7 window. Stem, stages 1 and 2 are
shared (stage 3 too if asked), the rest belongs to an expert.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from torch import nn

from lt_pipeline.models.blocks import Activation, BasicBlock, BlockFactory, Bottleneck, Gate, ProjectionShortcut, Stage, relu
from lt_pipeline.models.experts import Expert, MultiExpert
from lt_pipeline.models.heads import Head, head_factory

FULL_PLANES = (64, 128, 256, 512)
REDUCED_PLANES = (64, 128, 192, 384)
"""Three quarters of the width in the last two stages."""


def large_stem(activation: Activation = relu) -> nn.Sequential:
    """Return the 7x7 stem with max-pooling: 64 channels, a quarter of the side."""
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(3, 64, 7, 2, 3, bias=False),
            bn=nn.BatchNorm2d(64),
            act=activation(),
            pool=nn.MaxPool2d(3, 2, 1),
        )
    )


def resnet_imagenet(
    num_classes: int,
    num_experts: int = 1,
    blocks: Sequence[int] = (3, 4, 6, 3),
    planes: Sequence[int] = FULL_PLANES,
    bottleneck: bool = True,
    groups: int = 1,
    width_per_group: int = 64,
    cosine_head: bool = True,
    scale: float = 30.0,
    share_stage3: bool = False,
    activation: Activation = relu,
    gate: Gate | None = None,
    head: Head | None = None,
) -> MultiExpert:
    """Return an ImageNet-style ResNet with ``num_experts`` branches; the default is ResNet-50.

    Args:
        num_classes: C.
        num_experts: K >= 1.
        blocks: number of blocks in each of the four stages.
        planes: base width of the four stages; bottlenecks put out four times as many channels.
        bottleneck: bottleneck blocks instead of basic ones.
        groups: of the 3x3 convolutions in bottlenecks (ResNeXt: 32).
        width_per_group: width of a group at 64 planes (ResNeXt: 4).
        cosine_head: cosine classifier instead of a linear one.
        scale: of the cosine classifier.
        share_stage3: only stage 4 and the classifier belong to an expert.
        activation: of every hidden site.
        gate: of every block.
        head: another classifier than the cosine and linear ones.
    """
    block: BlockFactory = (
        partial(Bottleneck, groups=groups, width_per_group=width_per_group, activation=activation, gate=gate)
        if bottleneck
        else partial(BasicBlock, shortcut_kind=ProjectionShortcut, activation=activation, gate=gate)
    )
    expansion = Bottleneck.expansion if bottleneck else 1
    inputs = (64, *(expansion * width for width in planes[:3]))

    def stages(first: int, last: int) -> dict[str, nn.Module]:
        return {
            f"stage{i}": Stage(block, inputs[i - 1], planes[i - 1], blocks[i - 1], stride=1 if i == 1 else 2)
            for i in range(first, last + 1)
        }

    shared, features = 3 if share_stage3 else 2, expansion * planes[3]
    make_head = head or head_factory(cosine_head, scale)
    trunk = {"stem": large_stem(activation), **stages(1, shared)}
    experts = [Expert(stages(shared + 1, 4), make_head(features, num_classes)) for _ in range(num_experts)]
    return MultiExpert(trunk, experts, feature_dim=features, num_classes=num_classes).apply(initialise)


def initialise(module: nn.Module) -> None:
    """Normal(0, sqrt(2 / (kh kw out))) for convolutions; batch norm and linear layers keep the framework's values."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
