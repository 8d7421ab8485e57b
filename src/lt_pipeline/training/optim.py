"""Optimizers by name."""

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from lt_pipeline.errors import LongTailError
from lt_pipeline.training.config import OptimizerConfig, ParameterGroup

SHAPES = ParameterGroup(match=r"(^|\.)(lambda_|kappa)$", weight_decay=0.0)
"""The shape parameters of adaptive activations: decay would pull every activation towards a constant (APA, Alexandridis et al., ECCV 2024)."""


def build_optimizer(config: OptimizerConfig, parameters: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
    """Return the optimizer over the named parameters that require a gradient, in groups; each group carries its ``lr_factor``.

    The fused kernels give the same update in one pass over memory.

    Raises:
        LongTailError: if a group of the configuration matches no trained parameter, or nothing is trained at all.
    """
    rest = ParameterGroup(match="")
    groups = [*config.groups, SHAPES, rest]
    members: list[list[nn.Parameter]] = [[] for _ in groups]
    names = []
    for name, parameter in parameters:
        if parameter.requires_grad:
            names.append(name)
            members[next(number for number, group in enumerate(groups) if re.search(group.match, name))].append(parameter)
    if not names:
        raise LongTailError("Every parameter of this stage is frozen; there is nothing to train.")
    for group, found in zip(config.groups, members, strict=False):
        if not found:
            raise LongTailError(
                f"optimizer.groups: '{group.match}' matches no trained parameter, or earlier groups took them all ({names[0]}, …)."
            )
    described: list[dict[str, Any]] = [
        {
            "params": found,
            "lr": config.lr * group.lr_factor,
            "lr_factor": group.lr_factor,
            "weight_decay": config.weight_decay if group.weight_decay is None else group.weight_decay,
        }
        for group, found in zip(groups, members, strict=True)
        if found
    ]
    fused = described[0]["params"][0].device.type in ("cpu", "cuda")
    if config.kind == "sgd":
        return torch.optim.SGD(described, momentum=config.momentum, nesterov=config.nesterov, fused=fused)
    return torch.optim.AdamW(described, betas=(config.momentum, 0.999), fused=fused)
