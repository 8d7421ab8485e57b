"""Teacher and student from the command line, whole and cut off in either stage."""

import json
import time

import pandas as pd
import pytest

from lt_pipeline.evaluation.predictions import Predictions
from lt_pipeline.training.checkpoint import load_checkpoint
from tests.e2e.conftest import Project
from tests.e2e.test_resume import _wait_for

SHORT = "trainer.epochs_scale=0.07,trainer.save_seconds=0,deit_lt.student.distillation.teacher_accuracy=0"


@pytest.fixture(scope="module")
def whole(project: Project) -> str:
    """The output of an uninterrupted run."""
    return project.kedro("run", "--pipeline=deit_lt", f"--params={SHORT},run=whole")


def test_both_stages_run_and_the_report_tells_the_tokens_apart(project: Project, whole: str) -> None:
    assert "CLS token" in whole and "DIST token" in whole and "Warning" not in whole
    assert "student: 12 steps an epoch" in whole and "of 407 clean training images right" in whole
    folder = project.reporting("deit_lt", "seed0-whole")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["expert_names"] == ["CLS token", "DIST token"] and {"expert_0/accuracy/few", "expert_1/accuracy/few"} <= metrics.keys()
    history = pd.read_parquet(folder / "history_student.parquet")
    assert {"loss/class_token", "loss/distillation_token", "token_similarity", "teacher_accuracy"} <= set(history)
    page = (folder / "report.html").read_text()
    assert "Heads look" in page and "needs" in page and "disagree on" in page
    predictions = Predictions.from_parquet(
        project.folder / "data/07_model_output/digits_lt/exp20/deit_lt/seed0-whole/predictions/last.parquet"
    )
    assert (predictions.logits == predictions.expert_logits.mean(0)).mean() > 0.99
    student = load_checkpoint(project.model("deit_lt", "student", "seed0-whole"))
    assert student.facts["fingerprint"]["previous"] == {
        "teacher": load_checkpoint(project.model("deit_lt", "teacher", "seed0-whole")).digest
    }
    assert student.facts["data"]["mean"] == [0.485, 0.456, 0.406]


def test_kill_9_in_both_stages(project: Project, whole: str) -> None:
    command = ["run", "--pipeline=deit_lt", f"--params={SHORT},run=cut"]
    for stage in ("teacher", "student"):
        process = project.start(*command)
        _wait_for(project.model("deit_lt", stage, "seed0-cut").with_name(f"{stage}.training") / "state.safetensors", 300)
        time.sleep(0.2)
        process.kill()
        process.wait()
    output = project.kedro(*command)
    assert "deit_lt.teacher is already trained" in output and "deit_lt.student continues at step" in output
    for name in ("teacher", "student"):
        first, second = (load_checkpoint(project.model("deit_lt", name, run)) for run in ("seed0-whole", "seed0-cut"))
        assert first.digest == second.digest and first.record["history"] == second.record["history"]


def test_another_student_reuses_the_teacher(project: Project, whole: str) -> None:
    output = project.kedro("run", "--pipeline=deit_lt", f"--params={SHORT[:-1]}1,run=whole", code=1)
    assert "deit_lt.teacher is already trained" in output
    assert "teacher_accuracy sets the bar" in output and "Traceback" not in output
