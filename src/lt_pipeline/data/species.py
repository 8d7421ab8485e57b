"""Subsets of benchmarks with many classes, as clustering papers cut them (P2OT, Zhang et al., ICLR 2024, section 5.1 and appendix)."""

from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from lt_pipeline.errors import LongTailError

LEVELS = (8142, 2000, 1000, 500, 200, 100)
"""Numbers of species of iNaturalist 2018 and its subsets; each is thinned out of the one before."""


def thinned_classes(counts: ArrayLike, wanted: int, levels: tuple[int, ...] = LEVELS) -> NDArray[np.int64]:
    """Return the classes that a subset keeps, int64 [wanted], in the order of their new labels: from the most to the least frequent.

    From each level to the next every ``previous // next``-th class stays, and of those the first ``next``, so that head and tail both remain.
    Classes of equal size keep their order.

    Args:
        counts: training images of each class, int [levels[0]].
        wanted: one of the levels.
        levels: falling numbers of classes.

    Raises:
        LongTailError: if ``wanted`` is not a level, or there are not ``levels[0]`` classes.
    """
    counts = np.asarray(counts)
    if wanted not in levels:
        raise LongTailError(f"benchmark.species is {wanted}; allowed are {', '.join(map(str, levels))}.")
    if len(counts) != levels[0]:
        raise LongTailError(f"benchmark.species thins {levels[0]} classes, but the source has {len(counts)}.")
    order = np.argsort(-counts, kind="stable").astype(np.int64)
    for previous, following in pairwise(levels):
        if len(order) > wanted:
            order = order[:: previous // following][:following]
    return order


def keep_species(manifest: pd.DataFrame, wanted: int) -> pd.DataFrame:
    """Return the rows of the thinned classes with their new labels; rows keep their order.

    Args:
        manifest: with ``split`` and ``label``.
        wanted: number of classes.

    Raises:
        LongTailError: see :func:`thinned_classes`.
    """
    train = manifest.loc[manifest["split"] == "train", "label"]
    kept = thinned_classes(np.bincount(train, minlength=int(manifest["label"].max()) + 1), wanted)
    new = pd.Series(np.arange(wanted), index=kept)
    rows = manifest[manifest["label"].isin(kept)]
    return rows.assign(label=rows["label"].map(new).astype(np.int64))


def cut_per_class(rows: pd.DataFrame, count: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cut the same number of images off every class, drawn at random; return what stays and what was cut off.

    Args:
        rows: with ``label`` and ``class_name`` columns; order is kept in both parts.
        count: images per class that are cut off.
        seed: of the choice.

    Raises:
        LongTailError: naming a class that would be left without images.
    """
    generator = np.random.default_rng(seed)
    labels, cut = rows["label"].to_numpy(), np.zeros(len(rows), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) <= count:
            name = rows["class_name"].iloc[members[0]]
            raise LongTailError(f"source.test_per_class={count} leaves no training image of '{name}', which has {len(members)} images.")
        cut[generator.permutation(members)[:count]] = True
    return rows[~cut], rows[cut]
