"""Optimizers by name."""

from collections.abc import Iterable

import torch
from torch import nn

from lt_pipeline.training.config import OptimizerConfig


def build_optimizer(config: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimizer over the parameters that require a gradient; the fused kernels give the same update in one pass over memory."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    fused = trained[0].device.type in ("cpu", "cuda")
    if config.kind == "sgd":
        return torch.optim.SGD(
            trained, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay, nesterov=config.nesterov, fused=fused
        )
    return torch.optim.AdamW(trained, lr=config.lr, betas=(config.momentum, 0.999), weight_decay=config.weight_decay, fused=fused)
