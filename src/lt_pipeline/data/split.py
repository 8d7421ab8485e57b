"""From a manifest to the rows a benchmark trains and tests on."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lt_pipeline.data.config import BenchmarkConfig
from lt_pipeline.data.images import ImageStore
from lt_pipeline.data.labels import relabelled
from lt_pipeline.data.longtail import class_counts, descending_class_map, select
from lt_pipeline.data.metadata import PREFIX, encode_metadata
from lt_pipeline.data.metadata_config import MetadataGroup
from lt_pipeline.data.species import keep_species
from lt_pipeline.errors import LongTailError

logger = logging.getLogger(__name__)
_COLUMNS = ["image", "sample_id", "split", "label", "class_name", "digest"]


@dataclass(frozen=True)
class ClassStatistics:
    """Names and training images of the classes, in class order."""

    names: tuple[str, ...]
    counts: NDArray[np.int64]


@dataclass(frozen=True)
class ImageSet:
    """One part of a split, ready to be read.

    Attributes:
        images: the store.
        rows: row in the store of each image, int64 [N].
        labels: int64 [N]; -1 where unknown.
        sample_ids: names, N of them.
        metadata: float32 [N, d], or [N, T, d] for a text of T tokens; NaN is missing, None is a set without metadata.
    """

    images: ImageStore
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    sample_ids: list[str]
    metadata: NDArray[np.float32] | None = None


def make_split(manifest: pd.DataFrame, benchmark: BenchmarkConfig, seed: int) -> pd.DataFrame:
    """Return train rows by the benchmark's profile, validation rows if asked for, and all test rows, in that order.

    Args:
        manifest: one row an image.
        benchmark: profile, selection and validation share.
        seed: of the validation cut.

    Raises:
        LongTailError: if there is no train or test image, a class of another part is not in train, a class has too few images, or the source
            lacks rows that the selection needs.
    """
    rows = manifest.assign(image=np.arange(len(manifest)))
    if benchmark.labels:
        rows = relabelled(rows, Path(benchmark.labels), benchmark.labels_column)
    if benchmark.species:
        rows = keep_species(rows, benchmark.species)
    parts = {part: rows[rows["split"] == part] for part in ("train", "val", "test")}
    for part in ("train", "test"):
        if parts[part].empty:
            raise LongTailError(f"The source has no {part} image; a split needs some.")
    if len(unseen := rows[~rows["label"].isin(parts["train"]["label"])].drop_duplicates("label").sort_values("label")):
        first = unseen.iloc[0]
        raise LongTailError(
            f"{len(unseen)} classes of the {first['split']} part have no training image, the first is '{first['class_name']}'."
        )
    train = parts["train"] if benchmark.profile == "natural" else _subsample(parts["train"], benchmark)
    validation = parts["val"]
    if benchmark.validation_fraction:
        if len(validation):
            logger.warning("%d validation images of the source are not used: benchmark.validation_fraction cuts others.", len(validation))
        train, validation = stratified_cut(train, benchmark.validation_fraction, seed)
        validation = validation.assign(split="val")
    split = pd.concat([train, validation, parts["test"]], ignore_index=True)
    split = split[[*_COLUMNS, *(name for name in split if str(name).startswith(PREFIX))]]
    if benchmark.class_order == "descending":
        split["label"] = descending_class_map(np.bincount(parts["train"]["label"]))[split["label"]]
    return split


def stratified_cut(rows: pd.DataFrame, fraction: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cut the same share off every class: at least one image of a class that has two or more, none of a class that has one.

    Args:
        rows: with a ``label`` column; order is kept in both parts.
        fraction: share that is cut off.
        seed: of the choice.

    Returns:
        What stays, and what was cut off.
    """
    generator = np.random.default_rng(seed)
    labels, cut = rows["label"].to_numpy(), np.zeros(len(rows), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        wanted = min(max(round(fraction * len(members)), 1), len(members) - 1)
        cut[generator.permutation(members)[:wanted]] = True
    return rows[~cut], rows[cut]


def split_hash(split: pd.DataFrame) -> str:
    """Return 16 hex digits over part, name, label and content of every row, in order."""
    digest = hashlib.sha256()
    for column in ("split", "sample_id", "label", "digest"):
        digest.update("\n".join(split[column].astype(str)).encode() + b"\0")
    return digest.hexdigest()[:16]


def class_statistics(split: pd.DataFrame) -> ClassStatistics:
    """Return names and training counts of the classes of a split."""
    names = split.drop_duplicates("label").set_index("label")["class_name"]
    size = int(names.index.max()) + 1
    train = split.loc[split["split"] == "train", "label"]
    return ClassStatistics(
        tuple(names.get(label, str(label)) for label in range(size)), np.bincount(train, minlength=size).astype(np.int64)
    )


def image_set(images: ImageStore, split: pd.DataFrame, part: str, metadata: Sequence[MetadataGroup] = ()) -> ImageSet:
    """Return one part of a split over its images, with the metadata of these groups.

    Raises:
        LongTailError: for metadata that the groups do not allow.
    """
    rows = split[split["split"] == part]
    return ImageSet(
        images,
        rows["image"].to_numpy(np.int64, copy=True),
        rows["label"].to_numpy(np.int64, copy=True),
        rows["sample_id"].tolist(),
        encode_metadata(rows, metadata),
    )


def _subsample(train: pd.DataFrame, benchmark: BenchmarkConfig) -> pd.DataFrame:
    available = np.bincount(train["label"])
    partial = "lt_rank" in train
    largest = benchmark.max_per_class or (int(available.max()) if partial else len(train) / len(available))
    counts = class_counts(len(available), largest * len(available), benchmark.profile, 1 / benchmark.imbalance_factor)
    if not partial:
        return train.iloc[select(train["label"].to_numpy(), counts, benchmark.selection, benchmark.subsample_seed)]
    return _from_partial_source(train, counts, benchmark)


def _from_partial_source(train: pd.DataFrame, counts: NDArray[np.int64], benchmark: BenchmarkConfig) -> pd.DataFrame:
    """Select from a source that holds only some rows of the balanced set but knows their rank in it under each rule."""
    if benchmark.selection == "shuffle" and benchmark.subsample_seed != 0:
        raise LongTailError("This source holds the images of subsample_seed 0 only; give the complete data set for another seed.")
    rank = train["lt_rank" if benchmark.selection == "shuffle" else "first_rank"]
    kept = train.assign(_rank=rank)[(rank >= 0) & (rank < train["label"].map(dict(enumerate(counts))))].sort_values(["label", "_rank"])
    short = np.flatnonzero(np.bincount(kept["label"], minlength=len(counts)) < counts)
    if len(short):
        raise LongTailError(
            f"The source lacks training images that this split needs, first in class {short[0]}: it was made for a smaller subset. "
            "Raise benchmark.imbalance_factor or give the complete data set."
        )
    return kept.drop(columns="_rank")
