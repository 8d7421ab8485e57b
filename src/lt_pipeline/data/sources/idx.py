"""Fashion-MNIST in the four standard IDX files, gzipped or not."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lt_pipeline.data.config import SourceConfig
from lt_pipeline.data.images import ImageStore
from lt_pipeline.data.sources.common import from_arrays, root_of
from lt_pipeline.errors import LongTailError

_FILES = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"), "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")}
_UNSIGNED_BYTES = 8


def read(source: SourceConfig) -> tuple[pd.DataFrame, ImageStore]:
    """Return the set from IDX files in the root (or in ``FashionMNIST/raw`` below it), or from torchvision's download.

    Raises:
        LongTailError: if a file is missing or not IDX.
    """
    from torchvision.datasets import FashionMNIST

    if source.download and source.root:
        Path(source.root).mkdir(parents=True, exist_ok=True)
    root = root_of(source)
    folder = next((place for place in (root, root / "FashionMNIST" / "raw") if _find(place, _FILES["train"][0])), root)
    if source.download and not _find(folder, _FILES["train"][0]):
        try:
            FashionMNIST(str(root), download=True)
        except (OSError, RuntimeError) as error:
            raise LongTailError(f"Fashion-MNIST could not be downloaded to {root} ({error}); put the four IDX files there.") from error
        folder = root / "FashionMNIST" / "raw"
    images, labels, splits = [], [], []
    for part, (image_file, label_file) in _FILES.items():
        images.append(_read(folder, image_file, 3))
        labels.append(_read(folder, label_file, 1).astype(np.int64))
        splits += [part] * len(labels[-1])
        if len(images[-1]) != len(labels[-1]):
            raise LongTailError(f"{folder}: {image_file} has {len(images[-1])} images, {label_file} {len(labels[-1])} labels.")
    grey = np.concatenate(images)
    pixels = np.repeat(grey[..., None], 3, axis=3)
    return from_arrays(pixels, np.concatenate(labels), np.array(splits), list(FashionMNIST.classes), "fashion_mnist", source)


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _read(folder: Path, name: str, dimensions: int) -> NDArray[np.uint8]:
    path = _find(folder, name)
    if path is None:
        raise LongTailError(f"{folder} lacks {name} (or {name}.gz); Fashion-MNIST needs its four IDX files, or source.download=true.")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise LongTailError(f"{path} cannot be unpacked ({error}).") from error
    shape = np.frombuffer(content, ">u4", dimensions, offset=4) if len(content) >= 4 + 4 * dimensions else np.zeros(1, int)
    if (
        0 in shape
        or content[:4] != bytes([0, 0, _UNSIGNED_BYTES, dimensions])
        or len(content) != 4 + 4 * dimensions + math.prod(shape.tolist())
    ):
        raise LongTailError(f"{path} is not an IDX file of {dimensions} dimensions, or it is empty or truncated.")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
