"""iNaturalist 2017, 2018 and 2021 as published: COCO-style JSON beside the images, with place and date.

``root`` holds the JSON files and the folders that each ``file_name`` begins with. 2021 keeps date, latitude and longitude with the image; 2017 and
2018 in ``<part><year>_locations.json``, which may be missing, as places were published later. The
validation part, on which the field reports, is test.
"""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lt_pipeline.data.config import SourceConfig
from lt_pipeline.data.images import ImageStore, inside
from lt_pipeline.data.sources.common import from_encoded, root_of
from lt_pipeline.errors import LongTailError

logger = logging.getLogger(__name__)
_LISTS = {2021: {"train": "train.json", "test": "val.json"}} | {
    year: {"train": f"train{year}.json", "test": f"val{year}.json"} for year in (2017, 2018)
}


def read(source: SourceConfig) -> tuple[pd.DataFrame, ImageStore]:
    """Return manifest and store; ``source.lists`` names other JSON files, such as ``{train: train_mini.json, test: val.json}``.

    Raises:
        LongTailError: if a file is missing or is not what it should be, or ids of images and annotations do not match.
    """
    root = root_of(source)
    table = annotations(root, {**source.lists} or published_lists(root))
    for file in table["file"]:
        inside(root, file)
    return from_encoded(table, root, "", source)


def annotations(root: Path, lists: dict[Any, str]) -> pd.DataFrame:
    """Return one row an image: sample_id, split, label, class_name, file, row, meta.date, meta.latitude, meta.longitude.

    A label is the place of the class among the categories of the test list; for 2018, whose lists have anonymous classes, in ``categories.json``.

    Args:
        root: of the JSON files.
        lists: JSON file of each part, train and test at least.
    """
    if "train" not in lists or "test" not in lists:
        raise LongTailError(f"source.lists names {', '.join(lists)}; iNaturalist needs a train and a test list.")
    content = {part: _json(inside(root, name)) for part, name in lists.items()}
    frames = []
    for part, name in lists.items():
        table = _part(content[part], name)
        if "meta.latitude" not in table:
            table = _with_locations(table, root / name.replace(".json", "_locations.json"))
        frames.append(table.assign(split=part))
    table = pd.concat(frames, ignore_index=True)
    names = [_plain(entry["name"]) for entry in content["test"]["categories"]]
    shown = {name: name for name in names}
    if (file := root / "categories.json").is_file() and all(name.isdecimal() for name in names):  # 2018: a name is the id of an entry there
        shown = {str(entry["id"]): _plain(entry["name"]) for entry in _json(file)}
    table["label"] = table["class_name"].map({name: label for label, name in enumerate(shown)})
    if (strange := table["label"].isna()).any():
        raise LongTailError(f"The class '{table['class_name'][strange].iloc[0]}' of {lists['train']} is not among the categories.")
    table["class_name"] = table["class_name"].map(shown)
    return table.drop(columns="id").astype({"label": np.int64})


def _part(content: dict[str, Any], name: str) -> pd.DataFrame:
    images, labels = pd.DataFrame(content["images"]), pd.DataFrame(content["annotations"])
    if len(images) != len(labels) or not np.array_equal(images["id"], labels["image_id"]):
        raise LongTailError(f"{name}: images and annotations are not in the same order; each annotation belongs to the image of its place.")
    categories = {entry["id"]: _plain(entry["name"]) for entry in content["categories"]}
    table = pd.DataFrame(
        {
            "id": images["id"],
            "sample_id": images["file_name"],
            "class_name": labels["category_id"].map(categories),
            "file": images["file_name"],
            "row": -1,
        }
    )
    if (strange := table["class_name"].isna()).any():
        raise LongTailError(f"{name}: the image '{table['file'][strange].iloc[0]}' has a category without a name.")
    if "latitude" in images:
        table = table.assign(**{f"meta.{key}": images[key] for key in ("date", "latitude", "longitude")})
    return table


def _with_locations(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    if not path.is_file():
        logger.warning("%s does not exist: place and date of these images are missing.", path)
        places = pd.DataFrame(columns=["id", "date", "lat", "lon"])
    else:
        places = pd.DataFrame(_json(path))
    if not {"id", "date", "lat", "lon"} <= set(places):
        raise LongTailError(f"{path} must be a list of objects with id, date, lat and lon.")
    if places["id"].duplicated().any():
        raise LongTailError(f"{path} has the image {places['id'][places['id'].duplicated()].iloc[0]} twice.")
    joined = places.set_index("id").reindex(table["id"]).set_axis(table.index)
    numbers = {f"meta.{name}": joined[short].astype(np.float64) for name, short in (("latitude", "lat"), ("longitude", "lon"))}
    return table.assign(**{"meta.date": joined["date"].astype(object), **numbers})


def _plain(name: str) -> str:
    return name.strip().lower()


def published_lists(root: Path) -> dict[str, str]:
    """Return the JSON file of each part, from what the folder holds.

    Raises:
        LongTailError: if it holds none of the releases, or several.
    """
    there = {year: lists for year, lists in _LISTS.items() if (root / lists["train"]).is_file()}
    if len(there) != 1:
        known = ", ".join(lists["train"] for lists in _LISTS.values())
        raise LongTailError(f"{root} must hold one of {known}, it holds {len(there)} of them; or name the files in source.lists.")
    return next(iter(there.values()))


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LongTailError(f"The list {path} cannot be read ({error}).") from error
