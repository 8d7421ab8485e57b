"""Images without labels, and labels that come from elsewhere."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from lt_pipeline.errors import LongTailError, nearest

logger = logging.getLogger(__name__)
UNLABELLED = "unlabelled"
"""Class name of every image of a source that has no labels."""


def has_labels(table: pd.DataFrame) -> bool:
    """Return whether a manifest or split says what its images show."""
    return bool((table["class_name"] != UNLABELLED).any())


def relabelled(manifest: pd.DataFrame, file: Path, column: str) -> pd.DataFrame:
    """Return the rows that a table has a label for, under these labels; classes are numbered by the sorted labels.

    Args:
        manifest: with ``sample_id``, ``split``, ``label`` and ``class_name``.
        file: CSV or Parquet with ``sample_id`` and ``column``, such as the assignments that a clustering writes.
        column: of the labels.

    Raises:
        LongTailError: if the file cannot be read, lacks a column, has an id twice, or knows none of the images.
    """
    try:
        table = pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file, dtype={"sample_id": str})
    except (OSError, ValueError) as error:
        raise LongTailError(f"benchmark.labels: the table {file} cannot be read ({error}).") from error
    for name in ("sample_id", column):
        if name not in table:
            known = list(map(str, table.columns))
            raise LongTailError(f"benchmark.labels: {file} has no column '{name}'; it has {', '.join(known)}.{nearest(name, known)}")
    if (twice := table["sample_id"].duplicated()).any():
        raise LongTailError(f"benchmark.labels: {file} has the image '{table['sample_id'][twice].iloc[0]}' twice.")
    labels = manifest["sample_id"].map(table.set_index("sample_id")[column])
    kept = labels.notna().to_numpy()
    if not (kept & (manifest["split"] == "train").to_numpy()).any():
        raise LongTailError(f"benchmark.labels: {file} knows none of the training images, such as '{manifest['sample_id'].iloc[0]}'.")
    reached = labels[kept & (manifest["split"] == "train").to_numpy()]
    if (lost := kept & ~labels.isin(reached).to_numpy()).any():
        logger.warning("%d images are left out: no training image has their label in %s.", int(lost.sum()), file)
        kept = kept & ~lost
    rows, words = manifest[kept], labels[kept]
    if pd.api.types.is_float_dtype(words):
        words = words.astype(np.int64)
    names = sorted(words.unique())
    numbers = words.map({name: number for number, name in enumerate(names)})
    return rows.assign(label=numbers.astype(np.int64), class_name=words.astype(str))
