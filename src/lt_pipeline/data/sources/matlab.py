"""Stanford Cars and Oxford Flowers as published: annotations in MATLAB files beside a folder of images."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lt_pipeline.data.config import SourceConfig
from lt_pipeline.data.images import ImageStore, inside
from lt_pipeline.data.sources.common import from_encoded, root_of
from lt_pipeline.errors import LongTailError


def read(source: SourceConfig) -> tuple[pd.DataFrame, ImageStore]:
    """Return manifest and store; ``source.root`` holds ``cars_annos.mat`` and ``car_ims``, or ``imagelabels.mat``, ``setid.mat`` and ``jpg``.

    Raises:
        LongTailError: if a file is missing or is not what it should be.
    """
    root = root_of(source)
    table = cars(root) if source.kind == "cars" else flowers(root)
    for file in table["file"]:
        inside(root, file)
    return from_encoded(table, root, "", source)


def cars(root: Path) -> pd.DataFrame:
    """Return one row an image of Stanford Cars: sample_id, split, label, class_name, file, row; a test flag of 0 is training."""
    content = _mat(root / "cars_annos.mat")
    try:
        entries, names = np.ravel(content["annotations"]), [str(name) for name in np.ravel(content.get("class_names", []))]
        rows = [(str(entry.relative_im_path), int(getattr(entry, "class")), int(entry.test)) for entry in entries]
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise LongTailError(f"{root / 'cars_annos.mat'} holds no annotations with relative_im_path, class and test ({error}).") from error
    table = pd.DataFrame(rows, columns=["file", "number", "test"])
    return _table(table["file"], table["number"], table["test"] == 1, names)


def flowers(root: Path) -> pd.DataFrame:
    """Return one row an image of Oxford Flowers, in the order of the image numbers; the published train and valid parts are both train."""
    labels, parts = _mat(root / "imagelabels.mat"), _mat(root / "setid.mat")
    try:
        numbers = np.ravel(labels["labels"]).astype(np.int64)
        test = np.isin(np.arange(1, len(numbers) + 1), np.ravel(parts["tstid"]))
        known = test | np.isin(np.arange(1, len(numbers) + 1), np.concatenate([np.ravel(parts["trnid"]), np.ravel(parts["valid"])]))
    except (KeyError, ValueError) as error:
        raise LongTailError(f"{root}: imagelabels.mat must hold labels, setid.mat trnid, valid and tstid ({error}).") from error
    files = pd.Series([f"jpg/image_{number:05d}.jpg" for number in range(1, len(numbers) + 1)])
    table = _table(files, pd.Series(numbers), pd.Series(test), [])
    return table[known].reset_index(drop=True)


def _table(files: pd.Series, numbers: pd.Series, test: pd.Series, names: list[str]) -> pd.DataFrame:
    """Return the table of images whose classes are numbered from 1."""
    return pd.DataFrame(
        {
            "sample_id": files,
            "split": np.where(test, "test", "train"),
            "label": numbers.astype(np.int64) - 1,
            "class_name": [names[number - 1] if number <= len(names) else str(number) for number in numbers],
            "file": files,
            "row": -1,
        }
    )


def _mat(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat

    try:
        content: dict[str, Any] = loadmat(str(path), squeeze_me=True, struct_as_record=False)
    except Exception as error:  # scipy lets through whatever its parser trips over
        raise LongTailError(f"The annotations {path} cannot be read ({error}).") from error
    return content
