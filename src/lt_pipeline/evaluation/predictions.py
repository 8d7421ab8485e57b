"""The one thing evaluation reads: what a model said about each image, as a Parquet file that any program can write.

A file needs the columns ``sample_id``, ``label`` and ``logits``; everything else is optional. Whoever brings a model of their own writes, with
pandas alone::

    frame = pd.DataFrame({"sample_id": ids, "label": labels, "logits": list(logits)})
    frame.attrs = {"method": "mine", "benchmark": "cifar100_lt", "seed": 0, "train_counts": counts.tolist(), "class_names": names}
    frame.to_parquet("predictions.parquet")
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lt_pipeline.errors import LongTailError
from lt_pipeline.files import atomic_file

_FACTS, _MACS = b"lt_pipeline.facts", b"lt_pipeline.macs_per_depth"
_WITH, _GROUP = "with/", "group/"  # columns
_PANDAS_FACTS = b"PANDAS_ATTRS"  # where pandas keeps DataFrame.attrs


@dataclass(frozen=True)
class Predictions:
    """What a model said about N images of C classes; K experts where the model has them.

    Attributes:
        sample_ids: unique names of the images, str [N].
        labels: true classes, int64 [N]; -1 where unknown.
        logits: the model's final decision, float32 [N, C] (after routing, where a router decides).
        expert_logits: each expert's own logits, float32 [K, N, C].
        router_scores: score i says (sigmoid > threshold) whether to go on after expert i, float32 [N, K-1].
        experts_used: how many experts each image was given, int64 [N] in 1..K.
        macs_per_depth: multiply-accumulates for one image after 1..K experts, float64 [K].
        with_part: the class that the model decides for when it sees part of the metadata, by what it sees (``none``, ``only age``), int64 [N].
        groups: words by which images are told apart in the report, by the column they come from (``sex``), str [N].
        facts: JSON-able context: method, benchmark, seed, split_hash, protocol, precision, class_names, train_counts, shot_convention,
            shot_many, shot_few, router_threshold, ...

    Raises:
        LongTailError: if shapes disagree, a number is not finite, a label has no logit, or an id occurs twice.
    """

    sample_ids: NDArray[np.str_]
    labels: NDArray[np.int64]
    logits: NDArray[np.float32]
    expert_logits: NDArray[np.float32] | None = None
    router_scores: NDArray[np.float32] | None = None
    experts_used: NDArray[np.int64] | None = None
    macs_per_depth: NDArray[np.float64] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    with_part: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    groups: dict[str, NDArray[np.str_]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        def put(name: str, dtype: type) -> None:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, np.asarray(value, dtype))

        for name in ("labels", "experts_used"):
            put(name, np.int64)
        for name in ("logits", "expert_logits", "router_scores"):
            put(name, np.float32)
        put("macs_per_depth", np.float64)
        put("sample_ids", np.str_)
        for name, dtype in (("with_part", np.int64), ("groups", np.str_)):
            object.__setattr__(self, name, {key: np.asarray(value, dtype) for key, value in getattr(self, name).items()})
        _validate(self)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return self.logits.shape[1]

    @property
    def num_experts(self) -> int:
        """Number of experts K; 1 for a model without experts."""
        return 1 if self.expert_logits is None else len(self.expert_logits)

    @property
    def class_names(self) -> list[str]:
        """Names of the C classes; their numbers where the facts give no names."""
        return [str(name) for name in self.facts.get("class_names") or range(self.num_classes)]

    @property
    def train_counts(self) -> NDArray[np.int64]:
        """Training images per class, int64 [C].

        Raises:
            LongTailError: if the facts do not say them: without them there are no shot groups.
        """
        if self.facts.get("train_counts") is None:
            raise LongTailError(
                "The predictions carry no fact 'train_counts' (training images per class), which the shot groups are made from; add it."
            )
        return np.asarray(self.facts["train_counts"], np.int64)

    def labelled(self) -> "Predictions":
        """Return the part whose label is known; ``self`` where that is all.

        Raises:
            LongTailError: if no label is known.
        """
        known = self.labels >= 0
        if known.all() and len(self):
            return self
        if not known.any():
            raise LongTailError("No image in these predictions has a label (all are -1), so there is nothing to evaluate.")

        def rows(value: NDArray[Any] | None) -> NDArray[Any] | None:
            return None if value is None else value[known]

        experts = None if self.expert_logits is None else self.expert_logits[:, known]
        return Predictions(
            self.sample_ids[known],
            self.labels[known],
            self.logits[known],
            experts,
            rows(self.router_scores),
            rows(self.experts_used),
            self.macs_per_depth,
            self.facts,
            {name: classes[known] for name, classes in self.with_part.items()},
            {name: words[known] for name, words in self.groups.items()},
        )

    def to_parquet(self, path: str | Path) -> None:
        """Write one Parquet file, whole or not at all.

        Columns: sample_id, label, logits, then expert_0 ..., router_score, experts_used, ``with/<part of the metadata>`` and ``group/<column>``
        where known. The facts and the cost per depth lie in the
        schema's metadata.

        Raises:
            LongTailError: if the file cannot be written.
        """
        columns: dict[str, pa.Array] = {
            "sample_id": pa.array(self.sample_ids.tolist(), pa.string()),
            "label": pa.array(self.labels),
            "logits": _fixed_size_list(self.logits),
        }
        for index, logits in enumerate(self.expert_logits if self.expert_logits is not None else ()):
            columns[f"expert_{index}"] = _fixed_size_list(logits)
        if self.router_scores is not None:
            columns["router_score"] = _fixed_size_list(self.router_scores)
        if self.experts_used is not None:
            columns["experts_used"] = pa.array(self.experts_used)
        columns |= {_WITH + name: pa.array(classes) for name, classes in self.with_part.items()}
        columns |= {_GROUP + name: pa.array(words.tolist(), pa.string()) for name, words in self.groups.items()}
        metadata = {_FACTS: json.dumps(self.facts, allow_nan=False).encode()}
        if self.macs_per_depth is not None:
            metadata[_MACS] = json.dumps(self.macs_per_depth.tolist()).encode()
        table = pa.table(columns).replace_schema_metadata(metadata)
        with atomic_file(Path(path)) as temporary:
            pq.write_table(table, temporary, compression="zstd", use_dictionary=False, write_page_checksum=True)

    @classmethod
    def from_parquet(cls, path: str | Path, facts: Mapping[str, Any] | None = None) -> "Predictions":
        """Read what :meth:`to_parquet` wrote, or what a user wrote with pandas (lists of any float type, facts in ``DataFrame.attrs``).

        Args:
            path: the file.
            facts: added to the file's own facts, and stronger than those.

        Raises:
            LongTailError: if the file is missing, damaged, lacks a column or holds impossible values.
        """
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                return cls._from_file(file, facts or {})
        except (pa.ArrowException, OSError) as error:
            reason = "it does not exist" if isinstance(error, FileNotFoundError) else f"it is damaged or not a Parquet file ({error})"
            raise LongTailError(f"Cannot read the predictions {path}: {reason}.") from error

    @classmethod
    def _from_file(cls, file: pq.ParquetFile, facts: Mapping[str, Any]) -> "Predictions":
        present = file.schema_arrow.names
        missing = [name for name in ("sample_id", "label", "logits") if name not in present]
        if missing:
            raise LongTailError(
                f"The predictions lack the column {missing[0]!r}; needed are sample_id, label and logits (a list of C numbers)."
            )
        metadata = file.schema_arrow.metadata or {}
        own_facts = json.loads(metadata.get(_FACTS) or metadata.get(_PANDAS_FACTS) or b"{}")
        macs = json.loads(metadata.get(_MACS, b"null")) or own_facts.pop("macs_per_depth", None)
        expert_columns = sorted((name for name in present if _expert_index(name) is not None), key=lambda name: _expert_index(name) or 0)
        # Column by column: a table of all experts at once would take the memory twice.
        table = file.read(
            columns=[name for name in present if name in ("sample_id", "label", "experts_used") or name.startswith((_WITH, _GROUP))]
        )
        return cls(
            sample_ids=np.asarray(table["sample_id"].to_pylist(), np.str_),
            labels=_integers(table, "label"),
            logits=_matrix(file, "logits"),
            expert_logits=_experts(file, expert_columns) if expert_columns else None,
            router_scores=_matrix(file, "router_score") if "router_score" in present else None,
            experts_used=_integers(table, "experts_used") if "experts_used" in present else None,
            macs_per_depth=np.asarray(macs, np.float64) if macs is not None else None,
            facts={**own_facts, **facts},
            with_part={name.removeprefix(_WITH): _integers(table, name) for name in present if name.startswith(_WITH)},
            groups={name.removeprefix(_GROUP): np.asarray(table[name].to_pylist(), np.str_) for name in present if name.startswith(_GROUP)},
        )


def _validate(predictions: Predictions) -> None:
    p = predictions
    if p.logits.ndim != 2 or p.logits.shape[1] < 2:
        raise LongTailError(f"Logits have the shape {p.logits.shape}; allowed is [images, classes] with at least 2 classes.")
    n, c = p.logits.shape
    shapes: list[tuple[str, NDArray[Any] | None, tuple[int, ...]]] = [
        ("sample_ids", p.sample_ids, (n,)),
        ("labels", p.labels, (n,)),
        ("expert_logits", p.expert_logits, (p.num_experts, n, c)),
        ("router_scores", p.router_scores, (n, p.num_experts - 1)),
        ("experts_used", p.experts_used, (n,)),
        ("macs_per_depth", p.macs_per_depth, (p.num_experts,)),
        *((f"with_part[{name!r}]", classes, (n,)) for name, classes in p.with_part.items()),
        *((f"groups[{name!r}]", words, (n,)) for name, words in p.groups.items()),
    ]
    for name, value, shape in shapes:
        if value is not None and value.shape != shape:
            raise LongTailError(
                f"{name} has the shape {value.shape}, but {n} images, {c} classes and {p.num_experts} expert(s) ask for {shape}."
            )
    for name in ("logits", "expert_logits", "router_scores", "macs_per_depth"):
        value = getattr(p, name)
        if value is not None and not np.isfinite(value).all():
            where = ""
            if name == "logits":
                where = f", first for the image '{p.sample_ids[~np.isfinite(value).all(1)][0]}'"
            raise LongTailError(f"{name} of the predictions hold NaN or infinity{where}; every value must be a finite number.")
    if n and not (p.labels.min() >= -1 and p.labels.max() < c):
        wrong = int(np.flatnonzero((p.labels < -1) | (p.labels >= c))[0])
        raise LongTailError(
            f"The image '{p.sample_ids[wrong]}' has the label {p.labels[wrong]}; allowed are 0..{c - 1}, or -1 for unknown."
        )
    names, times = np.unique(p.sample_ids, return_counts=True)
    if len(names) < n:
        raise LongTailError(f"The sample_id '{names[times.argmax()]}' occurs {times.max()} times in the predictions; ids must be unique.")
    if p.experts_used is not None and n and not (p.experts_used.min() >= 1 and p.experts_used.max() <= p.num_experts):
        raise LongTailError(f"experts_used holds values outside 1..{p.num_experts}, the number of experts in the predictions.")
    for fact in ("class_names", "train_counts"):
        if p.facts.get(fact) is not None and len(p.facts[fact]) != c:
            raise LongTailError(f"The fact {fact!r} has {len(p.facts[fact])} entries, but the logits have {c} classes.")


def _expert_index(column: str) -> int | None:
    prefix, _, number = column.partition("_")
    return int(number) if prefix == "expert" and number.isdecimal() else None


def _experts(file: pq.ParquetFile, columns: list[str]) -> NDArray[np.float32]:
    expected = [f"expert_{index}" for index in range(len(columns))]
    if columns != expected:
        raise LongTailError(f"The expert columns are {columns}; they must be {expected}, without a gap.")
    logits = [_matrix(file, name) for name in columns]
    if len({matrix.shape for matrix in logits}) > 1:
        raise LongTailError(f"The expert columns disagree about the number of classes: {[matrix.shape[1] for matrix in logits]}.")
    return np.stack(logits)


def _fixed_size_list(matrix: NDArray[np.float32]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(matrix).reshape(-1)), matrix.shape[1])


def _integers(table: pa.Table, column: str) -> NDArray[np.int64]:
    try:
        values = table[column].cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid as error:
        raise LongTailError(f"The column {column!r} of the predictions must hold whole numbers: {error}.") from error
    if values.dtype != np.int64:  # nulls turn the column into floats
        raise LongTailError(f"The column {column!r} of the predictions has empty cells; write -1 for an unknown label.")
    return values


def _matrix(file: pq.ParquetFile, column: str) -> NDArray[np.float32]:
    kind = file.schema_arrow.field(column).type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise LongTailError(f"The column {column!r} of the predictions is of the type {kind}; it must hold a list of numbers in each row.")
    chunks = file.read(columns=[column])[column].chunks
    rows = file.metadata.num_rows
    width = kind.list_size if pa.types.is_fixed_size_list(kind) else None
    if width is None:
        lengths = np.unique(np.concatenate([chunk.value_lengths().to_numpy(zero_copy_only=False) for chunk in chunks] or [[0]]))
        if len(lengths) > 1:
            raise LongTailError(f"The lists in the column {column!r} of the predictions differ in length; each needs one number per class.")
        width = int(lengths[0])
    try:
        values = np.concatenate([chunk.flatten().cast(pa.float32()).to_numpy(zero_copy_only=False) for chunk in chunks] or [[]])
    except pa.ArrowInvalid as error:
        raise LongTailError(f"The column {column!r} of the predictions must hold lists of numbers: {error}.") from error
    if values.size != rows * width:
        raise LongTailError(f"The column {column!r} of the predictions has empty cells; every row needs a list.")
    return values.reshape(rows, width)
