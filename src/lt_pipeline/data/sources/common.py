"""What all readers share: roots, checks, digests, packing, and the cut of a test part."""

import hashlib
import logging
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lt_pipeline.data.config import SourceConfig
from lt_pipeline.data.images import EncodedImages, ImageStore, PackedImages, Pixels, decode, to_square
from lt_pipeline.data.species import cut_per_class
from lt_pipeline.data.split import stratified_cut
from lt_pipeline.errors import LongTailError, nearest
from lt_pipeline.progress import progress

logger = logging.getLogger(__name__)
_PACKED_BYTES = 2 << 30
_THREADS = min(os.cpu_count() or 1, 16)


def root_of(source: SourceConfig) -> Path:
    """Return the root folder of a source.

    Raises:
        LongTailError: if none is given or it does not exist.
    """
    if not source.root:
        raise LongTailError(f"source.root is not set: give the folder of the {source.kind} images, as in --params=source.root=FOLDER.")
    root = Path(source.root).expanduser()
    if not root.is_dir():
        raise LongTailError(f"source.root {root} is not a folder.")
    return root


def from_arrays(
    images: Pixels, labels: NDArray[np.int64], splits: NDArray[np.str_], names: list[str], prefix: str, source: SourceConfig
) -> tuple[pd.DataFrame, ImageStore]:
    """Return manifest and packed store of images that come as one array [N, H, W, 3].

    Raises:
        LongTailError: if a label has no name.
    """
    if labels.min() < 0 or labels.max() >= len(names):
        raise LongTailError(f"The {prefix} files hold the label {labels.max()}; labels from 0 to {len(names) - 1} are allowed.")
    if source.image_size:
        images = np.stack([to_square(image, source.image_size) for image in images])
    table = pd.DataFrame(
        {
            "sample_id": [f"{prefix}-{row:05d}" for row in range(len(images))],
            "split": splits.astype(str),
            "label": labels.astype(np.int64),
            "class_name": [names[label] for label in labels],
            "file": "",
            "row": np.arange(len(images)),
            "digest": [_digest(image.tobytes()) for image in images],
        }
    )
    return table, PackedImages(images)


def from_encoded(table: pd.DataFrame, root: Path, column: str, source: SourceConfig) -> tuple[pd.DataFrame, ImageStore]:
    """Check, digest, cut a test part where there is none and, where it is possible, pack images that lie encoded in files.

    Every image is decoded once: a broken one is named now and not in the middle of a training. Images of one size (or brought to one by
    ``source.image_size``) are packed; others stay where they are.

    Args:
        table: sample_id, split, label, class_name, file, row and ``meta.*`` columns.
        root: what ``file`` is relative to.
        column: image column of Parquet files.
        source: policy, packing and limits.

    Raises:
        LongTailError: for what is wrong with the table, a broken image (or, if those are skipped, a class that is left without any), or a set
            that is too large to be packed.
    """
    _check_table(table)
    if source.image_size and 3 * source.image_size**2 * len(table) > _PACKED_BYTES:
        raise LongTailError(
            f"{len(table)} images of {source.image_size} x {source.image_size} do not fit the {_PACKED_BYTES >> 30} GiB of a packed set; "
            "lower source.image_size or set it to null."
        )
    table = table.reset_index(drop=True)
    store = EncodedImages(root, table["file"].tolist(), table["row"].tolist(), column, source.max_pixels)
    digests: list[str] = [""] * len(table)
    pixels: list[Pixels | None] = [None] * len(table)
    problems: list[str] = []
    sizes: set[tuple[int, ...]] = set()

    def load(row: int) -> None:
        try:
            content = store.content(row)
            image = decode(content, store.name(row), source.max_pixels)
        except LongTailError as error:
            problems.append(str(error))
            return
        digests[row] = _digest(content)
        image = to_square(image, source.image_size) if source.image_size else image
        sizes.add(image.shape)
        if len(sizes) == 1 and image.nbytes * len(table) <= _PACKED_BYTES:
            pixels[row] = image

    with ThreadPoolExecutor(_THREADS) as pool, progress("reading images", len(table)) as advance:
        for _ in pool.map(load, range(len(table))):
            advance(1)
    if problems and source.on_bad_image == "error":
        raise LongTailError(min(problems) + (f" {len(problems) - 1} more images are broken." if len(problems) > 1 else ""))
    if problems:
        logger.warning("%d of %d images are broken and left out, the first: %s", len(problems), len(table), min(problems))
    good = np.array([bool(digest) for digest in digests])
    if not good.any():
        raise LongTailError(f"Not one image under {root} could be read.")
    if lost := sorted(set(table["label"]) - set(table["label"][good])):
        raise LongTailError(
            f"The class '{table['class_name'][table['label'] == lost[0]].iloc[0]}' has no image left: all of them are broken."
        )
    # cut only now, from images that can be read; the order of rows stays
    table = _with_test_part(table.assign(digest=digests)[good].reset_index(drop=True), source)
    packed = [image for image in pixels if image is not None]
    if len(sizes) == 1 and len(packed) == len(table):
        return table, PackedImages(np.stack(packed))
    return table, EncodedImages(root, table["file"].tolist(), table["row"].tolist(), column, source.max_pixels)


