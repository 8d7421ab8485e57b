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

VECTORS = ParameterGroup(match="", weight_decay=0.0)
"""Parameters of one dimension: biases, weights of normalisations."""


def build_optimizer(config: OptimizerConfig, parameters: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
    """Return the optimizer over the named parameters that require a gradient, in groups; each group carries its ``lr_factor``.

    A parameter belongs to the first group whose expression is found in its name.

    The fused kernels give the same update in one pass over memory.

    Raises:
        LongTailError: if a group of the configuration matches no trained parameter, or nothing is trained at all.
    """
    groups = [*config.groups, SHAPES, *([] if config.decay_vectors else [VECTORS]), ParameterGroup(match="")]
    members: list[list[nn.Parameter]] = [[] for _ in groups]
    names = []
    for name, parameter in parameters:
        if parameter.requires_grad:
            names.append(name)
            fits = (
                number
                for number, group in enumerate(groups)
                if re.search(group.match, name) and (group is not VECTORS or parameter.ndim < 2)
            )
            members[next(fits)].append(parameter)
    if not names:
        raise LongTailError("Every parameter of this stage is frozen; there is nothing to train.")
    for group, taken in zip(config.groups, members, strict=False):
        if not taken:
            raise LongTailError(
                f"optimizer.groups: '{group.match}' matches no trained parameter, or earlier groups took them all ({names[0]}, …)."
            )
    described: list[dict[str, Any]] = [
        {
            "params": taken,
            "lr": config.lr * group.lr_factor,
            "lr_factor": group.lr_factor,
            "weight_decay": config.weight_decay if group.weight_decay is None else group.weight_decay,
        }
        for group, taken in zip(groups, members, strict=True)
        if taken
    ]
    fused = described[0]["params"][0].device.type in ("cpu", "cuda")
    if config.kind == "sgd":
        return torch.optim.SGD(described, momentum=config.momentum, nesterov=config.nesterov, fused=fused)
    adam = torch.optim.Adam if config.kind == "adam" else torch.optim.AdamW
    return adam(described, betas=(config.momentum, 0.999), fused=fused)
