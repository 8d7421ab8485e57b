"""`kedro run` as a user types it."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from lt_pipeline.evaluation.predictions import Predictions
from lt_pipeline.training.checkpoint import load_checkpoint
from tests.e2e.conftest import Project

SHORT = "trainer.epochs_scale=0.15"  # 3 epochs of the digits recipe


def test_the_default_run_ends_in_a_table_and_a_report(project: Project) -> None:
    output = project.kedro("run", "--pipeline=ride", f"--params={SHORT}")
    assert "Warning" not in output
    assert "many" in output and "medium" in output and "few" in output
    folder = project.reporting("ride")
    assert f"Report: {folder / 'report.html'}" in output
    page = (folder / "report.html").read_text()
    assert "<script src" not in page and "Content-Security-Policy" in page
    for stage in ("experts</th><td>3", "router</th><td>1"):
        assert re.search(stage + r"</td><td>[0-9.]+ s</td><td>[0-9,]+</td>", page)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {"accuracy/all", "accuracy/few", "ece", "nll", "brier", "seed", "split_hash", "protocol"} <= metrics.keys()
    assert metrics["protocol"] == "last epoch"
    predictions = Predictions.from_parquet(project.folder / "data/07_model_output/digits_lt/exp20/ride/seed0/predictions/last.parquet")
    assert predictions.facts["split_hash"] == metrics["split_hash"]
    assert (predictions.logits.argmax(1) == predictions.labels).mean() == pytest.approx(metrics["accuracy/all"])
    history = pd.read_parquet(folder / "history_experts.parquet")
    assert list(history["epoch"]) == [1, 2, 3]
    assert {"loss/base", "loss/diversity", "lr"} <= set(history)
    assert load_checkpoint(project.model("ride", "router")).facts["fingerprint"]["previous"] == {
        "experts": load_checkpoint(project.model("ride", "experts")).digest
    }
    assert not list(project.model("ride", "experts").parent.rglob("state.safetensors"))

    before = (folder / "metrics.json").read_bytes()
    again = project.kedro("run", "--pipelines=ride", f"--params={SHORT}")
    assert "ride.experts is already trained" in again
    assert (folder / "metrics.json").read_bytes() == before


def test_the_same_seed_gives_identical_artefacts_and_another_does_not(project: Project) -> None:
    for run in ("one", "two"):
        project.kedro("run", "--pipeline=baseline", f"--params={SHORT},run={run}")
    project.kedro("run", "--pipeline=baseline", f"--params={SHORT},seed=1")
    one, two, other = (load_checkpoint(project.model("baseline", "classifier", run)) for run in ("seed0-one", "seed0-two", "seed1"))
    assert one.digest == two.digest != other.digest
    for name in ("metrics.json", "history_classifier.parquet", "per_class.parquet"):
        assert (project.reporting("baseline", "seed0-one") / name).read_bytes() == (
            project.reporting("baseline", "seed0-two") / name
        ).read_bytes()
    board = project.kedro("run", "--pipeline=compare", code=1)
    assert "seed" in board  # two runs of one seed are not two samples


def test_distillation_trains_a_teacher_first(project: Project) -> None:
    project.kedro("run", "--pipeline=ride_distilled", "--params=trainer.epochs_scale=0.05,ride_distilled.distillation.teacher_experts=2")
    history = pd.read_parquet(project.reporting("ride_distilled") / "history_experts.parquet")
    assert "loss/distillation" in history
    assert load_checkpoint(project.model("ride_distilled", "teacher")).facts["stage"] == "teacher"


@pytest.mark.parametrize("kind", ["ldam_drw", "balanced_softmax", "logit_adjustment"])
def test_the_baselines_train(project: Project, kind: str) -> None:
    project.kedro("run", "--pipeline=baseline", f"--params=trainer.epochs_scale=0.05,run={kind},baseline.loss.kind={kind}")
    metrics = json.loads((project.reporting("baseline", f"seed0-{kind}") / "metrics.json").read_text())
    assert metrics["method"] == kind


def test_selection_on_validation_and_on_test_stand_beside_the_last_epoch(project: Project) -> None:
    place = "digits_lt/exp20-val0.2-seed0"
    project.kedro(
        "run",
        "--pipeline=baseline",
        f"--params={SHORT},benchmark.validation_fraction=0.2,protocol.select_on_validation=true,protocol.select_on_test=true",
    )
    metrics = json.loads((project.reporting("baseline", place=place) / "metrics.json").read_text())
    assert metrics["selections"] == ["last epoch", "chosen on validation", "best on test"]
    assert metrics["best on test/accuracy/all"] >= metrics["accuracy/all"]
    history = pd.read_parquet(project.reporting("baseline", place=place) / "history_classifier.parquet")
    assert history["test/accuracy"].max() == pytest.approx(metrics["best on test/accuracy/all"])


def test_real_cifar_gives_the_published_subset(project: Project, shared_data: Path) -> None:
    project.kedro("run", "--pipeline=data", "--env=cifar100_lt", f"--params=source.root={shared_data}")
    split = pd.read_parquet(project.folder / "data/03_primary/cifar100_lt/exp100/split.parquet")
    assert (split["split"] == "train").sum() == 10_847
    assert (split["split"] == "test").sum() == 10_000