def _with_test_part(table: pd.DataFrame, source: SourceConfig) -> pd.DataFrame:
    """Return the table with a stratified test part cut from train where it has none.

    Raises:
        LongTailError: if a class has a single image, which cannot be both trained on and tested.
    """
    if (table["split"] == "test").any():
        return table
    _check_that_a_test_part_can_be_cut(table)
    whole = table[table["split"] == "train"]
    if source.test_per_class:
        train, test = cut_per_class(whole, source.test_per_class, source.split_seed)
    else:
        train, test = stratified_cut(whole, source.test_fraction, source.split_seed)
    logger.info("The source has no test part: %d of %d images are set aside for it.", len(test), len(table))
    return pd.concat([train, table[table["split"] == "val"], test.assign(split="test")]).sort_index()


def _check_that_a_test_part_can_be_cut(table: pd.DataFrame) -> None:
    train = table[table["split"] == "train"]
    single = train[~train["label"].duplicated(keep=False)]
    if len(single):
        raise LongTailError(
            f"{len(single)} classes have a single image, the first is '{single['class_name'].iloc[0]}'; a test part cannot be cut from them. "
            "Add images, remove these classes, or give a test part of your own."
        )


def first_gap(labels: pd.Series) -> int | None:
    """Return the smallest whole number from 0 that is not a label although a larger one is; None where labels have no gap."""
    present = np.unique(labels)
    gaps = np.flatnonzero(present != np.arange(len(present)))
    return int(gaps[0]) if len(gaps) else None


def check_split_column(column: str | None, names: Iterable[str], where: object) -> None:
    """Refuse a split column that was asked for by name and is not there; only the default, ``split``, may be missing.

    Raises:
        LongTailError: suggesting the nearest name.
    """
    names = list(names)
    if column not in (None, "split") and column not in names:
        raise LongTailError(f"{where} has no column '{column}'; it has {', '.join(names)}.{nearest(str(column), names)}")


def number_classes(table: pd.DataFrame, order: list[str] | None = None) -> pd.DataFrame:
    """Return the table with labels for its class names, numbered in ``order`` or, without one, alphabetically."""
    names = order or sorted(table["class_name"].unique())
    return table.assign(label=table["class_name"].map({name: label for label, name in enumerate(names)}).astype(np.int64))


def parts_of(values: pd.Series, where: str) -> pd.Series:
    """Return train, val or test for the words that data sets use.

    Raises:
        LongTailError: for any other word.
    """
    known = {
        "train": "train",
        "training": "train",
        "val": "val",
        "valid": "val",
        "validation": "val",
        "dev": "val",
        "test": "test",
        "testing": "test",
    }
    parts = values.astype(str).str.lower().map(known)
    if parts.isna().any():
        raise LongTailError(f"{where} holds '{values[parts.isna()].iloc[0]}'; allowed are train, val and test.")
    return parts


def _check_table(table: pd.DataFrame) -> None:
    if table.empty:
        raise LongTailError("The source holds no image.")
    duplicated = table["sample_id"].duplicated()
    if duplicated.any():
        raise LongTailError(
            f"{duplicated.sum()} image ids occur twice, the first is '{table['sample_id'][duplicated].iloc[0]}'; ids must be unique."
        )
    if (table["label"] < 0).any():
        worst = table[table["label"] < 0].iloc[0]
        raise LongTailError(f"The label {worst['label']} of '{worst['sample_id']}' is negative; labels are numbered from 0.")
    if (gap := first_gap(table["label"])) is not None:
        raise LongTailError(
            f"There is no image of label {gap}, but labels up to {table['label'].max()}; labels are numbered from 0 without gaps."
        )
    if "class_name" in table:
        pairs = table[["label", "class_name"]].drop_duplicates()
        if len(twice := pairs[pairs["label"].duplicated(keep=False)].sort_values("label", kind="stable")):
            one, other = twice["class_name"].iloc[:2]
            raise LongTailError(f"The label {twice['label'].iloc[0]} has two class names, '{one}' and '{other}'; a label has one.")
        if not (table["split"] == "test").any():
            _check_that_a_test_part_can_be_cut(table)  # before hours of decoding


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
