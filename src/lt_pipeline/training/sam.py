"""Sharpness-aware minimisation (Foret et al., ICLR 2021; adaptive: Kwon et al., ICML 2021)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lt_pipeline.training.clock import Clock
from lt_pipeline.training.config import OptimizerConfig

_TINY = 1e-12


def sam_radius(config: OptimizerConfig, clock: Clock) -> float:
    """Return the radius rho in force at the epoch of ``clock``; 0 means a plain step."""
    reached = sum(clock.epoch >= milestone for milestone in config.sam_milestones)
    return config.sam_rhos[reached - 1] if reached else config.sam_rho


@contextmanager
def at_worst_neighbour(parameters: Sequence[nn.Parameter], rho: float, adaptive: bool = False) -> Iterator[None]:
    """Hold the weights inside the block where the loss rises most within radius ``rho``, to first order; give back the very same weights after it.

    ``theta + rho g / (||g|| + 1e-12)`` with the norm over all parameters (SAM, eq. 2), or ``theta + rho theta^2 g / || |theta| g ||`` if adaptive
    (ASAM, eq. 9). The gradients of the first pass are read and cleared; inside the block those of the second pass gather.
    """
    moved: list[Tensor] = [parameter for parameter in parameters if parameter.grad is not None]
    with torch.no_grad():
        before = [parameter.clone() for parameter in moved]
        direction = _ascent([parameter.grad for parameter in moved if parameter.grad is not None], before, adaptive)
        torch._foreach_add_(moved, direction, alpha=rho)
    for parameter in moved:
        parameter.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(moved, before)


def _ascent(gradients: list[Tensor], weights: list[Tensor], adaptive: bool) -> list[Tensor]:
    if adaptive:
        sizes = torch._foreach_abs(weights)
        gradients = list(torch._foreach_mul(gradients, sizes))
    norm = torch.stack(torch._foreach_norm(gradients)).norm() + _TINY
    unit = list(torch._foreach_div(gradients, norm))
    return list(torch._foreach_mul(unit, sizes)) if adaptive else unit


@contextmanager
def statistics_held(model: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch normalisation as they are inside the block."""
    tracking = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    for module in tracking:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True
