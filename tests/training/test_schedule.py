import math

import pytest

from lt_pipeline.training.clock import Clock
from lt_pipeline.training.config import CosineSchedule, MultistepSchedule, StepCosineSchedule, StepDecaySchedule, StepLinearSchedule
from lt_pipeline.training.schedule import cosine, learning_rate, multistep_warmup, step_cosine


def test_the_official_cifar_recipe() -> None:
    rate = [multistep_warmup(epoch, 0.1, (160, 180), 0.01, 5) for epoch in range(200)]
    assert rate[:6] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1])
    assert rate[159] == pytest.approx(0.1)
    assert rate[160] == pytest.approx(1e-3)
    assert rate[199] == pytest.approx(1e-5)


def test_warmup_multiplies_a_milestone_inside_it() -> None:
    assert multistep_warmup(3, 1.0, (2,), 0.1, 10) == pytest.approx(0.1 * 0.4)


def test_cosine_starts_at_the_base_and_ends_above_the_floor() -> None:
    rate = [cosine(epoch, 0.1, 10, 0.01) for epoch in range(10)]
    assert rate[0] == 0.1
    assert rate == sorted(rate, reverse=True)
    assert rate[5] == pytest.approx(0.055)
    assert rate[9] > 0.01


def test_learning_rate_depends_on_the_clock_alone() -> None:
    clock = Clock(step=165 * 85 + 3, steps_per_epoch=85, epochs=200)
    assert learning_rate(MultistepSchedule(), 0.1, clock) == pytest.approx(1e-3)
    assert learning_rate(CosineSchedule(), 0.1, clock) == pytest.approx(0.05 * (1 + math.cos(math.pi * 165 / 200)))


def test_clock_counts_epochs_both_ways() -> None:
    clock = Clock(step=170, steps_per_epoch=85, epochs=4)
    assert (clock.epoch, clock.epoch_number, clock.step_in_epoch, clock.total_steps, clock.fraction) == (2, 3, 0, 340, 0.5)


def test_the_cosine_after_a_straight_warmup_is_shikes() -> None:
    rate = [cosine(epoch, 0.15, 180, 0.0, 5, 0.025) for epoch in range(180)]
    assert rate[:6] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.125, 0.15])
    assert rate[6] == pytest.approx(0.149988, abs=1e-6)
    assert rate[5:] == sorted(rate[5:], reverse=True)
    assert cosine(3, 0.1, 3, 0.0, 3) == 0.1  # nothing but a warm-up


def test_the_step_cosine_is_timms() -> None:
    import torch
    from timm.scheduler import CosineLRScheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = CosineLRScheduler(optimizer, t_initial=20, lr_min=1e-3, warmup_t=5, warmup_lr_init=1e-4, cycle_limit=1)
    schedule = StepCosineSchedule(final_lr=1e-3, warmup_epochs=5, warmup_start=1e-4)
    for step in range(20 * 4):
        theirs.step(step / 4)
        assert learning_rate(schedule, 0.1, Clock(step, 4, 20)) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
    assert step_cosine(25.0, 0.1, 20, 1e-3, 5, 1e-4) == 1e-3


def test_pacos_schedules() -> None:
    steps = MultistepSchedule(milestones=(321, 361), gamma=0.1, warmup_epochs=10, warmup_overshoots=True)
    rate = [learning_rate(steps, 0.05, Clock(epoch, 1, 400)) for epoch in range(400)]
    assert rate[10] == pytest.approx(0.055) and rate[11] == 0.05 and rate[320] == 0.05
    ahead = CosineSchedule(warmup_epochs=10, one_ahead=True)
    rate = [learning_rate(ahead, 0.02, Clock(epoch, 1, 400)) for epoch in range(400)]
    assert rate[0] == pytest.approx(0.002) and rate[9] == pytest.approx(0.02) and rate[-1] > 0


def test_metaformers_schedules_lag_a_step_behind() -> None:
    schedule = StepCosineSchedule(final_lr=5e-7, warmup_epochs=20, warmup_start=5e-8, one_behind=True)
    ahead = schedule.model_copy(update={"one_behind": False})
    rates = [learning_rate(schedule, 5e-5, Clock(step, 11, 300)) for step in range(3300)]
    assert rates[0] == rates[1] == 5e-8
    assert rates[1:] == [learning_rate(ahead, 5e-5, Clock(step, 11, 300)) for step in range(3299)]
    line = StepLinearSchedule(warmup_epochs=2, warmup_start=0.0)
    assert learning_rate(line, 0.1, Clock(20, 10, 10)) == 0.1
    assert learning_rate(line, 0.1, Clock(100, 10, 10)) == pytest.approx(0.001)
    decay = StepDecaySchedule(decay_epochs=3, gamma=0.5, warmup_epochs=2, warmup_start=0.0)
    assert [learning_rate(decay, 0.1, Clock(10 * epoch, 10, 10)) for epoch in (0, 1, 2, 3, 6)] == [0, 0.05, 0.1, 0.05, 0.025]
