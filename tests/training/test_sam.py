import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lt_pipeline.errors import LongTailError
from lt_pipeline.training.checkpoint import state_digest
from lt_pipeline.training.clock import Clock
from lt_pipeline.training.config import OptimizerConfig, scale_epochs
from lt_pipeline.training.loop import train
from lt_pipeline.training.sam import at_worst_neighbour, sam_radius, statistics_held
from tests.training.toy import ToyTask, toy_job


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_neighbour_lies_at_the_radius_where_the_loss_is_higher_and_the_weights_come_back(adaptive: bool) -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 3).double()
    inputs, labels = torch.randn(8, 5).double(), torch.arange(8) % 3
    before = [parameter.detach().clone() for parameter in model.parameters()]

    def loss() -> torch.Tensor:
        return F.cross_entropy(model(inputs), labels)

    first = loss()
    first.backward()
    with at_worst_neighbour(list(model.parameters()), 0.05, adaptive):
        shift = torch.cat(
            [((after - old) / (old.abs() if adaptive else 1)).flatten() for after, old in zip(model.parameters(), before, strict=True)]
        )
        assert shift.norm().item() == pytest.approx(0.05, rel=1e-9)
        assert loss() > first
        assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(after, old) for after, old in zip(model.parameters(), before, strict=True))


def test_statistics_stay_inside_the_block_only() -> None:
    norm = nn.BatchNorm1d(2)
    with statistics_held(nn.Sequential(norm)):
        norm(torch.randn(4, 2))
    assert norm.running_mean is not None and not norm.running_mean.any() and norm.num_batches_tracked == 0
    norm(torch.randn(4, 2))
    assert norm.running_mean.any()


def test_the_radius_follows_the_epochs() -> None:
    config = OptimizerConfig(sam_rho=0.05, sam_milestones=(5, 60), sam_rhos=(0.1, 0.5))
    assert [sam_radius(config, Clock(epoch, 1, 90)) for epoch in (0, 4, 5, 59, 60)] == [0.05, 0.05, 0.1, 0.1, 0.5]
    assert scale_epochs(config, 0.2).sam_milestones == (1, 12)
    assert scale_epochs(config, 0.2).sam_rhos == (0.1, 0.5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sam_milestones": (5,)},
        {"sam_milestones": (9, 5), "sam_rhos": (0.1, 0.2)},
        {"sam_rho": -1},
        {"sam_milestones": (1,), "sam_rhos": (-1,)},
    ],
)
def test_contradictions_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="sam_"):
        OptimizerConfig.model_validate(wrong)


def test_half_precision_with_scaled_gradients_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LongTailError, match="sam_rho"):
        train(toy_job(tmp_path, stage={"optimizer": OptimizerConfig(sam_rho=0.1)}, trainer={"precision": "fp16"}))


def test_the_loop_takes_two_passes_over_the_whole_step(tmp_path: Path) -> None:
    """Accumulated, the step is that of the whole batch: one ascent along the gradient of all parts, one descent."""
    still = toy_job(tmp_path).stage.views[0].model_copy(update={"padding": 0, "flip": 0.0})
    stage = {"views": (still,), "optimizer": OptimizerConfig(lr=0.05, sam_rho=0.2)}
    large = train(toy_job(tmp_path / "large", {"norm": False}, stage))
    small = train(toy_job(tmp_path / "small", {"norm": False}, stage | {"accumulate": 4}))
    plain = train(toy_job(tmp_path / "plain", {"norm": False}, stage | {"optimizer": OptimizerConfig(lr=0.05)}))
    for name, tensor in large.selections["last"].items():
        torch.testing.assert_close(small.selections["last"][name], tensor, rtol=1e-5, atol=1e-6)
    assert state_digest(plain.selections["last"]) != state_digest(large.selections["last"])


def test_two_ranks_take_the_step_of_one_process(tmp_path: Path) -> None:
    still = toy_job(tmp_path).stage.views[0].model_copy(update={"padding": 0, "flip": 0.0})
    stage = {"views": (still,), "epochs": 1, "optimizer": OptimizerConfig(lr=0.05, sam_rho=0.2)}
    one = train(toy_job(tmp_path / "one", {"norm": False}, stage))
    two = train(toy_job(tmp_path / "two", {"norm": False}, stage, {"processes": 2}))
    for name, tensor in one.selections["last"].items():
        torch.testing.assert_close(two.selections["last"][name], tensor, rtol=1e-5, atol=1e-6)


def test_running_statistics_move_once_or_twice_a_step(tmp_path: Path) -> None:
    def batches_counted(statistics: str) -> int:
        optimizer = OptimizerConfig(sam_rho=0.1, sam_statistics=statistics)  # type: ignore[arg-type]
        job = toy_job(tmp_path / statistics, stage={"epochs": 1, "optimizer": optimizer})
        return int(train(job).selections["last"]["norm.num_batches_tracked"])

    assert (batches_counted("both"), batches_counted("first")) == (12, 6)


def test_tasks_know_which_pass_they_are_in(tmp_path: Path) -> None:
    seen: list[bool] = []

    class Watched(ToyTask):
        def forward(self, *args: object) -> dict[str, torch.Tensor]:
            seen.append(self.second_pass)
            return super().forward(*args)  # type: ignore[arg-type]

    job = toy_job(tmp_path, stage={"epochs": 1, "optimizer": OptimizerConfig(sam_rho=0.1)})
    train(dataclasses.replace(job, build=Watched))
    assert seen == [False, True] * 6
