"""Metadata: from columns beside the images to float32 vectors, and what of them a network may see.

Everything that is not known is NaN, never a zero: a zero is a place in the Atlantic, an hour, an age. Location and date as in MetaFormer (Diao et
al., arXiv 2203.02751, section 3.3), after Mac Aodha et al. (ICCV 2019): a point on the sphere, a point on the circle of each period.
"""

import fnmatch
import hashlib
import logging
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, assert_never

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lt_pipeline.data.metadata_config import (
    AttributesGroup,
    CategoricalGroup,
    DeclaredGroup,
    LocationGroup,
    MetadataConfig,
    MetadataGroup,
    NumericGroup,
    TextGroup,
    TimeGroup,
)
from lt_pipeline.data.metadata_values import Column, circle, dates, embeddings, numbers, on_sphere, periods_of, vectors, words
from lt_pipeline.errors import LongTailError, nearest

logger = logging.getLogger(__name__)
Vectors = NDArray[np.float32]
PREFIX = "meta."
"""Of metadata columns in manifest and split."""


def fit_metadata(frame: pd.DataFrame, config: MetadataConfig) -> tuple[MetadataGroup, ...]:
    """Return the groups with what encoding needs: means, categories, widths, as the training part has them.

    Args:
        frame: rows of the training part with ``sample_id`` and ``meta.*`` columns.
        config: the declared groups.

    Raises:
        LongTailError: for an unknown column, a group without a single value, a value that does not fit its kind (unless these are missing), too
            many categories, or a text of several tokens beside other groups.
    """
    groups = tuple(_fit(frame, declared, config) for declared in config.groups)
    if len(groups) > 1 and (tokens := next((group for group in groups if group.tokens > 1), None)):
        raise LongTailError(
            f"The metadata group '{tokens.name}' has {tokens.tokens} tokens an image and must be the only group; there are {len(groups)}. "
            "Pool its embeddings to one vector an image."
        )
    return groups


def encode_metadata(frame: pd.DataFrame, groups: Sequence[MetadataGroup]) -> Vectors | None:
    """Return the vectors of the rows, float32 [n, d], or [n, T, d] for the one group of T tokens; NaN is missing, None without groups.

    Args:
        frame: with ``sample_id`` and the columns of every group as ``meta.<column>``.
        groups: of :func:`fit_metadata`, from training.

    Raises:
        LongTailError: for a column that is not there, a value that does not fit its kind (unless these are missing), or vectors and embeddings of
            another length than in training.
    """
    if not groups:
        return None
    encoded = [_encode(frame, group) for group in groups]
    return np.concatenate(encoded, axis=-1) if len(encoded) > 1 else encoded[0]


def metadata_digest(vectors: Vectors) -> str:
    """Return 16 hex digits over the vectors of a set: the split's hash does not see them."""
    return hashlib.blake2b(np.ascontiguousarray(vectors).tobytes(), digest_size=8).hexdigest()


def no_metadata(images: int, groups: Sequence[MetadataGroup]) -> Vectors | None:
    """Return what :func:`encode_metadata` returns for images of which nothing is known."""
    if not groups:
        return None
    width, tokens = sum(group.width for group in groups), groups[0].tokens
    return np.full((images, width) if tokens == 1 else (images, tokens, width), np.nan, np.float32)


def kept_numbers(groups: Sequence[MetadataGroup]) -> dict[str, NDArray[np.bool_]]:
    """Return the ways to hide part of the metadata, by name: which of the d numbers stay, bool [d].

    ``none``; with several groups also ``only <group>`` and, with three or more (of two it is the same), ``without <group>``.
    """
    if not groups:
        return {}
    owner = np.repeat(np.arange(len(groups)), [group.width for group in groups])
    kept = {"none": np.zeros(len(owner), bool)}
    if len(groups) > 1:
        kept |= {f"only {group.name}": owner == index for index, group in enumerate(groups)}
    if len(groups) > 2:
        kept |= {f"without {group.name}": owner != index for index, group in enumerate(groups)}
    return kept


