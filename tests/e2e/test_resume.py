"""Interrupted runs end in the same bits."""

import signal
import time
from pathlib import Path

import pytest

from lt_pipeline.methods import METHODS
from lt_pipeline.training.checkpoint import load_checkpoint
from tests.e2e.conftest import Project

SHORT = {
    name: f"trainer.epochs_scale={scale}"
    for name, scale in (("ride", 0.15), ("shike", 0.15), ("mdcs", 0.05), ("apa", 0.05), ("sp2ot", 0.1))
}


@pytest.mark.parametrize(("method", "stages"), [(name, list(METHODS[name].stages)) for name in SHORT])
def test_kill_9_and_the_same_command_again_end_in_the_same_bits(project: Project, method: str, stages: list[str]) -> None:
    command = ["run", f"--pipeline={method}"]
    whole = f"--params={SHORT[method]},trainer.save_seconds=0,run=whole"
    output = project.kedro(*command, whole)
    assert "Warning" not in output
    assert f"Report: {project.reporting(method, 'seed0-whole') / 'report.html'}" in output
    cut = f"--params={SHORT[method]},trainer.save_seconds=0,run=cut"
    process = project.start(*command, cut)
    state = project.model(method, stages[0], "seed0-cut").with_name(f"{stages[0]}.training") / "state.safetensors"
    _wait_for(state)
    time.sleep(0.7)
    process.kill()
    process.wait()
    assert state.exists()
    assert "continues at step" in project.kedro(*command, cut)
    for stage in stages:
        first, second = (load_checkpoint(project.model(method, stage, run)) for run in ("seed0-whole", "seed0-cut"))
        assert first.digest == second.digest
        assert first.record["history"] == second.record["history"]
    metrics = [(project.reporting(method, run) / "metrics.json").read_bytes() for run in ("seed0-whole", "seed0-cut")]
    assert metrics[0] == metrics[1]


def test_a_later_stage_needs_the_checkpoint_of_the_one_before(project: Project) -> None:
    output = project.kedro("run", "--pipeline=shike", "--nodes=shike.train_classifier", "--params=run=alone", code=1)
    assert "No checkpoint at" in output and "representation" in output and "Traceback" not in output


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


def _wait_for(path: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)
