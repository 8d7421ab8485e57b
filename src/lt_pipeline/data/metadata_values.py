"""Reading the cells of a metadata column: numbers, dates, words, vectors; what is missing, and what is wrong and in which row."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lt_pipeline.data.metadata_config import MetadataGroup, Period, TextGroup, TimeGroup
from lt_pipeline.errors import LongTailError, nearest

Numbers = NDArray[np.float64]
_DAY = r"^(?P<year>\d{4})-(?P<month>\d{1,2})-(?P<day>\d{1,2})"
_TIME = r"[T ](?P<hour>\d{1,2})(?::\d{2}(?::\d{2}(?:[.,]\d+)?)?)?"
_ISO = rf"{_DAY}(?:{_TIME}\s*(?:Z|UTC|[+-]\d{{2}}:?\d{{0,2}})?)?$"
_PUBLISHED = r"^(?P<year>\d+)-(?P<month>\d+)-(?P<day>\d+) (?P<hour>\d+):\d+:\d+"
_PUBLISHED_DAYS = r"^(?P<year>\d+)-(?P<month>\d+)-(?P<day>\d+)"
_HOURS = ("%H", "%I", "%X", "%c")
_LENGTHS: dict[Period, float] = {"month": 12, "hour": 24, "day_of_year": 365.2425, "weekday": 7}


@dataclass(frozen=True)
class Column:
    """One column of the images' table.

    Attributes:
        name: without prefix.
        values: its cells; those that say that they are missing are empty.
        rows: names of the images.
    """

    name: str
    values: pd.Series
    rows: pd.Series

    @classmethod
    def of(cls, frame: pd.DataFrame, name: str, who: str, missing: Sequence[str]) -> "Column":
        """Return a column by name.

        Raises:
            LongTailError: saying who wanted it, if it is not there.
        """
        if f"meta.{name}" not in frame:
            there = [str(column).removeprefix("meta.") for column in frame if str(column).startswith("meta.")]
            raise LongTailError(
                f"{who} wants the column '{name}', which the images do not have; they have {', '.join(there) or 'none'}.{nearest(name, there)}"
            )
        values = frame[f"meta.{name}"]
        if values.dtype == object or isinstance(values.dtype, pd.StringDtype | pd.CategoricalDtype):
            values = values.astype(object)
            said = values.map(lambda cell: isinstance(cell, str) and cell.strip().lower() in missing)
            values = values.mask(said.astype(bool))
        return cls(name, values, frame["sample_id"])

    def bad(self, where: NDArray[np.bool_], group: MetadataGroup, allowed: str) -> None:
        """Refuse the cells at ``where``, unless the group says that they count as missing.

        Raises:
            LongTailError: naming the first row.
        """
        if where.any() and group.on_bad_value == "error":
            first, more = int(where.argmax()), int(where.sum()) - 1
            raise LongTailError(
                f"The metadata column '{self.name}' holds {_shown(self.values.iloc[first])} in the row of '{self.rows.iloc[first]}'; allowed is "
                f"{allowed}, or nothing.{f' {more} more rows are wrong.' if more else ''} With on_bad_value=missing such values count as missing."
            )


def numbers(column: Column, group: MetadataGroup, limits: tuple[float, float] | None = None) -> Numbers:
    """Return a column as numbers, float64 [n]; NaN is missing.

    Raises:
        LongTailError: for a word or an infinity, or a number outside ``limits``, in a group where that is an error.
    """
    given = column.values.notna().to_numpy()
    values = pd.to_numeric(column.values, errors="coerce").to_numpy(np.float64, na_value=np.nan, copy=True)
    low, high = limits or (-np.inf, np.inf)
    with np.errstate(invalid="ignore"):
        wrong = given & ~(np.isfinite(values) & (values >= low) & (values <= high))
    column.bad(wrong, group, f"a number from {low} to {high}" if limits else "a number")
    values[wrong] = np.nan
    return values


def words(column: Column) -> pd.Series:
    """Return a column as text, empty where missing; whole numbers read the same whether or not the column has gaps."""
    values = column.values
    if values.dtype.kind == "f" and (values.dropna() % 1 == 0).all():
        values = values.astype("Int64")
    return values.astype(object).map(lambda cell: str(cell).strip(), na_action="ignore").mask(values.isna(), other=None)


def dates(column: Column, group: MetadataGroup) -> pd.DataFrame:
    """Return year, month, day and hour as float64 columns; NaN is missing, as the hour of a date without a time is.

    Raises:
        LongTailError: for a date that cannot be read or does not exist, in a group where that is an error.
    """
    declared = group.declared
    assert isinstance(declared, TimeGroup)
    cells = column.values
    if declared.reading != "checked":
        parts = _matched(cells, _PUBLISHED if declared.reading == "published" else _PUBLISHED_DAYS)
        return parts if "hour" in parts else parts.assign(hour=np.nan)
    if pd.api.types.is_datetime64_any_dtype(cells.dtype):
        return _fields(cells.dt, with_hour=True)
    if declared.format:
        read = pd.to_datetime(cells.astype(object).where(cells.notna(), None), format=declared.format, errors="coerce")
        column.bad((cells.notna() & read.isna()).to_numpy(), group, f"a date like {declared.format}")
        return _fields(read.dt, with_hour=any(code in declared.format for code in _HOURS))
    parts = _matched(cells, _ISO)
    exists = pd.to_datetime(parts[["year", "month", "day"]], errors="coerce").notna() & ~(parts["hour"] > 23)
    column.bad(
        (cells.notna() & ~exists).to_numpy(), group, "a date like 2024-05-31 or 2024-05-31 14:30:00 (for others set the group's format)"
    )
    return parts.where(exists)


def periods_of(parts: pd.DataFrame, periods: Sequence[Period]) -> Iterator[tuple[Numbers, float]]:
    """Yield for each period where in it the dates lie, float64 [n], and how long it is."""
    for period in periods:
        if period in parts:
            values = parts[period]
        else:
            moment = pd.to_datetime(parts[["year", "month", "day"]], errors="coerce").dt
            values = moment.dayofyear if period == "day_of_year" else moment.weekday
        yield values.to_numpy(np.float64, na_value=np.nan), _LENGTHS[period]


def circle(values: Numbers, length: float) -> Numbers:
    """Return (sin, cos) of ``2 pi value / length``, [n, 2]; NaN stays."""
    angle = 2 * np.pi * values / length
    return np.stack([np.sin(angle), np.cos(angle)], axis=1)


def on_sphere(latitude: Numbers, longitude: Numbers, zero_is_missing: bool = False) -> Numbers:
    """Return (x, y, z) on the unit sphere of degrees, [n, 3]; NaN where either is missing.

    Args:
        latitude: degrees, float64 [n].
        longitude: likewise.
        zero_is_missing: whether a coordinate of exactly 0 is one that is missing, as in MetaFormer's code.
    """
    phi, theta = np.radians(latitude), np.radians(longitude)
    point = np.stack([np.cos(phi) * np.cos(theta), np.cos(phi) * np.sin(theta), np.sin(phi)], axis=1)
    point[np.isnan(phi) | np.isnan(theta)] = np.nan
    if zero_is_missing:
        point[(latitude == 0) | (longitude == 0)] = np.nan
    return point


def vectors(columns: Sequence[Column], group: MetadataGroup, width: int | None) -> Numbers:
    """Return columns side by side, or the lists of one column, float64 [n, d].

    Raises:
        LongTailError: if lists differ in length from ``width`` (None: from the first), or a cell is no number.
    """
    first = columns[0]
    lists = first.values.map(_is_list).to_numpy(bool)
    if len(columns) > 1 or not lists.any():
        return np.stack([numbers(column, group) for column in columns], axis=1)
    cells = first.values[lists]
    width = width or len(cells.iloc[0])
    if (short := (cells.map(len) != width).to_numpy(bool)).any():
        where = int(short.argmax())
        raise LongTailError(
            f"The metadata column '{first.name}' holds {len(cells.iloc[where])} numbers in the row of '{first.rows[lists].iloc[where]}'; "
            f"the others, or training, have {width}."
        )
    first.bad(first.values.notna().to_numpy(bool) & ~lists, group, f"a list of {width} numbers")
    encoded = np.full((len(lists), width), np.nan)
    try:
        encoded[lists] = np.stack([np.asarray(cell, np.float64) for cell in cells])
    except (TypeError, ValueError) as error:
        raise LongTailError(f"The metadata column '{first.name}' holds lists of something else than numbers ({error}).") from error
    return encoded


def embeddings(declared: TextGroup) -> tuple[NDArray[Any], pd.Index]:
    """Return the memory-mapped embeddings of a text, [n, d] or [n, T, d], and the images of its rows.

    Raises:
        LongTailError: if a file cannot be read, or the two do not go together.
    """
    try:
        array = np.load(declared.file, mmap_mode="r", allow_pickle=False)
        ids = pd.Index(Path(declared.ids).read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError) as error:
        raise LongTailError(f"The embeddings of the metadata group '{declared.name}' cannot be read ({error}).") from error
    if array.ndim not in (2, 3, 4) or array.dtype.kind != "f" or len(array) != len(ids):
        raise LongTailError(
            f"{declared.file} holds {array.dtype} of shape {array.shape}, {declared.ids} {len(ids)} names; allowed are fractions of shape [n, d], "
            "[n, tokens, d] or [n, captions, tokens, d], and n names."
        )
    if ids.has_duplicates:
        raise LongTailError(f"{declared.ids} names the image '{ids[ids.duplicated()][0]}' twice.")
    if array.ndim == 4:
        if declared.caption >= array.shape[1]:
            raise LongTailError(f"{declared.file} has {array.shape[1]} captions an image; caption={declared.caption} is not among them.")
        array = array[:, declared.caption]
    return array, ids


def _matched(cells: pd.Series, pattern: str) -> pd.DataFrame:
    text = cells.astype(object).map(lambda cell: str(cell).strip(), na_action="ignore").astype("string")
    return text.str.extract(pattern).apply(pd.to_numeric, errors="coerce").astype(np.float64)


def _fields(moments: Any, with_hour: bool) -> pd.DataFrame:
    parts = pd.DataFrame({name: getattr(moments, name) for name in ("year", "month", "day", "hour")}).astype(np.float64)
    return parts if with_hour else parts.assign(hour=np.nan)


def _is_list(cell: object) -> bool:
    return isinstance(cell, list | tuple | np.ndarray)


def _shown(value: object) -> str:
    return f"'{str(value)[:60]}'"