def values_to_report(frame: pd.DataFrame, config: MetadataConfig, part: str = "test") -> dict[str, NDArray[np.str_]]:
    """Return for each column of ``metadata.report_by`` a word for each image of a part, str [n].

    Columns of many numbers are cut at the quartiles of the training part; what is not known is ``missing``.

    Raises:
        LongTailError: for an unknown column.
    """
    return {name: _words_to_report(frame, Column.of(frame, name, "metadata.report_by", config.missing), part) for name in config.report_by}


def join_table(frame: pd.DataFrame, file: Path, key: str) -> pd.DataFrame:
    """Return the frame with the columns of a table as ``meta.*``; rows that the table does not have get missing values.

    Args:
        frame: with ``sample_id``.
        file: CSV or Parquet.
        key: column of the table that holds the ``sample_id``.

    Raises:
        LongTailError: if the table cannot be read, lacks the key, has an image twice, or knows none of the images.
    """
    try:
        table = pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file, dtype={key: str})
    except (OSError, ValueError) as error:
        raise LongTailError(f"The metadata table {file} cannot be read ({error}).") from error
    names = list(map(str, table.columns))
    if key not in names:
        raise LongTailError(f"{file} has no column '{key}' to find the images by; it has {', '.join(names)}.{nearest(key, names)}")
    ids = table[key].astype(str)
    if (twice := ids.duplicated()).any():
        raise LongTailError(f"{file} has the image '{ids[twice].iloc[0]}' twice; an image has one row.")
    found = frame["sample_id"].isin(ids)
    if not found.any():
        raise LongTailError(f"{file} knows none of the images, such as '{frame['sample_id'].iloc[0]}'; its column '{key}' names them.")
    if not found.all():
        logger.warning("%d of %d images are not in %s and have no metadata.", int((~found).sum()), len(frame), file)
    added = table.set_index(ids.to_numpy()).drop(columns=key).add_prefix(PREFIX)
    kept = frame.drop(columns=[name for name in added if name in frame])
    return pd.concat([kept, added.reindex(frame["sample_id"]).set_axis(frame.index)], axis=1)


def _fit(frame: pd.DataFrame, declared: DeclaredGroup, config: MetadataConfig) -> MetadataGroup:
    columns = tuple(name for pattern in declared.columns for name in _matching(frame, pattern, declared.name))
    group = MetadataGroup(declared=declared, width=1, columns=columns, missing=config.missing, on_bad_value=config.on_bad_value)
    fitted: dict[str, Any]
    match declared:
        case LocationGroup():
            fitted = {"width": 3}
        case TimeGroup():
            fitted = {"width": 2 * len(declared.periods)}
        case NumericGroup():
            values = np.stack([numbers(column, group) for column in _columns(frame, group)], axis=1)
            if (empty := np.isnan(values).all(0)).any():
                raise LongTailError(
                    f"The metadata group '{group.name}': no training image has a value in column '{columns[int(empty.argmax())]}'."
                )
            spread = np.nanstd(values, axis=0)
            fitted = {
                "width": len(columns),
                "mean": tuple(np.nanmean(values, axis=0).tolist()),
                "std": tuple(np.where(spread > 0, spread, 1.0).tolist()),
            }
        case CategoricalGroup():
            known = tuple(tuple(sorted(set(words(column).dropna()))) for column in _columns(frame, group))
            for name, categories in zip(columns, known, strict=True):
                _check_categories(declared, name, len(categories))
            fitted = {"width": sum(map(len, known)), "categories": known}
        case AttributesGroup():
            fitted = {"width": vectors(_columns(frame, group), group, None).shape[1]}
        case TextGroup():
            array, ids = embeddings(declared)
            if not ids.isin(frame["sample_id"]).any():
                raise LongTailError(f"{declared.ids} names none of the training images, such as '{frame['sample_id'].iloc[0]}'.")
            return group.model_copy(update={"width": array.shape[-1], "tokens": array.shape[1] if array.ndim == 3 else 1})
        case _:
            assert_never(declared)
    group = group.model_copy(update=fitted)
    if np.isnan(_encode(frame, group)).all():
        raise LongTailError(f"The metadata group '{group.name}' has no value for any training image.")
    return group


