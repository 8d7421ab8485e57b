"""Metadata through the command line: a table beside a folder of images, training, prediction with it and without, and what a user gets wrong."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lt_pipeline.data.config import SourceConfig
from lt_pipeline.data.metadata_config import MetadataConfig
from lt_pipeline.errors import LongTailError
from lt_pipeline.parameters import PredictConfig
from lt_pipeline.pipelines.predict.nodes import predict_folder
from lt_pipeline.training.checkpoint import load_checkpoint
from lt_pipeline.training.config import TrainerConfig
from tests.e2e.conftest import Project, make_project
from tests.e2e.test_bad_input import refused

STAGE, PLACE = "classifier", "my_images/natural"
METADATA = """
metadata:
  table: {table}
  groups:
    - {{kind: location, latitude: lat, longitude: lon}}
    - {{kind: categorical, name: light, columns: [light]}}
  report_by: [light]
"""
NETWORK = """
metaformer:
  model: {kind: timm, timm: {backbone: resnet32}}
  loss: {mixup: 0.0, cutmix: 0.0}
  classifier:
    epochs: 2
    batch_size: 16
    sampler: {drop_last: false}
    schedule: {kind: cosine}
    views: [{kind: pad_crop, padding: 1}]
"""


@pytest.fixture(scope="module")
def known(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is known about each image of the folder: a place, and for most the light, which is the class."""
    files = sorted(path.relative_to(image_folder).as_posix() for path in image_folder.rglob("*.png"))
    generator = np.random.default_rng(0)
    table = pd.DataFrame({"image": files, "lat": generator.uniform(-80, 80, len(files)), "lon": generator.uniform(-170, 170, len(files))})
    table["light"] = [file.split("/")[0] if number % 5 else None for number, file in enumerate(files)]
    path = tmp_path_factory.mktemp("known") / "known.csv"
    table.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, image_folder: Path, known: Path) -> Project:
    project = make_project(tmp_path_factory.mktemp("metadata") / "project")
    folder = project.folder / "conf/my_images/parameters"
    (folder / "metaformer.yml").write_text(NETWORK)
    (folder / "metadata.yml").write_text(METADATA.format(table=known))
    project.kedro("run", "--pipeline=metaformer", "--env=my_images", f"--params=source.root={image_folder},source.image_size=16")
    return project


def answers(project: Project, images: Path, method: str = "metaformer", **predict: object) -> pd.DataFrame:
    """What the node of the predict pipeline returns."""
    checkpoint = load_checkpoint(project.model(method, STAGE, place=PLACE))
    settings = PredictConfig.model_validate({"images": str(images), **predict})
    return predict_folder(checkpoint, settings, SourceConfig(), MetadataConfig(), TrainerConfig(device="cpu", threads=1))[0]


def test_the_report_says_what_they_bring_and_for_whom(trained: Project) -> None:
    folder = trained.reporting("metaformer", place=PLACE)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {f"metadata/{part}/accuracy/all" for part in ("none", "only location", "only light")} <= set(metrics)
    assert {"by/light/bright/accuracy", "by/light/bright/accuracy_without"} <= set(metrics)
    page = (folder / "report.html").read_text()
    assert "For whom" in page and "metadata shown" in page
    groups = load_checkpoint(trained.model("metaformer", STAGE, place=PLACE)).facts["data"]["metadata"]
    assert [(group["declared"]["name"], group["width"]) for group in groups] == [("location", 3), ("light", 3)]


def test_prediction_takes_the_same_columns_or_none(
    trained: Project, image_folder: Path, known: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = trained.model("metaformer", STAGE, place=PLACE)
    params = f"predict.images={image_folder},predict.checkpoint={checkpoint},predict.metadata={known}"
    trained.kedro("run", "--pipeline=predict", "--env=my_images", f"--params={params}")
    with_some = pd.read_parquet(trained.folder / "data/07_model_output/my_images/predict/seed0/predictions.parquet")
    pd.testing.assert_frame_equal(with_some, answers(trained, image_folder, metadata=str(known)), check_exact=False, rtol=1e-4)
    with caplog.at_level("INFO"):
        without = answers(trained, image_folder)
    assert "from pixels alone" in caplog.text
    assert list(with_some["image"]) == list(without["image"]) and len(without) == 48
    assert not np.allclose(with_some["probability"], without["probability"])


def test_what_does_not_fit_is_said(trained: Project, tmp_path: Path, image_folder: Path, known: Path) -> None:
    table = pd.read_csv(known)
    for name, changed, sentence in (
        ("column", table.drop(columns="lat"), "group 'location' wants the column 'lat'"),
        ("place", table.assign(lat=95.0), "'lat' holds '95.0' in the row of 'bright/0.png'; allowed is a number from -90 to 90"),
        ("images", table.assign(image="x" + table["image"]), "knows none of the images"),
    ):
        changed.to_csv(tmp_path / f"{name}.csv", index=False)
        with pytest.raises(LongTailError, match=sentence):
            answers(trained, image_folder, metadata=str(tmp_path / f"{name}.csv"))
    assert len(answers(trained, image_folder, metadata=str(tmp_path / "place.csv"), on_bad_value="missing")) == 48
    with pytest.raises(LongTailError, match=r"predict\.text_files names 'captions'; the network's groups of texts are none"):
        answers(trained, image_folder, text_files={"captions": ("a", "b")})
    data = ["--pipeline=data", "--env=my_images"]
    assert "has no column 'file' to find the images by" in refused(
        trained, *data, f"--params=source.root={image_folder},source.image_size=16,metadata.key=file"
    )


def test_methods_of_pixels_alone_work_beside_metadata(trained: Project, image_folder: Path, known: Path) -> None:
    params = f"source.root={image_folder},source.image_size=16,trainer.epochs_scale=0.02"
    trained.kedro("run", "--pipeline=baseline", "--env=my_images", f"--params={params}")
    metrics = json.loads((trained.reporting("baseline", place=PLACE) / "metrics.json").read_text())
    assert "by/light/bright/accuracy" in metrics and not any(key.startswith("metadata/") for key in metrics)
    assert load_checkpoint(trained.model("baseline", STAGE, place=PLACE)).facts["data"]["metadata"] == []
    with pytest.raises(LongTailError, match="this network was trained on pixels alone"):
        answers(trained, image_folder, "baseline", metadata=str(known))
