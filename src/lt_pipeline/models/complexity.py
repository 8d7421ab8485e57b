"""What a network costs: parameters and multiply-accumulates (MACs)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lt_pipeline.models.experts import MultiExpert
from lt_pipeline.models.router import RoutedExperts


def parameter_count(model: nn.Module, trainable: bool = False) -> int:
    """Return the number of parameters, or of those that are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad or not trainable)


def macs_per_depth(model: MultiExpert | RoutedExperts, size: tuple[int, int]) -> NDArray[np.float64]:
    """Return the MACs of convolutions and classifiers for one image after 1 .. K experts, [K].

    The shared trunk counts once. Batch norm, pooling and the router (a few thousand MACs) do not count, as in the published tables. A blank
    image is run through the network once; modes and weights stay as they were.

    Args:
        model: experts, with or without a router.
        size: height and width of the image.
    """
    experts = model.experts if isinstance(model, RoutedExperts) else model
    modes = [(module, module.training) for module in experts.modules()]
    image = torch.zeros(1, 3, *size, device=next(experts.parameters()).device)
    experts.eval()
    try:
        trunk, shared = _macs(experts.trunk, image)
        branches = [_macs(expert, shared)[0] for expert in experts.experts]
    finally:
        for module, training in modes:
            module.training = training
    return trunk + np.cumsum(branches, dtype=np.float64)


def macs(model: MultiExpert | RoutedExperts, size: tuple[int, int]) -> int:
    """Return the MACs of one image through all experts; see :func:`macs_per_depth`."""
    return int(macs_per_depth(model, size)[-1])


@torch.no_grad()
def _macs(part: object, x: Tensor) -> tuple[int, Tensor]:
    with FlopCounterMode(display=False) as counter:
        output = part(x)  # type: ignore[operator]
    return counter.get_total_flops() // 2, output  # a multiply-accumulate is two floating-point operations