def _encode(frame: pd.DataFrame, group: MetadataGroup) -> Vectors:
    declared, columns = group.declared, _columns(frame, group)
    match declared:
        case LocationGroup():
            latitude, longitude = (numbers(column, group, limits) for column, limits in zip(columns, ((-90, 90), (-180, 360)), strict=True))
            encoded = on_sphere(latitude, longitude, declared.zero_is_missing)
        case TimeGroup():
            encoded = np.concatenate(
                [circle(value, length) for value, length in periods_of(dates(columns[0], group), declared.periods)], axis=1
            )
        case NumericGroup():
            values = np.stack([numbers(column, group) for column in columns], axis=1)
            encoded = (values - np.asarray(group.mean)) / np.asarray(group.std)
        case CategoricalGroup():
            encoded = np.concatenate([_one_hot(column, known) for column, known in zip(columns, group.categories, strict=True)], axis=1)
        case AttributesGroup():
            encoded = vectors(columns, group, group.width)
        case TextGroup():
            return _text(frame, group, declared)
        case _:
            assert_never(declared)
    return encoded.astype(np.float32)


def _one_hot(column: Column, categories: Sequence[str]) -> NDArray[np.float64]:
    values = words(column)
    place = pd.Categorical(values, categories=list(categories)).codes
    encoded = np.full((len(values), len(categories)), np.nan)
    known = place >= 0
    encoded[known] = np.eye(len(categories))[place[known]]
    if (other := values.notna().to_numpy() & ~known).any():
        logger.warning(
            "Column '%s' holds %d values that no training image has, such as '%s'; they count as missing.",
            column.name,
            int(other.sum()),
            values[other].iloc[0],
        )
    return encoded


def _text(frame: pd.DataFrame, group: MetadataGroup, declared: TextGroup) -> Vectors:
    array, ids = embeddings(declared)
    shape = (group.width,) if group.tokens == 1 and array.ndim == 2 else (group.tokens, group.width)
    if array.shape[1:] != shape:
        raise LongTailError(f"{declared.file} holds embeddings of shape {array.shape[1:]}; training had {shape}. Use the same text model.")
    rows = ids.get_indexer(pd.Index(frame["sample_id"]))
    encoded = np.full((len(frame), *shape), np.nan, np.float32)
    encoded[rows >= 0] = array[rows[rows >= 0]]
    return encoded.reshape(len(frame), group.width) if group.tokens == 1 else encoded


def _columns(frame: pd.DataFrame, group: MetadataGroup) -> list[Column]:
    return [Column.of(frame, name, f"The metadata group '{group.name}'", group.missing) for name in group.columns]


def _matching(frame: pd.DataFrame, pattern: str, group: str) -> list[str]:
    if "*" not in pattern:
        return [pattern]
    names = [str(name).removeprefix(PREFIX) for name in frame if str(name).startswith(PREFIX)]
    found = fnmatch.filter(names, pattern)
    if not found:
        raise LongTailError(f"The metadata group '{group}': no column is called like '{pattern}'; there are {', '.join(names) or 'none'}.")
    return found


def _check_categories(declared: CategoricalGroup, name: str, found: int) -> None:
    if found == 0:
        raise LongTailError(f"The metadata group '{declared.name}': no training image has a value in column '{name}'.")
    if found > declared.max_categories:
        raise LongTailError(
            f"The metadata group '{declared.name}': column '{name}' has {found} different values, more than max_categories = "
            f"{declared.max_categories}. Is it a number, or does it name the single image?"
        )


def _words_to_report(frame: pd.DataFrame, column: Column, part: str) -> NDArray[np.str_]:
    chosen = (frame["split"] == part).to_numpy()
    values = words(column)
    amounts = pd.to_numeric(values, errors="coerce")
    if amounts.notna().sum() == values.notna().sum() and amounts.nunique() > 8:
        edges = np.unique(np.nanquantile(amounts[(frame["split"] == "train").to_numpy()], [0.25, 0.5, 0.75]))
        names = [f"< {edges[0]:g}", *(f"{low:g} to {high:g}" for low, high in pairwise(edges)), f">= {edges[-1]:g}"]
        bins = pd.cut(amounts, [-np.inf, *edges, np.inf], right=False, labels=names)
        values = bins.astype(object)
    return values[chosen].fillna("missing").to_numpy(str)
