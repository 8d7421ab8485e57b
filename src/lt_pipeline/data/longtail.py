"""Cutting a long-tailed training set out of a balanced one, image for image as published.

The profiles and the selection rule are those of LDAM-DRW (Cao et al., NeurIPS 2019) that RIDE, MDCS, DeiT-LT, APA and P2OT share.
"""

import logging
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lt_pipeline.errors import LongTailError

logger = logging.getLogger(__name__)
Profile = Literal["exp", "step", "balanced"]


def class_counts(num_classes: int, total: float, profile: str, factor: float, reverse: bool = False) -> NDArray[np.int64]:
    """Return how many images of each class are kept, int64 [C]; class 0 is the largest unless ``reverse``.

    With m = total / C as a float: exp keeps ``int(m * factor ** (c / (C - 1)))``, step keeps ``int(m)`` for the first half of the classes and
    ``int(m * factor)`` for the second, balanced keeps ``int(m)``. Truncation happens in double precision; nothing is clamped to 1.

    Args:
        num_classes: C.
        total: images of the balanced set.
        profile: exp, step or balanced.
        factor: smallest over largest class, in (0, 1].
        reverse: the last class is the largest (exp only).

    Raises:
        LongTailError: for a factor out of range, an unknown profile, or a step profile over an odd number of classes.
    """
    if not 0 < factor <= 1:
        raise LongTailError(f"The imbalance factor as smallest / largest must lie in (0, 1], not {factor}.")
    m = total / num_classes
    if profile == "exp":
        order = range(num_classes)[::-1] if reverse else range(num_classes)
        counts = [int(m * factor ** (c / max(num_classes - 1, 1))) for c in order]
    elif profile == "step":
        if num_classes % 2:
            raise LongTailError(f"The step profile halves the classes and needs an even number of them; there are {num_classes}.")
        half = num_classes // 2
        counts = [int(m)] * half + [int(m * factor)] * half
    elif profile == "balanced":
        counts = [int(m)] * num_classes
    else:
        raise LongTailError(f"Unknown profile '{profile}'; there are exp, step and balanced.")
    if 0 in counts:
        logger.warning("%d of %d classes keep no image at this imbalance.", counts.count(0), num_classes)
    return np.array(counts, dtype=np.int64)


def select(targets: NDArray[np.int64], counts: NDArray[np.int64], selection: str = "shuffle", seed: int = 0) -> NDArray[np.int64]:
    """Return which images are kept, int64 indices into ``targets``, class after class.

    ``shuffle``: NumPy's legacy generator seeded with ``seed`` shuffles the full index list of every class in ascending order and the first n_c
    are kept, in shuffled order. ``first``: the first n_c of each class in file order.

    Args:
        targets: label of each image of the balanced set in file order, int64 [N].
        counts: n_c, int64 [C].
        selection: shuffle or first.
        seed: of the shuffle.

    Raises:
        LongTailError: if a class has fewer images than asked for.
    """
    generator = np.random.RandomState(seed)
    kept = []
    for label, wanted in enumerate(counts):
        members = np.flatnonzero(targets == label)
        if wanted > len(members):
            raise LongTailError(
                f"Class {label} has {len(members)} training images, but the profile asks for {wanted}; lower benchmark.max_per_class."
            )
        if selection == "shuffle":
            generator.shuffle(members)  # every class, in order: each draw depends on the sizes of the classes before it
        kept.append(members[:wanted])
    return np.concatenate(kept).astype(np.int64)


def descending_class_map(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the new label of each old one, int64 [C], so that label 0 is the class with the most images; ties keep their order."""
    labels = np.empty(len(counts), dtype=np.int64)
    labels[np.argsort(-np.asarray(counts), kind="stable")] = np.arange(len(counts))
    return labels
