"""`kedro run` as a user types it."""

import json
import signal
import time
from pathlib import Path

import pandas as pd
import pytest

from lt_pipeline.evaluation.predictions import Predictions
from lt_pipeline.training.checkpoint import load_checkpoint
from tests.e2e.conftest import Project, make_project

SHORT = "trainer.epochs_scale=0.15"  # 3 epochs of the digits recipe


def test_the_default_run_ends_in_a_table_and_a_report(project: Project) -> None:
    output = project.kedro("run", "--pipeline=ride", f"--params={SHORT}")
    assert "Warning" not in output
    assert "many" in output and "medium" in output and "few" in output
    folder = project.reporting("ride")
    assert f"Report: {folder / 'report.html'}" in output
    page = (folder / "report.html").read_text()
    assert "<script src" not in page and "Content-Security-Policy" in page
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


def test_kill_9_and_the_same_command_again_end_in_the_same_bits(project: Project) -> None:
    command = ["run", "--pipeline=ride"]
    whole = f"--params={SHORT},trainer.save_seconds=0,run=whole"
    project.kedro(*command, whole)
    cut = f"--params={SHORT},trainer.save_seconds=0,run=cut"
    process = project.start(*command, cut)
    state = project.model("ride", "experts", "seed0-cut").with_name("experts.training") / "state.safetensors"
    _wait_for(state)
    time.sleep(0.7)
    process.kill()
    process.wait()
    assert state.exists()
    assert "continues at step" in project.kedro(*command, cut)
    for stage in ("experts", "router"):
        first, second = (load_checkpoint(project.model("ride", stage, run)) for run in ("seed0-whole", "seed0-cut"))
        assert first.digest == second.digest
        assert first.record["history"] == second.record["history"]
    metrics = [(project.reporting("ride", run) / "metrics.json").read_bytes() for run in ("seed0-whole", "seed0-cut")]
    assert metrics[0] == metrics[1]


def test_sigterm_saves_and_exits_143(project: Project) -> None:
    command = ["run", "--pipeline=baseline", "--params=trainer.save_seconds=0,run=term"]
    process = project.start(*command)
    state = project.model("baseline", "classifier", "seed0-term").with_name("classifier.training") / "state.safetensors"
    _wait_for(state)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert state.exists()
    other = project.kedro("run", "--pipeline=baseline", "--params=run=term,baseline.classifier.optimizer.lr=0.01", code=1)
    assert "optimizer.lr: 0.05 before, 0.01 now" in other


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


def test_real_cifar_gives_the_published_subset(project: Project, shared_data: Path) -> None:
    project.kedro("run", "--pipeline=data", "--env=cifar100_lt", f"--params=source.root={shared_data}")
    split = pd.read_parquet(project.folder / "data/03_primary/cifar100_lt/exp100/split.parquet")
    assert (split["split"] == "train").sum() == 10_847
    assert (split["split"] == "test").sum() == 10_000


def _wait_for(path: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)
