"""FGVC-Aircraft as published: lists of image numbers and variants beside a folder of images."""

from pathlib import Path

import pandas as pd

from lt_pipeline.data.config import SourceConfig
from lt_pipeline.data.images import ImageStore, inside
from lt_pipeline.data.sources.common import from_encoded, number_classes, root_of
from lt_pipeline.errors import LongTailError


def read(source: SourceConfig) -> tuple[pd.DataFrame, ImageStore]:
    """Return manifest and store; ``source.root`` is the folder ``data`` of the release or one above it.

    Raises:
        LongTailError: if a list is missing or a line of it is not a number and a variant.
    """
    root = root_of(source)
    folder = next(
        (place for place in (root, root / "data", root / "fgvc-aircraft-2013b" / "data") if _list(place, "trainval").is_file()), root
    )
    return from_encoded(annotations(folder), folder, "", source)


def annotations(folder: Path) -> pd.DataFrame:
    """Return one row an image: sample_id, split, label, class_name, file, row; labels are ranks of the variants' names with ``_`` for blanks."""
    rows = []
    for part, name in (("train", "trainval"), ("test", "test")):
        try:
            lines = _list(folder, name).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise LongTailError(f"The list {_list(folder, name)} cannot be read ({error}).") from error
        for number, line in enumerate(lines, start=1):
            image, _, variant = line.strip().partition(" ")
            if image and not variant:
                raise LongTailError(f"{_list(folder, name)} line {number} is '{line[:80]}'; a line is an image number and a variant.")
            if image:
                inside(folder, f"images/{image}.jpg")
                rows.append((image, part, variant.strip().replace(" ", "_"), f"images/{image}.jpg"))
    table = pd.DataFrame(rows, columns=["sample_id", "split", "class_name", "file"]).assign(row=-1)
    return number_classes(table)


def _list(folder: Path, part: str) -> Path:
    return folder / f"images_variant_{part}.txt"
