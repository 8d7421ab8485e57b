"""Residual networks with gates and adaptive activations (APA, Alexandridis et al., ECCV 2024, section 4)."""

from functools import partial
from typing import Any, Literal

from torch import nn

from lt_pipeline.models.activations import AGLU, APA, Floor, LambdaGrad, build_activation
from lt_pipeline.models.blocks import Activation, Gate
from lt_pipeline.models.experts import MultiExpert
from lt_pipeline.models.gates import CBAM, SqueezeExcitation
from lt_pipeline.models.heads import Head, LinearClassifier, SquashedCosineClassifier
from lt_pipeline.models.registry import IMAGENET_BACKBONES
from lt_pipeline.models.resnet_cifar import resnet_cifar
from lt_pipeline.models.resnet_imagenet import FULL_PLANES

Attention = Literal["se", "cbam", "none"]
LEARNED_SCALE = 5.0
"""Start of a learned scale, which is applied squared."""
_GATES: dict[str, Activation] = {"sigmoid": nn.Sigmoid, "apa": APA}


def build_adaptive(
    backbone: str,
    num_classes: int,
    attention: Attention = "se",
    activation: str = "aglu",
    gate: Literal["apa", "sigmoid"] = "apa",
    spatial_gate: Literal["apa", "sigmoid"] = "sigmoid",
    lambda_grad: LambdaGrad = "exact",
    lambda_floor: Floor = "clamp",
    dropout: float = 0.1,
    head: Literal["cosine", "learned_cosine", "linear"] = "cosine",
    scale: float = 16.0,
    blocks: tuple[int, ...] | None = None,
) -> MultiExpert:
    """Return a freshly initialised network of one branch.

    Args:
        backbone: ``resnet32`` or an ImageNet-style network.
        num_classes: C.
        attention: gate of every block.
        activation: of the hidden sites; each ``aglu`` has a lambda and a kappa of its own.
        gate: activation of the (channel) gate.
        spatial_gate: activation of CBAM's spatial gate.
        lambda_grad: derivative of AGLU in lambda.
        lambda_floor: of AGLU; gates are clamped.
        dropout: on what goes into adaptive gates.
        head: the classifier.
        scale: of a fixed cosine.
        blocks: number of blocks in each stage, if not the backbone's own.

    Raises:
        LongTailError: for an unknown activation.
    """
    small = backbone == "resnet32"
    hidden: Activation = (
        partial(AGLU, floor=lambda_floor, lambda_grad=lambda_grad) if activation == "aglu" else partial(build_activation, activation)
    )
    parts: dict[str, Any] = {
        "activation": hidden,
        "gate": gate_factory(attention, 4 if small else 16, gate, spatial_gate, dropout),
        "head": _head(head, scale),
        **({"blocks": blocks} if blocks else {}),
    }
    if small:
        return resnet_cifar(num_classes, **parts)
    return IMAGENET_BACKBONES[backbone](num_classes, 1, planes=FULL_PLANES, **parts)


def gate_factory(attention: Attention, reduction: int, gate: str, spatial_gate: str, dropout: float) -> Gate | None:
    """Return what makes the gate of a block with so many channels, None for no gate."""
    if attention == "none":
        return None
    if attention == "cbam":
        return lambda channels: CBAM(channels, reduction, _GATES[gate], _GATES[spatial_gate], dropout)
    # gates of squeeze and excitation start mirrored: the authors found a negative slope to work well
    adaptive: Activation | None = partial(APA, kappa_init=(-1.0, 0.0)) if gate == "apa" else None
    return lambda channels: SqueezeExcitation(channels, reduction, adaptive, dropout)


def _head(kind: str, scale: float) -> Head:
    if kind == "linear":
        return LinearClassifier
    if kind == "learned_cosine":
        return partial(SquashedCosineClassifier, scale=LEARNED_SCALE, learnable=True)
    return partial(SquashedCosineClassifier, scale=scale)
