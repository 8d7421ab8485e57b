"""A CSV or Parquet manifest: a column of image paths, a label column, any metadata."""

import pandas as pd

from lt_pipeline.data.config import SourceConfig
from lt_pipeline.data.images import ImageStore, inside
from lt_pipeline.data.labels import UNLABELLED
from lt_pipeline.data.sources.common import check_split_column, from_encoded, number_classes, parts_of, root_of
from lt_pipeline.data.sources.parquet import plain_table
from lt_pipeline.errors import LongTailError, nearest


def read(source: SourceConfig) -> tuple[pd.DataFrame, ImageStore]:
    """Return manifest and store of the one table in ``source.files``; labels are whole numbers, or names that are numbered alphabetically.

    With ``source.label_column`` null the images have no labels.

    Raises:
        LongTailError: for a missing table or column, an empty label, path, id or class name, a fractional label, or a path that leaves the root.
    """
    root = root_of(source)
    if len(source.files) != 1:
        raise LongTailError(f"source.files must name the one CSV or Parquet table of the images, it names {len(source.files)}.")
    path = inside(root, source.files[0])
    try:
        table = plain_table(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise LongTailError(f"The table {path} cannot be read ({error}).") from error
    for column in filter(None, [source.image_column, source.label_column, source.class_name_column, source.id_column]):
        if column not in table:
            raise LongTailError(f"{path} has no column '{column}'; it has {', '.join(table.columns)}.{nearest(column, table.columns)}")
        if table[column].isna().any():
            row = int(table[column].isna().to_numpy().argmax())
            what = "label" if column == source.label_column else "value"
            raise LongTailError(f"{path} row {row + 1} has no {what} in column '{column}'.")
    check_split_column(source.split_column, table.columns, path)
    files = table[source.image_column].astype(str)
    for file in files:
        inside(root, file)
    labels = table[source.label_column] if source.label_column else pd.Series(UNLABELLED, table.index)
    if labels.dtype.kind == "f":
        raise LongTailError(f"{path} column '{source.label_column}' holds fractions; labels are whole numbers or names.")
    has_split = source.split_column is not None and source.split_column in table
    frame = pd.DataFrame(
        {
            "sample_id": (table[source.id_column] if source.id_column else files).astype(str),
            "split": parts_of(table[source.split_column], f"{path} column '{source.split_column}'") if has_split else "train",
            "label": labels,
            "class_name": (table[source.class_name_column] if source.class_name_column and source.label_column else labels).astype(str),
            "file": files,
            "row": -1,
        }
    )
    frame = frame.astype({"label": "int64"}) if labels.dtype.kind in "iu" else number_classes(frame)
    used = {source.image_column, source.label_column, source.split_column, source.class_name_column, source.id_column}
    frame = pd.concat([frame, table.drop(columns=[name for name in table if name in used]).add_prefix("meta.")], axis=1)
    return from_encoded(frame, root, "", source)
