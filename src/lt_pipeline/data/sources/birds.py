"""CUB-200-2011 and NABirds as published: three text files that speak of the same image ids, and for CUB 312 attributes of every image."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lt_pipeline.data.config import SourceConfig
from lt_pipeline.data.images import ImageStore, inside
from lt_pipeline.data.sources.common import from_encoded, root_of
from lt_pipeline.errors import LongTailError

ATTRIBUTES = 312
_ATTRIBUTE_FILE = "attributes/image_attribute_labels.txt"
_PLACES = {"cub200": "CUB_200_2011", "nabirds": "nabirds"}


def read(source: SourceConfig) -> tuple[pd.DataFrame, ImageStore]:
    """Return manifest and store; ``source.root`` is the folder with ``images.txt`` or the one above it.

    CUB's attributes, where their file is there, are the column ``attributes``: a list of 312 zeros and ones an image.

    Raises:
        LongTailError: if a file is missing, or one does not speak of the images of the others.
    """
    root = root_of(source)
    folder = root if (root / "images.txt").is_file() else root / _PLACES[source.kind]
    table = annotations(folder, ranked=source.kind == "nabirds")
    if source.kind == "cub200" and (folder / _ATTRIBUTE_FILE).is_file():
        lines = (folder / _ATTRIBUTE_FILE).read_text().splitlines()
        present = attributes(lines, len(table))
        table["meta.attributes"] = list(present[table["image_id"].astype(int) - 1])
    return from_encoded(table.drop(columns="image_id"), folder, "", source)


def annotations(folder: Path, ranked: bool) -> pd.DataFrame:
    """Return one row an image in the order of ``images.txt``: image_id, sample_id, split, label, class_name, file, row.

    Args:
        folder: with the three files, and ``classes.txt`` for names.
        ranked: whether labels are the ranks of the class numbers that occur (NABirds), or these numbers less one (CUB).
    """
    paths, classes, parts = (_pairs(folder / f"{name}.txt") for name in ("images", "image_class_labels", "train_test_split"))
    if len(classes) != len(paths) or len(parts) != len(paths) or set(classes) != set(paths) or set(parts) != set(paths):
        raise LongTailError(f"{folder}: images.txt, image_class_labels.txt and train_test_split.txt must name the same images.")
    try:
        numbers = np.array([int(classes[image]) for image in paths])
        train = np.array([int(parts[image]) for image in paths])
    except ValueError as error:
        raise LongTailError(f"{folder}: classes and parts must be whole numbers ({error}).") from error
    names = _pairs(folder / "classes.txt") if (folder / "classes.txt").is_file() else {}
    files = [f"images/{path}" for path in paths.values()]
    for file in files:
        inside(folder, file)
    return pd.DataFrame(
        {
            "image_id": list(paths),
            "sample_id": list(paths.values()),
            "split": np.where(train == 1, "train", "test"),
            "label": (np.unique(numbers, return_inverse=True)[1] if ranked else numbers - 1).astype(np.int64),
            "class_name": [names.get(str(number), str(number)) for number in numbers],
            "file": files,
            "row": -1,
        }
    )


def attributes(lines: list[str], images: int) -> NDArray[np.int8]:
    """Return which attributes each image has, int8 [images, 312]; row r is the image with the id r + 1.

    A line is ``image attribute present certainty [...] seconds``; some lines of the published file have a number too many before the time, so
    only the first three are read. How certain the annotators were is not used.

    Raises:
        LongTailError: naming the line that is not like this.
    """
    present = np.zeros((images, ATTRIBUTES), np.int8)
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        try:
            image, attribute, value = map(int, words[:3])
            if not (1 <= image <= images and 1 <= attribute <= ATTRIBUTES and value in (0, 1)):
                raise ValueError("out of range")
        except ValueError as error:
            raise LongTailError(
                f"{_ATTRIBUTE_FILE} line {number} is '{line[:80]}'; a line begins with an image from 1 to {images}, an attribute from 1 to "
                f"{ATTRIBUTES}, and 0 or 1."
            ) from error
        present[image - 1, attribute - 1] = value
    return present


def _pairs(path: Path) -> dict[str, str]:
    """Return the lines ``id text`` of a file, in order."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LongTailError(f"The list {path} cannot be read ({error}).") from error
    pairs = [line.strip().split(maxsplit=1) for line in lines if line.strip()]
    if short := next((words for words in pairs if len(words) < 2), None):
        raise LongTailError(f"{path} has the line '{short[0]}'; a line is an id and a text.")
    return {words[0]: words[1] for words in pairs}
