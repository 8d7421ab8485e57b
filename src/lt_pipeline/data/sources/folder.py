"""A class-folder tree: ``train/<class>/...`` with optional ``val/`` and ``test/``, or just ``<class>/...``."""

from pathlib import Path

import pandas as pd

from lt_pipeline.data.config import SourceConfig
from lt_pipeline.data.images import ImageStore, inside
from lt_pipeline.data.sources.common import from_encoded, number_classes, root_of, with_test_part
from lt_pipeline.errors import LongTailError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
_PARTS = {"train": "train", "val": "val", "validation": "val", "test": "test"}


def read(source: SourceConfig) -> tuple[pd.DataFrame, ImageStore]:
    """Return manifest and store of the tree; class names are folder names, numbered alphabetically.

    Raises:
        LongTailError: if there is no image, a path leaves the root, or a class of the test part is not in train.
    """
    root = root_of(source)
    if (root / "train").is_dir():
        rows = [row for name, part in _PARTS.items() if (root / name).is_dir() for row in _classes(root, root / name, part)]
    else:
        rows = _classes(root, root, "train")
    if not rows:
        raise LongTailError(f"{root} holds no image in class folders; expected {root}/train/<class>/<image> or {root}/<class>/<image>.")
    table = pd.DataFrame(rows, columns=["sample_id", "split", "class_name", "file"]).assign(row=-1)
    known = set(table.loc[table["split"] == "train", "class_name"])
    if unseen := sorted(set(table["class_name"]) - known):
        raise LongTailError(f"The class '{unseen[0]}' has images outside train but none in {root / 'train'}.")
    return from_encoded(with_test_part(number_classes(table), source).reset_index(drop=True), root, "", source)


def list_images(root: Path) -> list[str]:
    """Return every image file below ``root``, relative to it, in alphabetical order.

    Raises:
        LongTailError: if the folder is missing or holds none, or a link leaves it.
    """
    if not root.is_dir():
        raise LongTailError(f"{root} is not a folder.")
    files = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not files:
        raise LongTailError(f"{root} holds no image; known endings are {', '.join(sorted(SUFFIXES))}.")
    for file in files:
        inside(root, file)
    return files


def _classes(root: Path, folder: Path, part: str) -> list[tuple[str, str, str, str]]:
    rows = []
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.name.startswith("."):
            files = [path for path in sorted(entry.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file()]
            for path in files:
                relative = path.relative_to(root).as_posix()
                inside(root, relative)
                rows.append((relative, part, entry.name, relative))
    return rows
