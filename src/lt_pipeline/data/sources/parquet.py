"""Encoded images in a Parquet column, bytes or Hugging Face's ``{bytes, path}``; every further column is metadata."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lt_pipeline.data.config import SourceConfig
from lt_pipeline.data.images import ImageStore, inside
from lt_pipeline.data.labels import UNLABELLED
from lt_pipeline.data.sources.common import check_split_column, from_encoded, number_classes, parts_of, root_of
from lt_pipeline.errors import LongTailError, nearest


def read(source: SourceConfig) -> tuple[pd.DataFrame, ImageStore]:
    """Return manifest and store of the source's Parquet files.

    Raises:
        LongTailError: if there is no file, a column is missing, or labels are neither whole numbers nor names.
    """
    root = root_of(source)
    paths = [inside(root, name) for name in source.files] or sorted(root.glob("*.parquet"))
    if not paths:
        raise LongTailError(f"{root} holds no Parquet file.")
    frame, column = read_tables(
        paths, root, (source.image_column,), (source.label_column,) if source.label_column else (), source.split_column
    )
    if source.id_column:
        frame["sample_id"] = _words(source.id_column, frame)
    if source.class_name_column and source.label_column:
        frame["class_name"] = _words(source.class_name_column, frame)
        frame = frame.drop(columns=f"meta.{source.class_name_column}")
    elif frame["label"].dtype.kind in "iu":
        frame["class_name"] = frame["label"].astype(str)
    else:
        frame = number_classes(frame.assign(class_name=frame["label"].astype(str)))
    if frame["label"].dtype.kind not in "iu":
        frame = number_classes(frame)
    return from_encoded(frame, root, column, source)


def read_tables(
    paths: Sequence[Path], root: Path, image_columns: Sequence[str], label_columns: Sequence[str], split_column: str | None
) -> tuple[pd.DataFrame, str]:
    """Return everything but the images as one table (sample_id, split, label, file, row, ``meta.*``), and the name of the image column.

    Args:
        paths: files under ``root``.
        root: what ``file`` is relative to.
        image_columns: possible names of the image column, the first that exists counts.
        label_columns: likewise for the label; none for images without labels.
        split_column: where it is missing, a file named ``test-...`` is test, one named ``val...`` is val, others are train.

    Raises:
        LongTailError: if a file cannot be read or lacks a column.
    """
    frames, image_column = [], ""
    for path in paths:
        try:
            names = pq.read_schema(path).names
        except (OSError, pa.ArrowInvalid) as error:
            raise LongTailError(f"{path} is not a readable Parquet file ({error}).") from error
        image_column = _first(image_columns, names, path)
        label = _first(label_columns, names, path) if label_columns else None
        check_split_column(split_column, names, path)
        table = plain_table(path, [name for name in names if name != image_column])
        relative = path.relative_to(root).as_posix()
        part = "test" if path.stem.startswith("test") else "val" if path.stem.startswith("val") else "train"
        frame = pd.DataFrame(
            {
                "sample_id": [f"{relative.removesuffix('.parquet')}-{row}" for row in range(len(table))],
                "split": parts_of(table[split_column], f"{path} column '{split_column}'") if split_column in table else part,
                "label": table[label] if label else UNLABELLED,
                "file": relative,
                "row": np.arange(len(table), dtype=np.int64),
            }
        )
        rest = table.drop(columns=[name for name in (label, split_column) if name in table])
        frames.append(pd.concat([frame, rest.add_prefix("meta.")], axis=1))
    combined = pd.concat(frames, ignore_index=True)
    if combined["label"].isna().any():
        raise LongTailError(f"{int(combined['label'].isna().sum())} rows of {root} have no label.")
    if combined["label"].dtype.kind in "iu":
        combined["label"] = combined["label"].astype(np.int64)
    elif combined["label"].dtype.kind == "f":
        raise LongTailError(f"The label column '{label_columns[0]}' holds fractions; labels are whole numbers or names.")
    return combined, image_column


def plain_table(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Return a Parquet table with every column as a column, those too that pandas would make the index; a nameless index is left out."""
    table = pq.read_table(path, columns=columns).to_pandas(ignore_metadata=True)
    return table.drop(columns=[name for name in table if str(name).startswith("__index_level_")])


def _first(wanted: Sequence[str], names: Sequence[str], path: Path) -> str:
    for name in wanted:
        if name in names:
            return name
    raise LongTailError(f"{path} has no column '{wanted[0]}'; it has {', '.join(names)}.{nearest(wanted[0], names)}")


def _words(column: str, frame: pd.DataFrame) -> pd.Series:
    """Return a metadata column as text."""
    names = [name.removeprefix("meta.") for name in map(str, frame.columns) if name.startswith("meta.")]
    if column not in names:
        raise LongTailError(f"The source has no column '{column}'; it has {', '.join(names)}.{nearest(column, names)}")
    values = frame[f"meta.{column}"]
    if values.isna().any():
        first = frame[values.isna()].iloc[0]
        raise LongTailError(f"{first['file']} row {first['row']} has no value in column '{column}'.")
    return values.astype(str)
