"""What a network costs: parameters and multiply-accumulates (MACs)."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lt_pipeline.models.heads import CosineClassifier, SquashedCosineClassifier
from lt_pipeline.models.metafg.attention import RelativeAttention
from lt_pipeline.models.router import RoutedExperts


def parameter_count(model: nn.Module, trainable: bool = False) -> int:
    """Return the number of parameters, or of those that are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad or not trainable)


@torch.no_grad()
def macs_per_depth(model: nn.Module, size: tuple[int, int]) -> NDArray[np.float64]:
    """Return the MACs of convolutions and classifiers for one image after 1 .. K experts, [K].

    The shared trunk counts once. Batch norm, pooling and the router (a few thousand MACs) do not count, as in the published tables. A blank
    image is run through the network once; modes and weights stay as they were.

    Args:
        model: experts, with or without a router, or any network with a ``trunk`` and ``experts`` as :class:`MultiExpert` has them.
        size: height and width of the image.
    """
    experts: Any = model.experts if isinstance(model, RoutedExperts) else model
    modes = [(module, module.training) for module in experts.modules()]
    counted: list[int] = []
    hooks = [module.register_forward_hook(lambda *call: counted.append(_macs(*call))) for module, _ in modes]
    image = torch.zeros(1, 3, *size, device=next(experts.parameters()).device)
    experts.eval()
    totals = []
    try:
        shared = experts.trunk(image)
        for expert in experts.experts:
            expert(shared)
            totals.append(sum(counted))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    return np.array(totals, dtype=np.float64)


def macs(model: nn.Module, size: tuple[int, int]) -> int:
    """Return the MACs of one image through all experts; see :func:`macs_per_depth`."""
    return int(macs_per_depth(model, size)[-1])


def _macs(module: nn.Module, _: Any, output: Tensor) -> int:
    """MACs of one call of ``module`` itself on one image."""
    match module:
        case nn.Conv2d():
            return output.numel() * module.weight[0].numel()
        case nn.Linear():
            return output.numel() * module.in_features  # of every token
        case CosineClassifier() | SquashedCosineClassifier():
            return module.weight.numel()
        case RelativeAttention():
            return module.product_macs(output.shape[1])  # its linear layers count themselves
    return 0
