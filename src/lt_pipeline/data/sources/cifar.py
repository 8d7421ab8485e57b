"""CIFAR-10 and CIFAR-100, from the official Python files or from Parquet.

The official files are pickles. They are opened only if their MD5 is the published one, and then by an unpickler that knows nothing but NumPy arrays
and plain containers.
"""

import hashlib
import io
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lt_pipeline.data.config import SourceConfig
from lt_pipeline.data.images import ImageStore
from lt_pipeline.data.longtail import class_counts
from lt_pipeline.data.sources.common import from_arrays, from_encoded, root_of
from lt_pipeline.data.sources.parquet import read_tables
from lt_pipeline.errors import LongTailError

logger = logging.getLogger(__name__)
_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_ALLOWED = {*((module, "_reconstruct") for module in _ARRAY_MODULES), ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}


def read(source: SourceConfig) -> tuple[pd.DataFrame, ImageStore]:
    """Return the set from whichever form the root holds: official files, Parquet with encoded images, or a download.

    Raises:
        LongTailError: if the root holds none of them, or a file is not the published one.
    """
    import torchvision.datasets as published

    data_set = published.CIFAR10 if source.kind == "cifar10" else published.CIFAR100
    if source.download and source.root:
        Path(source.root).mkdir(parents=True, exist_ok=True)
    root = root_of(source)
    folder = root / data_set.base_folder
    tables = sorted(root.glob(f"{source.kind}_*.parquet")) or sorted([*root.glob("train-*.parquet"), *root.glob("test-*.parquet")])
    if not folder.is_dir() and not tables and source.download:
        from torchvision.datasets.utils import download_and_extract_archive

        try:
            download_and_extract_archive(data_set.url, str(root), filename=data_set.filename, md5=data_set.tgz_md5)
        except (OSError, RuntimeError) as error:
            raise LongTailError(f"{source.kind} could not be downloaded to {root} ({error}); put {data_set.base_folder} there.") from error
    if folder.is_dir():
        return _from_official_files(folder, data_set, source)
    if tables:
        return _from_parquet(tables, root, source)
    raise LongTailError(
        f"{root} holds no {source.kind}: neither {data_set.base_folder}/ (official Python files), nor {source.kind}_*.parquet, "
        "nor train-*.parquet and test-*.parquet. source.download=true fetches it."
    )


def _from_official_files(folder: Path, data_set: Any, source: SourceConfig) -> tuple[pd.DataFrame, ImageStore]:
    pixels, labels, splits = [], [], []
    for part, files in (("train", data_set.train_list), ("test", data_set.test_list)):
        for name, md5 in files:
            batch = _verified(folder / name, md5)
            pixels.append(batch["data"])
            labels += batch["labels" if "labels" in batch else "fine_labels"]
            splits += [part] * len(batch["data"])
    names = _verified(folder / data_set.meta["filename"], data_set.meta["md5"])[data_set.meta["key"]]
    images = np.concatenate(pixels).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return from_arrays(np.ascontiguousarray(images), np.array(labels), np.array(splits), names, source.kind, source)


def _from_parquet(paths: list[Path], root: Path, source: SourceConfig) -> tuple[pd.DataFrame, ImageStore]:
    label = "fine_label" if source.kind == "cifar100" else "label"
    frame, column = read_tables(paths, root, ("image", "img"), (label, "label"), "split")
    if "meta.lt_rank" in frame:
        frame = frame.assign(lt_rank=frame["meta.lt_rank"].astype("int64"), first_rank=_first_ranks(frame, source.kind))
    frame["class_name"] = frame["meta.class_name"] if "meta.class_name" in frame else frame["label"].astype(str)
    frame = frame.drop(columns=[name for name in ("meta.class_name", "meta.lt_rank") if name in frame])
    return from_encoded(frame, root, column, source)


def _first_ranks(frame: pd.DataFrame, kind: str) -> np.ndarray:
    """Return the rank in official order inside the class, as far as the files at hand are complete; -1 beyond.

    The file of extra rows completes, at imbalance 100, the first images of every class that the shuffled subset happens to miss.
    """
    ranks = np.full(len(frame), -1, np.int64)
    if kind != "cifar100" or not frame["file"].str.contains("first100_extra").any():
        return ranks
    train = frame[frame["split"] == "train"].sort_values("meta.index")
    rank = train.groupby("label").cumcount()
    complete = class_counts(100, 50_000, "exp", 0.01)
    ranks[train.index] = rank.where(rank < complete[train["label"]], -1)
    return ranks


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a CIFAR file")
        return super().find_class(_ARRAY_MODULES[1] if module in _ARRAY_MODULES else module, name)


def _verified(path: Path, md5: str) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LongTailError(f"Cannot read {path}: {error.strerror}.") from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise LongTailError(f"{path} is not the published file: its MD5 differs. Download it again.")
    try:
        loaded: dict[str, Any] = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise LongTailError(f"{path} is refused: {error}.") from error
    return loaded
