"""MetaFormer: metadata, data sets as published, the test-time transform. ``COMPONENTS`` is merged into the method's adapter."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.io import savemat
from torch import Tensor
from torch.utils.data import BatchSampler, DistributedSampler

from lt_pipeline.augment.config import TimmCropView
from lt_pipeline.augment.decoded import EvaluationView
from lt_pipeline.augment.normalise import Normalise
from lt_pipeline.data.metadata import encode_metadata, fit_metadata
from lt_pipeline.data.metadata_config import MetadataConfig, MetadataGroup
from lt_pipeline.data.sources import aircraft, birds, inaturalist, matlab
from lt_pipeline.evaluation.accuracy import top_k_accuracy

Params = dict[str, Any]
Tensors = dict[str, Tensor]
TIME = {"kind": "time", "name": "date"}
PLACE = {"kind": "location", "name": "location"}
FOLDERS = {"cub200": "CUB_200_2011", "nabirds": "nabirds", "aircraft": "fgvc-aircraft-2013b/data"}


def encoded(frame: pd.DataFrame, *groups: dict[str, Any]) -> Tensor:
    """What the network sees of a table: NaN, which is missing, becomes zero there."""
    config = MetadataConfig.model_validate({"groups": groups, "on_bad_value": "missing"})
    fitted = tuple(MetadataGroup(declared=group, width=width(group), columns=group.columns) for group in config.groups)
    return torch.from_numpy(np.nan_to_num(encode_metadata(frame, fitted), nan=0.0))


def width(group: Any) -> int:
    return 3 if group.kind == "location" else 2 * len(group.periods)


def table(rows: int, **columns: Any) -> pd.DataFrame:
    return pd.DataFrame(
        {"sample_id": [f"row {row}" for row in range(rows)], **{f"meta.{name}": values for name, values in columns.items()}}
    )


def spatial_encoding(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    frame = table(len(tensors["in.lat"]), latitude=tensors["in.lat"].numpy(), longitude=tensors["in.lon"].numpy())
    return {"xyz": encoded(frame, {**PLACE, "zero_is_missing": params.get("quirk") == "official"})}


def temporal_encoding(params: Params, _: Tensors) -> dict[str, Tensor]:
    frame = table(len(params["dates"]), date=pd.Series(params["dates"], dtype=object))
    return {"encoding": encoded(frame, published_time(params["date_only"]))}


def published_time(date_only: bool) -> dict[str, Any]:
    return {**TIME, "reading": "published_days" if date_only else "published"}


def meta_vector(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    frame = table(
        len(params["dates"]),
        date=pd.Series(params["dates"], dtype=object),
        latitude=tensors["in.lat"].numpy(),
        longitude=tensors["in.lon"].numpy(),
    )
    return {"meta": encoded(frame, published_time(params["date_only"]), {**PLACE, "zero_is_missing": params.get("quirk") == "official"})}


def cub_attributes(params: Params, _: Tensors) -> dict[str, Tensor]:
    present = birds.attributes(params["lines"], params["num_images"])
    frame = table(len(present), attributes=list(present))
    group = MetadataConfig.model_validate({"groups": [{"kind": "attributes"}]})
    vectors = encode_metadata(frame, fit_metadata(frame, group))
    assert np.array_equal(vectors, present)
    return {"attributes": torch.from_numpy(present.astype(np.int64))}


def manifest(params: Params, _: Tensors) -> dict[str, Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, content in params["files"].items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(content if isinstance(content, str) else json.dumps(content))
        rows, prefix = annotated(params, root)
    rows = rows[rows["split"] == params["split"]]
    if "expected_paths" in params:
        assert [prefix + file for file in rows["file"]] == params["expected_paths"]
    meta = (
        encoded(rows, published_time(params["dataset"] == "inat2017"), {**PLACE, "zero_is_missing": True}) if params["with_meta"] else None
    )
    return {"targets": torch.from_numpy(rows["label"].to_numpy(copy=True)), **({"meta": meta} if meta is not None else {})}


def annotated(params: Params, root: Path) -> tuple[pd.DataFrame, str]:
    """The table of a data set in its published layout, and the folder that its files are relative to."""
    name = params["dataset"]
    if name.startswith("inat"):
        return inaturalist.annotations(root, inaturalist.published_lists(root)), ""
    if name == "cars":
        write_cars(root, params["annotations"])
        return matlab.cars(root), ""
    folder = FOLDERS[name]
    if name == "aircraft":
        return aircraft.annotations(root / folder), f"{folder}/"
    return birds.annotations(root / folder, ranked=name == "nabirds"), f"{folder}/"


def write_cars(root: Path, annotations: list[list[Any]]) -> None:
    fields = [("relative_im_path", object), ("bbox_x1", object), ("class", object), ("test", object)]
    entries = np.zeros((1, len(annotations)), fields)
    for place, (path, number, test) in enumerate(annotations):
        entries[0, place] = (path, 1, number, test)
    savemat(root / "cars_annos.mat", {"annotations": entries})


def eval_transform(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    size = params["image_size"]
    view = TimmCropView(size=size, test_resize=int(256 / 224 * size), interpolation=params["interpolation"])
    assert params["crop"] and view.test_resize == params["resize"]
    pixels = EvaluationView(view)(tensors["in.image"].numpy())
    return {"tensor": Normalise(params["mean"], params["std"])(pixels[None])[0]}


def loader_counts(params: Params, _: Tensors) -> dict[str, Tensor]:
    """The published loader is torch's own sampler; our engine deals whole global batches to the ranks instead and repeats no image."""
    size, world, batch = params["dataset_size"], params["world_size"], params["batch_size"]
    shards = [list(range(size))[rank::world] for rank in range(world)]
    samplers = [DistributedSampler(range(size), world, rank) for rank in range(world)]
    return {
        "train_batches": torch.tensor([len(BatchSampler(sampler, batch, drop_last=True)) for sampler in samplers]),
        "eval_batches": torch.tensor([len(BatchSampler(shard, batch, drop_last=False)) for shard in shards]),
        "eval_coverage": torch.bincount(torch.tensor([image for shard in shards for image in shard]), minlength=size),
    }


def topk_accuracy(_: Params, tensors: Tensors) -> dict[str, Any]:
    logits, labels = tensors["in.logits"].numpy(), tensors["in.labels"].numpy()
    shares = {f"top{k}": 100 * top_k_accuracy(logits, labels, k) for k in (1, 5)}
    return {name: torch.tensor(share, dtype=torch.float32) for name, share in shares.items()}


COMPONENTS = {
    "metaformer.spatial_encoding": spatial_encoding,
    "metaformer.temporal_encoding": temporal_encoding,
    "metaformer.meta_vector": meta_vector,
    "metaformer.cub_attributes": cub_attributes,
    "metaformer.manifest": manifest,
    "metaformer.eval_transform": eval_transform,
    "metaformer.loader_counts": loader_counts,
    "metaformer.topk_accuracy": topk_accuracy,
}
NOT_IMPLEMENTED: dict[str, str] = {}
