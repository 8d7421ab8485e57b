import logging

import pytest
from pydantic import ValidationError

from lt_pipeline.methods.ride.config import Ride
from lt_pipeline.training.config import OptimizerConfig, StageConfig, scale_epochs, warn_beyond_the_end


def test_scaling_shortens_every_number_of_epochs_and_nothing_else() -> None:
    short = scale_epochs(Ride(), 0.1)
    assert short.experts.epochs == 20
    assert short.experts.schedule.milestones == (16, 18)
    assert short.loss.reweight_epoch == 16
    assert short.router.epochs == 1
    assert short.experts.batch_size == 128
    assert short.experts.schedule.gamma == 0.01


def test_scaling_keeps_never_and_at_least_one_epoch() -> None:
    never = Ride.model_validate({"loss": {"reweight_epoch": -1}})
    short = scale_epochs(never, 0.001)
    assert short.loss.reweight_epoch == -1
    assert short.experts.epochs == 1


def test_a_milestone_that_is_never_reached_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_beyond_the_end(Ride().loss, 5, "ride.loss")
        warn_beyond_the_end(StageConfig(epochs=5), 5, "ride.experts")
    text = caplog.text
    assert "ride.loss.reweight_epoch = 160 is never reached in 5 epochs" in text
    assert "ride.experts.schedule.milestones = 160" in text
    assert "warmup" not in text


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"batch_size": 0}, {"accumulate": 0}, {"ema_decay": 1.0}, {"views": []}, {"epoch": 3}])
def test_stage_values_out_of_range_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        StageConfig.model_validate(bad)


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(ValidationError, match="nesterov needs momentum"):
        OptimizerConfig(momentum=0.0)


def test_one_expert_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValidationError, match="baseline pipeline"):
        Ride.model_validate({"model": {"experts": 1}})
