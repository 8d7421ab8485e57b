"""Clustering as a user types it: scores on labelled data, no labels at all, and clusters as the labels of a classifier."""

import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from lt_pipeline.training.checkpoint import load_checkpoint
from tests.e2e.conftest import Project


@pytest.mark.parametrize("method", ["p2ot", "sp2ot"])
def test_a_run_ends_in_assignments_scores_and_a_report(project: Project, method: str) -> None:
    output = project.kedro("run", f"--pipeline={method}", "--params=trainer.epochs_scale=0.1")
    folder = project.reporting(method)
    assert f"Report: {folder / 'report.html'}" in output
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {
        "macro_accuracy",
        "nmi",
        "ami",
        "ari",
        "macro_f1",
        "train/nmi",
        "k_means/nmi",
        "seed",
        "split_hash",
        "protocol",
    } <= metrics.keys()
    assert metrics["clusters"] == metrics["classes"] == 10
    page = (folder / "report.html").read_text()
    assert "Contact sheet" in page and "data:image/jpeg" in page and "<script src" not in page
    assignments = pd.read_parquet(project.folder / f"data/07_model_output/digits_lt/exp20/{method}/seed0/assignments.parquet")
    assert len(assignments) == metrics["train_images"] + metrics["test_images"]
    assert assignments["cluster"].between(0, 9).all()
    history = pd.read_parquet(folder / "history_clustering.parquet")
    assert {"score", "mass", "entropy", "loss/head_0"} <= set(history)
    checkpoint = load_checkpoint(project.model(method, "clustering"))
    assert set(checkpoint.selections) == {"last", "score"} and checkpoint.facts["data"]["train_counts"] == [0] * 10
    again = project.kedro("run", f"--pipeline={method}", "--params=trainer.epochs_scale=0.1")
    assert f"{method}.clustering is already trained" in again and "features of these images are known" in again


def test_images_without_labels_and_their_clusters_as_labels(project: Project, image_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    for path in image_folder.rglob("*.png"):
        Image.open(path).save(root / f"{path.parent.name[0]}{path.name}")
    source = f"source.root={root},source.label_column=null,source.image_size=16"
    method = "p2ot.model.backbone=pixels,p2ot.model.weights=null,p2ot.clustering.batch_size=8,p2ot.bank.batches=2"
    views = "{kind: pad_crop, padding: 1}"
    parameters = project.folder / "conf/my_images/parameters/p2ot.yml"
    text = parameters.read_text()
    parameters.write_text(
        "p2ot:\n  model: {train: heads}\n  clustering:\n    epochs: 5\n    optimizer: {kind: adam, lr: 0.01, weight_decay: 0.0}\n"
        f"    schedule: {{kind: cosine}}\n    sampler: {{kind: uniform, drop_last: true}}\n    views: [{views}, {views}]\n"
    )
    try:
        refused = project.kedro("run", "--pipeline=p2ot", "--env=my_images", f"--params={source},{method}", code=1)
        assert "p2ot.clusters" in refused and "no labels" in refused
        project.kedro("run", "--pipeline=p2ot", "--env=my_images", f"--params={source},{method},p2ot.clusters=3")
    finally:
        parameters.write_text(text)
    place = "my_images/natural"
    metrics = json.loads((project.reporting("p2ot", place=place) / "metrics.json").read_text())
    assert not metrics["labelled"] and "macro_accuracy" not in metrics and 0 <= metrics["clusters/entropy"] <= 1
    assert "Contact sheet" in (project.reporting("p2ot", place=place) / "report.html").read_text()
    assert "no labels" in refused
    table = project.folder / f"data/07_model_output/{place}/p2ot/seed0/assignments.parquet"
    project.kedro("run", "--pipeline=predict", "--env=my_images", f"--params=predict.images={root},predict.method=p2ot")
    answers = pd.read_csv(next((project.folder / "data/07_model_output/my_images").glob("predict/*/predictions.csv"))).set_index("image")
    assigned = pd.read_parquet(table).set_index("sample_id")["cluster"]
    assert len(assigned) and ("cluster " + assigned.astype(str) == answers["class"].loc[assigned.index]).all()

    unlabelled = project.kedro("run", "--pipeline=baseline", "--env=my_images", f"--params={source}", code=1)
    assert "learns from labels" in unlabelled
    labels = f"benchmark.labels={table},trainer.epochs_scale=0.02,run=clusters"
    project.kedro("run", "--pipeline=baseline", "--env=my_images", f"--params={source},{labels}")
    (learned,) = (project.folder / "data/08_reporting/my_images").glob("natural-labels*/baseline/seed0-clusters/metrics.json")
    per_class = pd.read_parquet(learned.with_name("per_class.parquet"))
    assert set(per_class["name"]) <= {"0", "1", "2"}
    assert per_class["train_count"].sum() == (pd.read_parquet(table)["split"] == "train").sum()


def test_more_clusters_than_images_is_one_sentence(project: Project) -> None:
    output = project.kedro("run", "--pipeline=p2ot", "--params=p2ot.clusters=2000,run=many", code=1)
    assert "407 training images cannot make 2000 clusters" in output and "Traceback" not in output
