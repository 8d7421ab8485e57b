"""The adaptive parametric activations on a CPU: tile by tile, or compiled.

A tile's intermediate results stay in the cache. Large inputs are compiled by inductor into one pass over memory.
"""

import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from lt_pipeline.models.activations_maths import laid_out_like, slopes, value

R = TypeVar("R")

ROW = 4096
"""Elements summed in float32 before float64 takes over (scalar parameters, CPU)."""
TILE = 1 << 16
"""Elements a thread of what the eager form works on at a time: smaller tiles cost calls, larger ones leave the cache."""
PIECE = 1 << 18
"""Elements worked on at a time by the compiled form: one shape, compiled once whatever the shapes of the inputs."""
COMPILE_FROM = 1 << 21
"""Elements from which on a CPU the compiled form is used by default: some 10 seconds of compilation come once a process and type."""

_LOG = logging.getLogger(__name__)
_compiled: bool | None = None


def set_compiled(compiled: bool | None) -> None:
    """Choose the form used on a CPU: ``True`` compiles whatever the size, ``False`` never does, ``None`` (the default) decides by the size."""
    global _compiled
    _compiled = compiled


def forward_tiled(z: Tensor, lam: Tensor, kap: Tensor, linear: bool) -> Tensor:
    """Return the activation of ``z``, in its type and layout; one pair of parameters, or one a channel."""
    out = torch.empty_like(z)
    for run, tile, lam_, kap_, _ in _tiles(_forward_tile, [out, laid_out_like(z, out)], lam, kap):
        run(*tile, lam_, kap_, linear)
    return out


def backward_tiled(g: Tensor, z: Tensor, lam: Tensor, kap: Tensor, linear: bool, official: bool) -> tuple[Tensor, Tensor, Tensor]:
    """As ``slopes``, with the last two summed to the shape of the parameters, in float64."""
    out = torch.empty_like(z)
    by_lambda, by_kappa = torch.zeros(2, *torch.broadcast_shapes(lam.shape, kap.shape), dtype=torch.float64)
    for run, tile, lam_, kap_, dims in _tiles(_backward_tile, [out, laid_out_like(g, out), laid_out_like(z, out)], lam, kap):
        lambda_sums, kappa_sums = run(*tile, lam_, kap_, linear, official, dims)
        by_lambda += lambda_sums.sum(0, dtype=torch.float64)
        by_kappa += kappa_sums.sum(0, dtype=torch.float64)
    return out, by_lambda, by_kappa


def _forward_tile(out: Tensor, z: Tensor, lam: Tensor, kap: Tensor, linear: bool) -> None:
    out.copy_(value(z, lam, kap, linear))


def _backward_tile(
    out: Tensor, g: Tensor, z: Tensor, lam: Tensor, kap: Tensor, linear: bool, official: bool, dims: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    by_z, by_lambda, by_kappa = slopes(g, z, lam, kap, linear, official)
    out.copy_(by_z)
    return by_lambda.sum(dims, keepdim=True), by_kappa.sum(dims, keepdim=True)


def _tiles(
    work: Callable[..., R], tensors: list[Tensor], lam: Tensor, kap: Tensor
) -> Iterator[tuple[Callable[..., R], tuple[Tensor, ...], Tensor, Tensor, tuple[int, ...]]]:
    """Yield, until every element is covered, what to run, views of ``tensors``, the parameters, and the dimensions to sum over.

    With one pair of parameters the shape does not matter: the storage is cut into rows of ``ROW`` elements and a shorter last one.
    """
    count, size = tensors[0].numel(), TILE * torch.get_num_threads()
    if lam.numel() > 1 or kap.numel() > 1:
        samples = max(1, size * len(tensors[0]) // max(count, 1))
        for tile in zip(*(x.split(samples) for x in tensors), strict=True):
            yield work, tile, lam, kap, (0, 2, 3)
        return
    flat = [x.as_strided((count,), (1,)) for x in tensors]
    lam, kap, start = lam.view(1, 1), kap.view(1, 1), 0
    if (count >= COMPILE_FROM) if _compiled is None else _compiled:
        # Parameters a row, though all are equal, keep inductor from flattening the elementwise loop and so from parting it from the sums: it would
        # write three intermediate tensors between the two.
        lam_rows, kap_rows = lam.repeat(PIECE // ROW, 1), kap.repeat(PIECE // ROW, 1)
        while start + PIECE <= count:
            yield _compile(work), tuple(x[start : start + PIECE].view(-1, ROW) for x in flat), lam_rows, kap_rows, (1,)
            start += PIECE
    while start < count:
        stop = min(start + size, count)
        stop -= (stop - start) % ROW if stop - start > ROW else 0
        yield work, tuple(x[start:stop].view(-1, min(ROW, stop - start)) for x in flat), lam, kap, (1,)
        start = stop


@functools.cache
def _compile(work: Callable[..., R]) -> Callable[..., R]:
    """Return ``work`` compiled, or itself once that has failed."""
    compiled = torch.compile(work, fullgraph=True, dynamic=False)

    def run(*args: Any) -> R:
        if _compiled is not False:
            try:
                return compiled(*args)
            except Exception as error:  # no C++ compiler, most often
                set_compiled(False)
                _LOG.warning("Activations run uncompiled, at half the speed: %s", str(error).strip().partition("\n")[0])
        return work(*args)

    return run
