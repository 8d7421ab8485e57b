"""How many images a second of one CPU core augments, beside the published way, in one run.

The published way takes images one at a time through PIL and torchvision, as the official loaders do; ours takes batches. Ratios of images per
CPU-second are the figures to quote: the machine's speed cancels.

    python benchmarks/augment.py --seconds 1
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from lt_pipeline.augment.batched import BatchedView
from lt_pipeline.augment.config import PadCropView
from lt_pipeline.augment.normalise import Normalise

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
SIDE, BATCHES = 32, (128, 1024)
GREY = [128, 128, 128]

CROP_FLIP = [transforms.RandomCrop(SIDE, padding=4), transforms.RandomHorizontalFlip()]
TO_ARRAY = [transforms.PILToTensor()]
"""Ours returns uint8; so does the published way here, except where normalisation itself is measured."""

CASES: dict[str, tuple[PadCropView | None, list]] = {
    "crop + flip": (PadCropView(), [*CROP_FLIP, *TO_ARRAY]),
    "crop + flip + rotation": (PadCropView(rotation=15.0), [*CROP_FLIP, transforms.RandomRotation(15), *TO_ARRAY]),
    "crop + flip + AutoAugment + Cutout": (
        PadCropView(policy="autoaugment_cifar", cutout=16),
        [*CROP_FLIP, transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10, fill=GREY), *TO_ARRAY, lambda image: hole(image)],
    ),
    "normalise": (None, [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]),
}


def hole(image: torch.Tensor) -> torch.Tensor:
    """Cutout of one image, as commonly published."""
    row, column = np.random.randint(SIDE), np.random.randint(SIDE)  # noqa: NPY002 - what the published code does
    image[:, max(row - 8, 0) : row + 8, max(column - 8, 0) : column + 8] = 0
    return image


def rate(work: Callable[[], object], images: int, seconds: float) -> float:
    """Return images per CPU-second, the best of three shares of the time: other processes only ever slow a share down."""
    work()
    best = 0.0
    for _ in range(3):
        calls, start = 0, time.process_time()
        while (spent := time.process_time() - start) < seconds / 3:
            work()
            calls += 1
        best = max(best, calls * images / spent)
    return best


def smooth_images(count: int) -> torch.Tensor:
    """Images with the smooth gradients of photographs plus a little noise: uint8 [count, 3, SIDE, SIDE], channels_last."""
    random = np.random.default_rng(0)
    rows, columns = np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij")
    wave = np.sin(random.random((count, 3, 1, 1)) * rows / 4 + random.random((count, 3, 1, 1)) * columns / 4)
    pixels = 128 + 90 * wave + random.normal(0, 8, (count, 3, SIDE, SIDE))
    batch = torch.from_numpy(pixels.clip(0, 255).astype(np.uint8))
    return batch.contiguous(memory_format=torch.channels_last)


def main() -> None:
    """Print one line per case and batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="CPU-seconds per figure")
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(0)
    normalise = Normalise(MEAN, STD)
    print(f"{'images per CPU-second':36s} {'batch':>6s} {'ours':>10s} {'published':>10s} {'ratio':>7s}")
    for name, (view, steps) in CASES.items():
        pictures = [Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()) for image in smooth_images(128)]
        published = transforms.Compose(steps)
        base = rate(lambda: torch.stack([published(picture) for picture in pictures]), len(pictures), seconds)  # noqa: B023
        for size in BATCHES:
            images = smooth_images(size)
            batched = BatchedView(view) if view else None
            ours = rate(lambda: batched(images, random) if batched else normalise(images), size, seconds)  # noqa: B023
            print(f"{name:36s} {size:6d} {ours:10,.0f} {base:10,.0f} {ours / base:7.1f}")


if __name__ == "__main__":
    main()
