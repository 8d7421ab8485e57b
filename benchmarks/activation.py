"""What AGLU costs on one CPU core beside SiLU and the published formula, in one run.

The published formula is ``z (lambda e^(-kappa z) + 1)^(-1/lambda)``, written with softplus, under automatic differentiation. Cases alternate and the
figures are medians of CPU time; the ratios are the ones to quote. "MiB kept" is what autograd holds between forward and backward.

    python benchmarks/activation.py --repeats 9
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lt_pipeline.models import activations, activations_tiles

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def published(z: Tensor, lambda_: Tensor, kappa: Tensor) -> Tensor:
    """The formula of the paper's README."""
    return z * torch.exp(-F.softplus(torch.log(lambda_) - kappa * z) / lambda_)


def form(compiled: bool | None) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Ours, in the form asked for."""

    def run(z: Tensor, lambda_: Tensor, kappa: Tensor) -> Tensor:
        activations_tiles.set_compiled(compiled)
        return activations.aglu(z, lambda_, kappa)

    return run


CASES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "SiLU": lambda z, lambda_, kappa: F.silu(z),
    "published formula": published,
    "ours, default": form(None),
    "ours, compiled": form(True),
    "ours, tiles": form(False),
}


def kept(case: Callable[[Tensor, Tensor, Tensor], Tensor], z: Tensor, lambda_: Tensor, kappa: Tensor) -> float:
    """MiB of the distinct storages saved for the backward pass."""
    storages: dict[int, int] = {}

    def pack(saved: Tensor) -> Tensor:
        storages[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        output = case(z, lambda_, kappa)  # alive until the count is done: a freed address may be given out again
    total = sum(storages.values()) / 2**20
    del output
    return total


def measure(shape: tuple[int, ...], dtype: torch.dtype, repeats: int) -> None:
    """Print one line per case."""
    z = torch.randn(shape).to(dtype).requires_grad_()
    g = torch.randn(shape).to(dtype)
    lambda_, kappa = (torch.tensor([value], requires_grad=True) for value in (0.5, 1.0))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in CASES}
    memory = {name: kept(case, z, lambda_, kappa) for name, case in CASES.items()}
    for repeat in range(repeats + 1):
        for name, case in CASES.items():
            z.grad = lambda_.grad = kappa.grad = None
            start = time.process_time()
            output = case(z, lambda_, kappa)
            middle = time.process_time()
            output.backward(g.to(output.dtype))
            end = time.process_time()
            del output
            if repeat:  # the first round compiles
                times[name].append((1e3 * (middle - start), 1e3 * (end - middle)))
    medians = {name: tuple(statistics.median(column) for column in zip(*rows, strict=True)) for name, rows in times.items()}
    silu, plain = sum(medians["SiLU"]), sum(medians["published formula"])
    for name, (forward, backward) in medians.items():
        total = forward + backward
        print(f"{name:20s} {forward:9.1f} {backward:9.1f} {total:9.1f} {total / silu:7.2f} {total / plain:7.2f} {memory[name]:9.0f}")


def main() -> None:
    """Print one table per type."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs="+", default=[64, 256, 32, 32])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.dtypes:
        print(f"{name} {'x'.join(map(str, arguments.shape))}, CPU milliseconds of one thread, torch {torch.__version__}")
        print(f"{'':20s} {'forward':>9s} {'backward':>9s} {'total':>9s} {'/ SiLU':>7s} {'/ publ.':>7s} {'MiB kept':>9s}")
        measure(tuple(arguments.shape), DTYPES[name], arguments.repeats)


if __name__ == "__main__":
    main()
