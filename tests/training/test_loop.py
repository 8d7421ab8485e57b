import dataclasses
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from lt_pipeline.errors import LongTailError
from lt_pipeline.training.checkpoint import state_digest
from lt_pipeline.training.config import MultistepSchedule, OptimizerConfig, SamplerConfig
from lt_pipeline.training.loop import Job, Result, train
from lt_pipeline.training.state import Workspace
from tests.training.toy import BALANCED, RecallTask, toy_images, toy_job


def digest(result: Result) -> str:
    return state_digest(result.selections["last"])


def test_the_loss_goes_down_and_history_has_a_row_an_epoch(tmp_path: Path) -> None:
    result = train(toy_job(tmp_path / "s", stage={"epochs": 8}))
    losses = [row["loss"] for row in result.history]
    assert len(losses) == 8
    assert losses[-1] < losses[0] * 0.9
    row = result.history[0]
    assert row["loss"] == pytest.approx(row["loss/classification"] + row["loss/decay"])
    assert [r["epoch"] for r in result.history] == list(range(1, 9))
    assert result.timing["steps_per_epoch"] == 6


def test_same_seed_same_bits_other_seed_other_bits(tmp_path: Path) -> None:
    first, second = train(toy_job(tmp_path / "a")), train(toy_job(tmp_path / "b"))
    assert digest(first) == digest(second)
    assert first.history == second.history
    other = train(dataclasses.replace(toy_job(tmp_path / "c"), seed=1))
    assert digest(other) != digest(first)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "stage",
    [
        {},
        {"sampler": BALANCED},
        {"sampler": SamplerConfig(kind="repeated"), "accumulate": 2},
        {"ema_decay": 0.9, "optimizer": OptimizerConfig(kind="adamw", lr=1e-2, clip_norm=1.0)},
        {"accumulate": 2, "optimizer": OptimizerConfig(lr=0.05, sam_rho=0.1, sam_milestones=(1,), sam_rhos=(0.3,))},
    ],
    ids=["uniform", "balanced", "repeated-accumulated", "adamw-average", "sharpness-aware"],
)
@pytest.mark.parametrize("step", [1, 6, 9])
def test_an_interrupted_run_ends_in_the_same_bits(tmp_path: Path, precision: str, stage: dict[str, Any], step: int) -> None:
    trainer = {"precision": precision}
    whole = train(toy_job(tmp_path / "whole", {"dropout": 0.2}, stage, trainer))
    with pytest.raises(KeyboardInterrupt):
        train(toy_job(tmp_path / "cut", {"dropout": 0.2, "kill_step": step}, stage, trainer))
    resumed = train(toy_job(tmp_path / "cut", {"dropout": 0.2}, stage, trainer))
    assert digest(resumed) == digest(whole)
    assert resumed.history == whole.history


@pytest.mark.parametrize("step", [0, 4, 9])
def test_memory_is_filled_before_the_first_step_and_survives_a_kill(tmp_path: Path, step: int) -> None:
    def job(folder: str, kill_step: int = -1) -> Job:
        return dataclasses.replace(toy_job(tmp_path / folder), build=partial(RecallTask, kill_step))

    whole = train(job("whole"))
    with pytest.raises(KeyboardInterrupt):
        train(job("cut", step))
    resumed = train(job("cut"))
    assert digest(resumed) == digest(whole)
    assert resumed.history == whole.history
    assert not any(name.startswith("memory") for name in whole.selections["last"])


def test_the_epoch_with_the_lowest_score_is_kept_beside_the_last(tmp_path: Path) -> None:
    steady = {"schedule": MultistepSchedule(milestones=(), warmup_epochs=0)}
    job = dataclasses.replace(toy_job(tmp_path / "s", stage=steady), build=RecallTask)
    result = train(job)
    assert [row["score"] for row in result.history] == [1.0, 0.0, 1.0]
    assert state_digest(result.selections["score"]) != digest(result)
    shorter = dataclasses.replace(job, workspace=Workspace(tmp_path / "two"), stage=job.stage.model_copy(update={"epochs": 2}))
    assert digest(train(shorter)) == state_digest(result.selections["score"])


def test_the_last_incomplete_batch_can_be_left_out(tmp_path: Path) -> None:
    result = train(toy_job(tmp_path / "s", stage={"sampler": SamplerConfig(drop_last=True)}))
    assert result.timing["steps_per_epoch"] == 5
    assert result.timing["images"] == 150
    with pytest.raises(LongTailError, match="53 images an epoch, less than one batch of 60"):
        train(toy_job(tmp_path / "t", stage={"batch_size": 60, "sampler": SamplerConfig(drop_last=True)}))


def test_a_finished_stage_is_not_trained_again(tmp_path: Path) -> None:
    first = train(toy_job(tmp_path / "s"))
    again = train(toy_job(tmp_path / "s", {"kill_step": 0}))
    assert digest(first) == digest(again)
    with pytest.raises(KeyboardInterrupt):
        train(toy_job(tmp_path / "s", {"kill_step": 0}, trainer={"resume": "never"}))


