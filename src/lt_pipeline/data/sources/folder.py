"""A class-folder tree: ``train/<class>/...`` with optional ``val/`` and ``test/``, or just ``<class>/...``."""

from pathlib import Path

import numpy as np
import pandas as pd

from lt_pipeline.data.config import SourceConfig
from lt_pipeline.data.images import ImageStore, inside
from lt_pipeline.data.labels import UNLABELLED
from lt_pipeline.data.sources.common import from_encoded, number_classes, root_of
from lt_pipeline.data.split import ImageSet
from lt_pipeline.errors import LongTailError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
_PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def read(source: SourceConfig) -> tuple[pd.DataFrame, ImageStore]:
    """Return manifest and store of the tree; class names are folder names, numbered alphabetically.

    With ``source.label_column`` null the images have no labels, and folders other than ``train/``, ``val/`` and ``test/`` mean nothing.

    Raises:
        LongTailError: if there is no image, a path leaves the root, or a class of the test part is not in train.
    """
    root = root_of(source)
    read_part = _classes if source.label_column else _unlabelled
    if (root / "train").is_dir():
        rows = [row for name, part in _PARTS.items() if (root / name).is_dir() for row in read_part(root, root / name, part)]
    elif part := next((name for name in _PARTS if (root / name).is_dir()), None):
        raise LongTailError(f"{root} has {part}/ but no train/; expected {root}/train/<class>/<image>.")
    else:
        rows = read_part(root, root, "train")
    if not rows:
        raise LongTailError(f"{root} holds no image in class folders; expected {root}/train/<class>/<image> or {root}/<class>/<image>.")
    table = pd.DataFrame(rows, columns=["sample_id", "split", "class_name", "file"]).assign(row=-1)
    known = set(table.loc[table["split"] == "train", "class_name"])
    if unseen := sorted(set(table["class_name"]) - known):
        raise LongTailError(f"The class '{unseen[0]}' has images outside train but none in {root / 'train'}.")
    return from_encoded(number_classes(table), root, "", source)


def unlabelled_images(folder: Path, source: SourceConfig) -> ImageSet:
    """Return every image below a folder, in alphabetical order and without labels, brought to size as ``source`` says.

    Raises:
        LongTailError: if the folder is missing or holds no image, a link leaves it, or an image is broken.
    """
    if not folder.is_dir():
        raise LongTailError(f"{folder} is not a folder.")
    files = [path.relative_to(folder).as_posix() for path in _images(folder)]
    if not files:
        raise LongTailError(f"{folder} holds no image; known endings are {', '.join(sorted(SUFFIXES))}.")
    for file in files:
        inside(folder, file)
    table = pd.DataFrame({"sample_id": files, "split": "test", "label": 0, "file": files, "row": -1})
    table, images = from_encoded(table, folder, "", source)
    return ImageSet(images, np.arange(len(table)), np.full(len(table), -1), table["sample_id"].tolist())


def _images(folder: Path) -> list[Path]:
    """Return the image files below a folder in order, without hidden ones such as thumbnails and the ``._x.png`` of a Mac."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES and not any(name.startswith(".") for name in path.relative_to(folder).parts) and path.is_file()
    ]


def _unlabelled(root: Path, folder: Path, part: str) -> list[tuple[str, str, str, str]]:
    relative = [path.relative_to(root).as_posix() for path in _images(folder)]
    for file in relative:
        inside(root, file)
    return [(file, part, UNLABELLED, file) for file in relative]


def _classes(root: Path, folder: Path, part: str) -> list[tuple[str, str, str, str]]:
    rows = []
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.name.startswith("."):
            for path in _images(entry):
                relative = path.relative_to(root).as_posix()
                inside(root, relative)
                rows.append((relative, part, entry.name, relative))
    return rows
