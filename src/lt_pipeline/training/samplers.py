"""Orders in which training images are seen. Every rank computes the same order and takes its own part, so ranks never repeat each other."""

import random
from typing import Any, Protocol

import numpy as np
import torch

from lt_pipeline.errors import LongTailError
from lt_pipeline.training.config import SamplerConfig
from lt_pipeline.training.randomness import derive_seed


class Sampler(Protocol):
    """Yields one order an epoch; what it must remember between epochs is JSON-able."""

    length: int
    """Draws in one epoch."""

    def order(self, epoch: int) -> np.ndarray:
        """Return the positions drawn in ``epoch`` (0-based), int64 of ``length``; epochs are asked for in ascending order."""

    def state(self) -> dict[str, Any]:
        """Return what the next epoch depends on."""

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what :meth:`state` returned."""


class Uniform:
    """A fresh permutation of all images each epoch."""

    def __init__(self, size: int, seed: int) -> None:
        self.length, self._seed = size, seed

    def order(self, epoch: int) -> np.ndarray:
        """Return the permutation of ``epoch``."""
        return np.random.default_rng(derive_seed(self._seed, "uniform", epoch)).permutation(self.length)

    def state(self) -> dict[str, Any]:
        """Return nothing: the order is a function of the epoch."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore nothing."""


class Repeated:
    """Repeated augmentation (Hoffer et al., CVPR 2020) by the rule of DeiT and APA: each drawn image stands ``repeats`` times in a row.

    An epoch has ``N // 256 * 256`` draws (N of a set with fewer than 256 images) and so sees about a ``1 / repeats`` share of the images. Ranks
    take every world-th element and therefore see differently augmented copies of the same image.
    """

    def __init__(self, size: int, repeats: int, seed: int) -> None:
        self.length, self._size, self._repeats, self._seed = size // 256 * 256 or size, size, repeats, seed

    def order(self, epoch: int) -> np.ndarray:
        """Return the first ``length`` elements of the permutation of ``epoch`` with each element repeated."""
        return repeated_order(self._size, self._repeats, self._seed + epoch)[: self.length]

    def state(self) -> dict[str, Any]:
        """Return nothing: the order is a function of the epoch."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore nothing."""


def repeated_order(size: int, repeats: int, seed: int) -> np.ndarray:
    """Return PyTorch's permutation of ``size`` elements under ``seed`` with each element ``repeats`` times in a row."""
    order: np.ndarray = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).numpy()
    return np.repeat(order, repeats)


class ClassBalanced:
    """Draws a class uniformly, then the next image of that class's shuffled bucket (decoupling, Kang et al. 2020; RIDE's router stage).

    Pointers and bucket orders live across epochs. The stream is that of Python's ``random.Random(seed)``: one shuffle per bucket in class
    order, then per draw ``randint(0, C - 1)`` and a reshuffle when a bucket is used up.

    Args:
        targets: label of each image, int64 [N].
        num_classes: C; every class needs at least one image.
        retain_epoch_size: an epoch has N draws; otherwise the largest class size times C.
        seed: of the stream.

    Raises:
        LongTailError: if a class has no image to draw.
    """

    def __init__(self, targets: np.ndarray, num_classes: int, retain_epoch_size: bool, seed: int) -> None:
        targets = np.asarray(targets)
        counts = np.bincount(targets, minlength=num_classes)
        if (counts == 0).any():
            raise LongTailError(
                f"The class-balanced sampler needs an image of every class; class {int(np.argmin(counts))} has none in the training split."
            )
        self.length = len(targets) if retain_epoch_size else int(counts.max()) * num_classes
        self._random = random.Random(seed)
        self._buckets = [np.flatnonzero(targets == label).tolist() for label in range(num_classes)]
        self._pointers = [0] * num_classes
        for bucket in self._buckets:
            self._random.shuffle(bucket)

    def epoch(self) -> list[int]:
        """Return the draws of the next epoch."""
        return [self._draw() for _ in range(self.length)]

    def order(self, epoch: int) -> np.ndarray:
        """Return the draws of the next epoch as an array."""
        return np.array(self.epoch(), dtype=np.int64)

    def _draw(self) -> int:
        label = self._random.randint(0, len(self._buckets) - 1)
        bucket = self._buckets[label]
        item = bucket[self._pointers[label]]
        self._pointers[label] += 1
        if self._pointers[label] == len(bucket):
            self._pointers[label] = 0
            self._random.shuffle(bucket)
        return item

    def state(self) -> dict[str, Any]:
        """Return generator, bucket orders and pointers."""
        version, words, gauss = self._random.getstate()
        return {
            "random": [version, list(words), gauss],
            "buckets": [list(bucket) for bucket in self._buckets],
            "pointers": list(self._pointers),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue the stream exactly."""
        version, words, gauss = state["random"]
        self._random.setstate((version, tuple(words), gauss))
        self._buckets = [list(bucket) for bucket in state["buckets"]]
        self._pointers = list(state["pointers"])


def build_sampler(config: SamplerConfig, labels: np.ndarray, num_classes: int, seed: int) -> Sampler:
    """Return the sampler that ``config`` names over ``labels`` (int64 [N])."""
    match config.kind:
        case "uniform":
            return Uniform(len(labels), seed)
        case "repeated":
            return Repeated(len(labels), config.repeats, seed)
        case "class_balanced":
            return ClassBalanced(labels, num_classes, config.retain_epoch_size, seed)
