"""How fast the transport solver is beside the published scaling loop, in one run and on one thread.

For each size, confidence of the predictions and mass: median milliseconds of both, their ratio, repeats and passes, and the largest error of a
label against a solution to 1e-13. Ratios are the figures to quote: the two alternate, so that both see the same machine.

    python benchmarks/transport.py
    python benchmarks/transport.py --semantic        majorisation-minimisation of SP2OT against the same loop around the published one
    python benchmarks/transport.py --stream 1000000  one solve of 1,000,000 x 1,000 in row blocks, float32, with the memory that it took
"""

import argparse
import math
import resource
import time
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lt_pipeline.transport import (
    ConvergenceWarning,
    RowBlocks,
    Transport,
    cost_of_logits,
    neighbour_graph,
    progressive_transport,
    semantic_transport,
)

SIZES = ((5120, 100), (20480, 100), (5120, 1000))
MASSES = (0.1, 0.5, 0.9)
CONFIDENCES = {"untrained": 0.05, "medium": 1.0, "confident": 3.0}


def long_tailed_logits(rows: int, columns: int, confidence: float, seed: int = 0) -> Tensor:
    """Return logits [N, K] that predict low columns more often."""
    generator = torch.Generator().manual_seed(seed)
    column = (torch.rand(rows, generator=generator) ** 2 * columns).long()
    values = torch.randn(rows, columns, generator=generator)
    values[torch.arange(rows), column] += 3
    return confidence * values


def timed(cost: Tensor | RowBlocks, mass: float, **options: Any) -> tuple[float, Transport]:
    """Return seconds and the result of a solve."""
    start = time.perf_counter()
    found = progressive_transport(cost, mass, on_failure="warn", **options)
    return time.perf_counter() - start, found


def solver(rounds: int) -> None:
    """Print the table of single solves."""
    heads = f"{'mass':>6}{'loop':>12}{'ours':>11}{'ratio':>8}{'repeats':>9}{'passes':>8}{'loop error':>12}{'our error':>11}"
    print(f"{'rows x columns':16}{'logits':12}{heads}")
    for rows, columns in SIZES:
        for name, confidence in CONFIDENCES.items():
            cost = cost_of_logits(long_tailed_logits(rows, columns, confidence))
            for mass in MASSES:
                exact = progressive_transport(cost, mass, tolerance=1e-13, on_failure="warn").plan
                times: dict[str, list[float]] = {"scaling": [], "semidual": []}
                last: dict[str, Transport] = {}
                for round_ in range(rounds):
                    for algorithm, seconds in times.items():
                        if algorithm == "scaling" and round_ % 3:
                            continue
                        duration, last[algorithm] = timed(cost, mass, algorithm=algorithm)
                        seconds.append(1000 * duration)
                error = {algorithm: float((found.plan - exact).abs().max()) for algorithm, found in last.items()}
                loop, ours = (float(np.median(seconds)) for seconds in times.values())
                print(
                    f"{f'{rows} x {columns}':16}{name:12}{mass:6.1f}{loop:9.0f} ms{ours:8.1f} ms{loop / ours:8.1f}"
                    f"{int(last['scaling'].iterations):9}{int(last['semidual'].iterations):8}{error['scaling']:12.0e}{error['semidual']:11.0e}",
                    flush=True,
                )


def semantic() -> None:
    """Print the table of SP2OT's solves: 5,120 rows in play of 10,847, 100 columns, 20 neighbours."""
    generator = torch.Generator().manual_seed(0)
    cluster = (torch.rand(10847, generator=generator) ** 2 * 100).long()
    features = torch.randn(100, 32, generator=generator)[cluster] + 0.8 * torch.randn(10847, 32, generator=generator)
    positions = torch.randperm(10847, generator=generator)[:5120]
    neighbours = neighbour_graph(features).among(positions)
    directions = 0.1 * torch.randn(32, 100, generator=generator)
    cost = cost_of_logits(features[positions] @ directions + 0.3 * torch.randn(5120, 100, generator=generator))
    print(f"{'mass':>5}{'loop':>10}{'ours':>10}{'ratio':>8}{'steps':>12}{'label difference':>18}")
    for mass in (0.106, 0.3, 0.6, 0.95):
        found = {}
        for algorithm in ("semidual", "scaling"):
            start = time.perf_counter()
            result = semantic_transport(
                cost, neighbours, mass, semantic_weight=1000 * (1 - mass), algorithm=algorithm, max_steps=20, on_failure="warn"
            )
            found[algorithm] = (time.perf_counter() - start, result)
        (ours, one), (loop, other) = found["semidual"], found["scaling"]
        steps, difference = f"{other.steps} / {one.steps}", float((one.plan - other.plan).abs().max())
        print(f"{mass:5.2f}{loop:8.1f} s{ours:8.2f} s{loop / ours:8.1f}{steps:>12}{difference:18.0e}", flush=True)


def stream(rows: int, columns: int = 1000) -> None:
    """Solve rows that are made block by block and never kept, and print the memory that this took."""

    base = long_tailed_logits(8192, columns, 1.0)

    def read(start: int, stop: int) -> Tensor:
        return -(base[: stop - start] * (1 + 0.2 * math.sin(start))).log_softmax(1)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, found = timed(RowBlocks(rows, columns, read), 0.3, keep_plan=False)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    whole = rows * columns * 4 / 2**20
    print(f"{rows} x {columns} float32 in blocks: {seconds:.0f} s, {grown:.0f} MiB more memory; the cost alone would have {whole:.0f} MiB")
    print(f"{int(found.iterations)} passes, column error {float(found.column_error):.1e}, mass {float(found.mass):.9f}")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--semantic", action="store_true")
    parser.add_argument("--stream", type=int, metavar="ROWS")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore", ConvergenceWarning)  # the loop's early stops are in the table
    if arguments.stream:
        stream(arguments.stream)
    elif arguments.semantic:
        semantic()
    else:
        solver(arguments.rounds)


if __name__ == "__main__":
    main()
