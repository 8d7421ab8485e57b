"""A user's own images, small and large, and several processes."""

from pathlib import Path

import pandas as pd
import pytest

from lt_pipeline.training.checkpoint import load_checkpoint
from tests.e2e.conftest import Project, make_project


def test_the_users_own_images_train_and_predict(project: Project, image_folder: Path) -> None:
    project.kedro(
        "run", "--pipeline=ride", "--env=my_images", f"--params=source.root={image_folder},source.image_size=16,trainer.epochs_scale=0.07"
    )
    checkpoint = project.model("ride", "router", place="my_images/natural")
    project.kedro("run", "--pipeline=predict", f"--params=predict.images={image_folder / 'dark'},predict.checkpoint={checkpoint}")
    table = pd.read_csv(project.folder / "data/07_model_output/digits_lt/predict/seed0/predictions.csv")
    assert len(table) == 12
    assert set(table["class"]) <= {"bright", "dark", "grey"}
    assert table["probability"].between(1 / 3, 1).all()
    assert table["experts_used"].between(1, 3).all()
    assert (table["gmacs"] > 0).all()


def test_large_images_are_decoded_while_training(tmp_path: Path, image_folder: Path) -> None:
    project = make_project(tmp_path / "project")
    view = "{kind: resized_crop, size: 32, test_resize: 36, color_jitter: [0.2, 0.2, 0.2, 0.0]}"
    (project.folder / "conf/my_images/parameters/baseline.yml").write_text(
        "baseline:\n  model: {backbone: resnet10}\n"
        f"  classifier: {{epochs: 1, batch_size: 16, schedule: {{kind: cosine}}, views: [{view}]}}\n"
    )
    (project.folder / "conf/my_images/parameters/data.yml").write_text("source: {kind: folder}\nbenchmark: {name: my_images}\n")
    digests = set()
    for workers in (0, 2):
        run = f"workers{workers}"
        project.kedro(
            "run", "--pipeline=baseline", "--env=my_images", f"--params=source.root={image_folder},trainer.workers={workers},run={run}"
        )
        digests.add(load_checkpoint(project.model("baseline", "classifier", f"seed0-{run}", "my_images/natural")).digest)
    assert len(digests) == 1
    assert (project.folder / "data/02_intermediate/my_images/images/images.json").exists()


@pytest.mark.slow
def test_two_ranks_through_the_command_line(project: Project) -> None:
    project.kedro("run", "--pipeline=baseline", "--params=trainer.epochs_scale=0.05,trainer.processes=2,run=ranks")
    timing = load_checkpoint(project.model("baseline", "classifier", "seed0-ranks")).record["timing"]
    assert timing["processes"] == 2
