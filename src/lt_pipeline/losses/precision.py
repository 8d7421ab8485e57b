"""Losses compute in float32 or better: logits reach +-45 after the margin and class weights differ by little."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

_HALF = (torch.float16, torch.bfloat16)


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run ``function`` outside autocast with its half-precision tensors brought to float32; the first argument is a tensor."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        first = args[0]
        assert isinstance(first, Tensor)
        with torch.autocast(first.device.type, enabled=False):
            positional = [_promote(value) for value in args]
            named = {name: _promote(value) for name, value in kwargs.items()}
            return function(*positional, **named)  # type: ignore[arg-type]

    return run


def _promote(value: object) -> object:
    return value.float() if isinstance(value, Tensor) and value.dtype in _HALF else value
