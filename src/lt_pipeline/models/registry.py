"""Networks by name."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from torch import nn

from lt_pipeline.errors import LongTailError, nearest
from lt_pipeline.models import resnet_cifar, resnet_imagenet
from lt_pipeline.models.activations import build_activation
from lt_pipeline.models.config import ExpertsConfig, StartConfig
from lt_pipeline.models.experts import MultiExpert
from lt_pipeline.models.pretrained import freeze, load_pretrained
from lt_pipeline.models.router import Router

NetworkT = TypeVar("NetworkT", bound=nn.Module)
_RESNET_152 = (3, 8, 36, 3)

IMAGENET_BACKBONES: dict[str, Callable[..., MultiExpert]] = {
    "resnet10": partial(resnet_imagenet.resnet_imagenet, blocks=(1, 1, 1, 1), bottleneck=False),
    "resnet50": partial(resnet_imagenet.resnet_imagenet, blocks=(3, 4, 6, 3)),
    "resnet101": partial(resnet_imagenet.resnet_imagenet, blocks=(3, 4, 23, 3)),
    "resnet152": partial(resnet_imagenet.resnet_imagenet, blocks=_RESNET_152),
    "resnext50": partial(resnet_imagenet.resnet_imagenet, blocks=(3, 4, 6, 3), groups=32, width_per_group=4),
    "resnext152": partial(resnet_imagenet.resnet_imagenet, blocks=_RESNET_152, groups=32, width_per_group=4),
}
BACKBONES = ("resnet32", *IMAGENET_BACKBONES)


def build_experts(
    backbone: str,
    num_classes: int,
    num_experts: int,
    reduce_dimension: bool = True,
    cosine_head: bool = True,
    scale: float = 30.0,
    share_stage3: bool = False,
    activation: str = "relu",
) -> MultiExpert:
    """Return a freshly initialised network.

    Args:
        backbone: one of :data:`BACKBONES`; ``resnet32`` is the CIFAR network, the others take images of about 224 pixels.
        num_classes: C.
        num_experts: K >= 1; one is a plain network.
        reduce_dimension: three quarters of the width in the experts' stages.
        cosine_head: cosine classifier instead of a linear one.
        scale: of the cosine classifier.
        share_stage3: ImageNet-style networks: share stage 3 too.
        activation: of the hidden layers, one of :data:`~lt_pipeline.models.activations.ACTIVATIONS`.

    Raises:
        LongTailError: for an unknown backbone or activation, no experts, or a stage that cannot be shared.
    """
    if num_experts < 1:
        raise LongTailError(f"model.experts is {num_experts}; a network needs at least 1.")
    if backbone == "resnet32":
        if share_stage3:
            raise LongTailError(
                "model.share_stage3 is for ImageNet-style networks; with resnet32 stage 3 is the expert, so set it to false."
            )
        widths = resnet_cifar.REDUCED_WIDTHS if reduce_dimension else resnet_cifar.FULL_WIDTHS
        return resnet_cifar.resnet_cifar(
            num_classes, num_experts, widths=widths, cosine_head=cosine_head, scale=scale, activation=partial(build_activation, activation)
        )
    if backbone not in IMAGENET_BACKBONES:
        raise LongTailError(f"Unknown backbone '{backbone}'; there are {', '.join(BACKBONES)}.{nearest(backbone, BACKBONES)}")
    return IMAGENET_BACKBONES[backbone](
        num_classes,
        num_experts,
        planes=resnet_imagenet.REDUCED_PLANES if reduce_dimension else resnet_imagenet.FULL_PLANES,
        cosine_head=cosine_head,
        scale=scale,
        share_stage3=share_stage3,
        activation=partial(build_activation, activation),
    )


def build_router(backbone: str, experts: MultiExpert, top_choices: int = 30, hidden: int = 16, shared_output: bool = True) -> Router:
    """Return a freshly initialised router for ``experts``: Kaiming-normal beside the CIFAR network, the framework's default beside others.

    Raises:
        LongTailError: with fewer than two experts.
    """
    router = Router(experts.num_experts, experts.feature_dim, experts.num_classes, top_choices, hidden, shared_output)
    if backbone == "resnet32":
        router.apply(resnet_cifar.initialise)
    return router


def experts_network(config: ExpertsConfig, num_classes: int) -> MultiExpert:
    """Return the network that ``config`` describes, freshly initialised."""
    return build_experts(
        config.backbone,
        num_classes,
        config.experts,
        config.reduce_dimension,
        config.cosine_head,
        config.scale,
        config.share_stage3,
        config.activation,
    )


def prepare(network: NetworkT, config: StartConfig) -> NetworkT:
    """Return the network with the weights it is to start from and the frozen parts frozen.

    Raises:
        LongTailError: if the weights cannot be read or do not fit, or a part to freeze does not exist.
    """
    if config.weights:
        load_pretrained(network, Path(config.weights))
    freeze(network, config.frozen)
    return network
