"""A training step with the C library's defaults and with freed memory kept, in alternating processes; the ratio is of medians.

python benchmarks/allocator.py --network resnet32 --side 32 --batch 128 --rounds 3
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time

import torch

from lt_pipeline.models.backbones import build_backbone
from lt_pipeline.training.allocator import keep_freed_memory


def measure(network: str, side: int, batch: int, keep: bool, steps: int) -> tuple[float, float]:
    """Return seconds a step, and which part of them the kernel took."""
    if keep and not keep_freed_memory():
        sys.exit("This system's C library has no such setting.")
    torch.set_num_threads(1)
    backbone, _ = build_backbone(network)
    images = torch.randn(batch, 3, side, side)
    optimizer = torch.optim.SGD(backbone.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        backbone(images).square().mean().backward()
        optimizer.step()

    step()
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_stime, time.perf_counter()
    for _ in range(steps):
        step()
    seconds = time.perf_counter() - start
    return seconds / steps, (resource.getrusage(resource.RUSAGE_SELF).ru_stime - before) / seconds


def main() -> None:
    """Print both ways and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet32")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=int, help="measure one way in this process: 0 or 1")
    options = parser.parse_args()
    if options.keep is not None:
        print(*measure(options.network, options.side, options.batch, bool(options.keep), options.steps))
        return
    shape = [f"--{name}={getattr(options, name)}" for name in ("network", "side", "batch", "steps")]
    rounds: dict[int, list[tuple[float, ...]]] = {0: [], 1: []}
    for _ in range(options.rounds):
        for keep, seen in rounds.items():
            printed = subprocess.run(
                [sys.executable, __file__, *shape, f"--keep={keep}"], check=True, capture_output=True, text=True
            ).stdout
            seen.append(tuple(map(float, printed.split())))
    default, kept = ([statistics.median(column) for column in zip(*seen, strict=True)] for seen in rounds.values())
    print(f"{options.network}, {options.batch} images of {options.side} pixels, one thread")
    for title, (seconds, kernel) in (("defaults", default), ("freed memory kept", kept)):
        print(f"{title:20s} {1000 * seconds:7.0f} ms a step, {100 * kernel:4.1f} % in the kernel, {default[0] / seconds:.2f}x")


if __name__ == "__main__":
    main()