def test_other_settings_do_not_continue_an_unfinished_run(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(toy_job(tmp_path / "s", {"kill_step": 4}))
    with pytest.raises(LongTailError, match=r"optimizer\.lr: 0\.05 before, 0\.01 now"):
        train(toy_job(tmp_path / "s", stage={"optimizer": OptimizerConfig(lr=0.01)}))
    train(toy_job(tmp_path / "s", stage={"optimizer": OptimizerConfig(lr=0.01)}, trainer={"resume": "never"}))


def test_accumulated_steps_equal_one_large_batch(tmp_path: Path) -> None:
    plain = {"norm": False}
    stage = {"views": (toy_job(tmp_path).stage.views[0].model_copy(update={"padding": 0, "flip": 0.0}),)}
    large = train(toy_job(tmp_path / "large", plain, stage))
    small = train(toy_job(tmp_path / "small", plain, stage | {"accumulate": 4}))
    for name, tensor in large.selections["last"].items():
        torch.testing.assert_close(small.selections["last"][name], tensor, rtol=1e-5, atol=1e-6)
    assert small.history[-1]["loss/classification"] == pytest.approx(large.history[-1]["loss/classification"], rel=1e-5)


def test_a_last_batch_smaller_than_the_parts_still_trains(tmp_path: Path) -> None:
    job = toy_job(tmp_path / "s", {"norm": False}, {"batch_size": 13, "accumulate": 4})  # 53 = 4 * 13 + 1
    assert train(job).timing["steps_per_epoch"] == 5


def test_a_non_finite_loss_names_term_and_step_and_keeps_the_state(tmp_path: Path) -> None:
    job = toy_job(tmp_path / "s", {"bad_step": 7})
    with pytest.raises(LongTailError, match=r"term 'decay' at step 8 \(epoch 2\)"):
        train(job)
    state = job.workspace.load()
    assert state is not None
    assert state.facts["step"] == 7
    assert all(torch.isfinite(tensor).all() for tensor in state.tensors.values() if tensor.is_floating_point())
    assert digest(train(toy_job(tmp_path / "s"))) == digest(train(toy_job(tmp_path / "whole")))


def test_sigterm_saves_within_a_step_and_exits_143(tmp_path: Path) -> None:
    whole = train(toy_job(tmp_path / "whole", stage={"epochs": 60}))
    job = toy_job(tmp_path / "s", stage={"epochs": 60}, trainer={"save_seconds": 1e6})
    threading.Timer(0.25, os.kill, (os.getpid(), signal.SIGTERM)).start()
    start = time.monotonic()
    with pytest.raises(SystemExit) as stop:
        train(job)
    assert stop.value.code == 143
    assert time.monotonic() - start < 20
    state = job.workspace.load()
    assert state is not None
    assert 0 < state.facts["step"] < 360
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert digest(train(dataclasses.replace(job))) == digest(whole)


def test_monitors_keep_the_best_epoch(tmp_path: Path) -> None:
    job = dataclasses.replace(toy_job(tmp_path / "s", stage={"epochs": 5}), monitors={"validation": toy_images(40, seed=1)})
    result = train(job)
    scores = [row["validation/accuracy"] for row in result.history]
    assert len(scores) == 5
    assert set(result.selections) == {"last", "validation"}
    same = digest(result) == state_digest(result.selections["validation"])
    assert same == (scores.index(max(scores)) == 4)


def test_monitoring_does_not_change_what_is_learned(tmp_path: Path) -> None:
    watched = train(dataclasses.replace(toy_job(tmp_path / "a"), monitors={"validation": toy_images(40, seed=1)}))
    assert digest(watched) == digest(train(toy_job(tmp_path / "b")))


@pytest.mark.slow
def test_two_ranks_learn_what_one_process_learns(tmp_path: Path) -> None:
    stage = {"views": (toy_job(tmp_path).stage.views[0].model_copy(update={"padding": 0, "flip": 0.0}),), "epochs": 2}
    one = train(toy_job(tmp_path / "one", {"norm": False}, stage))
    two = train(toy_job(tmp_path / "two", {"norm": False}, stage, {"processes": 2}))
    for name, tensor in one.selections["last"].items():
        torch.testing.assert_close(two.selections["last"][name], tensor, rtol=1e-5, atol=1e-6)
    assert two.history[-1]["loss/classification"] == pytest.approx(one.history[-1]["loss/classification"], rel=1e-5)
    assert two.timing["processes"] == 2


@pytest.mark.slow
def test_a_failing_rank_fails_the_run_in_words(tmp_path: Path) -> None:
    with pytest.raises(LongTailError, match="term 'decay' at step 3"):
        train(toy_job(tmp_path / "s", {"bad_step": 2}, trainer={"processes": 2}))
