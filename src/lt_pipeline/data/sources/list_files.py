"""The field's list files, one ``relative/path label`` a line, beside an image root: ImageNet-LT, Places-LT, iNaturalist 2018."""

import hashlib
import logging
from pathlib import Path

import pandas as pd

from lt_pipeline.data.config import SourceConfig
from lt_pipeline.data.images import ImageStore, inside
from lt_pipeline.data.sources.common import first_gap, from_encoded, root_of
from lt_pipeline.errors import LongTailError

logger = logging.getLogger(__name__)

_STANDARD = {
    "ImageNet_LT_train": "a063f095fcd475db4cf8b0658c4b73955535bbf9",
    "ImageNet_LT_val": "3ed3188b2f44829ce2dec1cc27040d8d40984088",
    "ImageNet_LT_test": "76a2fb9749d6cd29e765cc4f8c270f2504131e2f",
    "Places_LT_train": "1d608b558c25c271da75c06f1e5e3625a4ebcb79",
    "Places_LT_val": "89c29c0973328f77d7a77a8b580634ce20acdc11",
    "Places_LT_test": "d43400ac9bc2275baa058456da40b20abb50b108",
    "iNaturalist18_train": "4accdb7584d2f0a5106c40a33ed6afa392189bcc",
    "iNaturalist18_val": "4c23900857fd0f5adcd4cc0dffef345039eeb05f",
}
"""git blob ids of the lists that public repositories share byte for byte."""

_LABEL_DIGITS = 9


def read(source: SourceConfig) -> tuple[pd.DataFrame, ImageStore]:
    """Return manifest and store of the lists; class names are the label numbers.

    Raises:
        LongTailError: for a missing list, a malformed line (with its number), or a label that leaves a gap.
    """
    root = root_of(source)
    if "train" not in source.lists:
        raise LongTailError("source.lists needs at least a train list, as in {train: ImageNet_LT_train.txt, test: ImageNet_LT_test.txt}.")
    table = pd.concat([_read_list(_locate(root, name), part, root) for part, name in source.lists.items()], ignore_index=True)
    labels = table.loc[table["split"] == "train", "label"]
    if labels.empty:
        raise LongTailError(f"The train list is empty: {_locate(root, source.lists['train'])}.")
    if (gap := first_gap(labels)) is not None:
        raise LongTailError(
            f"The train list has no image of label {gap}, but labels up to {labels.max()}; labels must be numbered without gaps."
        )
    return from_encoded(table, root, "", source)


def _locate(root: Path, name: str) -> Path:
    path = Path(name) if Path(name).is_absolute() else root / name
    if not path.is_file():
        raise LongTailError(f"The list file {path} does not exist.")
    return path


def _read_list(path: Path, part: str, root: Path) -> pd.DataFrame:
    content = path.read_bytes()
    standard = _STANDARD.get(path.stem)
    if standard and hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() != standard:
        logger.warning("%s differs from the list that published results use.", path)
    rows = []
    for number, line in enumerate(content.decode("utf-8-sig", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        if not name or not label.isdecimal() or len(label) > _LABEL_DIGITS:
            raise LongTailError(f"{path} line {number} is '{line[:80]}'; a line is 'relative/path label' with a label from 0.")
        inside(root, name)
        rows.append((f"{part}/{name}", part, int(label), str(int(label)), name, -1))
    return pd.DataFrame(rows, columns=["sample_id", "split", "label", "class_name", "file", "row"]).astype(
        {"row": "int64", "label": "int64"}
    )
