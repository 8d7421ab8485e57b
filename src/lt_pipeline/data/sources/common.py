"""What all readers share: roots, checks, digests, packing, and the cut of a test part."""

import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lt_pipeline.data.config import SourceConfig
from lt_pipeline.data.images import EncodedImages, ImageStore, PackedImages, Pixels, decode, to_square
from lt_pipeline.data.split import stratified_cut
from lt_pipeline.errors import LongTailError

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
    """Return manifest and packed store of images that come as one array [N, H, W, 3]."""
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
    """Check, cut a test part where there is none, digest and, where it is possible, pack images that lie encoded in files.

    Every image is decoded once: a broken one is named now and not in the middle of a training. Images of one size (or brought to one by
    ``source.image_size``) are packed; others stay where they are.

    Args:
        table: sample_id, split, label, class_name, file, row and ``meta.*`` columns.
        root: what ``file`` is relative to.
        column: image column of Parquet files.
        source: policy, packing and limits.
    """
    _check_table(table)
    table = _with_test_part(table, source).reset_index(drop=True)
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

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(load, range(len(table))))
    if problems and source.on_bad_image == "error":
        raise LongTailError(min(problems) + (f" {len(problems) - 1} more images are broken." if len(problems) > 1 else ""))
    if problems:
        logger.warning("%d of %d images are broken and left out, the first: %s", len(problems), len(table), min(problems))
    good = np.array([bool(digest) for digest in digests])
    if not good.any():
        raise LongTailError(f"Not one image under {root} could be read.")
    table = table.assign(digest=digests)[good].reset_index(drop=True)
    packed = [image for image in pixels if image is not None]
    if len(sizes) == 1 and len(packed) == len(table):
        return table, PackedImages(np.stack(packed))
    if source.image_size:
        raise LongTailError(
            f"{good.sum()} images of {source.image_size} x {source.image_size} do not fit the {_PACKED_BYTES >> 30} GiB of a packed set; "
            "set source.image_size: null."
        )
    return table, EncodedImages(root, table["file"].tolist(), table["row"].tolist(), column, source.max_pixels)


def _with_test_part(table: pd.DataFrame, source: SourceConfig) -> pd.DataFrame:
    """Return the table with a stratified test part cut from train where it has none.

    Raises:
        LongTailError: if a class has a single image, which cannot be both trained on and tested.
    """
    if (table["split"] == "test").any():
        return table
    counts = table.loc[table["split"] == "train", "class_name"].value_counts()
    if len(single := counts[counts < 2]):
        raise LongTailError(
            f"{len(single)} classes have a single image, the first is '{single.index[0]}'; a test part cannot be cut from them. "
            "Add images, remove these classes, or give a test part of your own."
        )
    train, test = stratified_cut(table[table["split"] == "train"], source.test_fraction, source.split_seed)
    logger.info("The source has no test part: %d of %d images are set aside for it.", len(test), len(table))
    return pd.concat([train, table[table["split"] == "val"], test.assign(split="test")]).sort_index()


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


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
