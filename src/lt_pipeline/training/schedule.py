"""Learning-rate schedules as pure functions of the 0-based epoch, which may be a fraction."""

import math
from collections.abc import Sequence

from lt_pipeline.training.clock import Clock
from lt_pipeline.training.config import (
    CosineSchedule,
    MultistepSchedule,
    Schedule,
    StepCosineSchedule,
    StepDecaySchedule,
    StepLinearSchedule,
)


def multistep_warmup(
    epoch: int, base_lr: float, milestones: Sequence[int], gamma: float, warmup_epochs: int, overshoots: bool = False
) -> float:
    """Return the learning rate of ``epoch`` (0-based): a step decay with a linear warm-up on top.

    The rate is multiplied by ``gamma`` at every milestone reached, and by ``(1 + epoch) / warmup_epochs`` during the warm-up, so the first epoch
    already trains (LDAM-DRW and RIDE recipes). ``overshoots`` lets the warm-up hold in epoch ``warmup_epochs`` too (PaCo's CIFAR code).
    """
    rate = base_lr * gamma ** sum(epoch >= milestone for milestone in milestones)
    return rate * (1 + epoch) / warmup_epochs if epoch < warmup_epochs + (overshoots and warmup_epochs > 0) else rate


def cosine(epoch: int, base_lr: float, t_max: int, eta_min: float = 0.0, warmup_epochs: int = 0, warmup_start: float = 0.0) -> float:
    """Return the learning rate of ``epoch`` (0-based) on half a cosine from ``base_lr`` to ``eta_min`` (SGDR, eq. 5).

    The cosine spans the ``t_max - warmup_epochs`` epochs after a warm-up that rises in a straight line from ``warmup_start`` in epoch 0 to
    ``base_lr`` in epoch ``warmup_epochs``. Past ``t_max`` it rises again.
    """
    if epoch < warmup_epochs:
        return warmup_start + (base_lr - warmup_start) * epoch / warmup_epochs
    return eta_min + (base_lr - eta_min) * (1 + math.cos(math.pi * (epoch - warmup_epochs) / max(t_max - warmup_epochs, 1))) / 2


def step_cosine(epoch: float, base_lr: float, epochs: int, final_lr: float, warmup_epochs: int, warmup_start: float) -> float:
    """Return the learning rate at ``epoch``, which counts steps as fractions: a cosine from ``base_lr`` at 0 to ``final_lr`` at ``epochs``.

    Its first ``warmup_epochs`` are replaced by a straight line from ``warmup_start`` to ``base_lr`` (DeiT and Swin recipes, timm's cosine without
    ``warmup_prefix``). From ``epochs`` on the rate is ``final_lr``.
    """
    if epoch < warmup_epochs:
        return warmup_start + (base_lr - warmup_start) * epoch / warmup_epochs
    return final_lr + (base_lr - final_lr) * (1 + math.cos(math.pi * min(epoch / epochs, 1.0))) / 2


def step_linear(epoch: float, base_lr: float, epochs: int, final_factor: float, warmup_epochs: int, warmup_start: float) -> float:
    """Return the learning rate at ``epoch``, which counts steps as fractions: from ``base_lr`` after the warm-up in a straight line to
    ``final_factor * base_lr`` at ``epochs``; the warm-up is a straight line from ``warmup_start``."""
    if epoch < warmup_epochs:
        return warmup_start + (base_lr - warmup_start) * epoch / warmup_epochs
    return base_lr * (1 - (1 - final_factor) * (epoch - warmup_epochs) / max(epochs - warmup_epochs, 1))


def step_decay(epoch: float, base_lr: float, decay_epochs: int, gamma: float, warmup_epochs: int, warmup_start: float) -> float:
    """Return the learning rate at ``epoch``, which counts steps as fractions: ``base_lr`` times ``gamma`` for every ``decay_epochs`` since the
    start; the warm-up is a straight line from ``warmup_start``."""
    if epoch < warmup_epochs:
        return warmup_start + (base_lr - warmup_start) * epoch / warmup_epochs
    return base_lr * gamma ** (epoch // decay_epochs)


def learning_rate(schedule: Schedule, base_lr: float, clock: Clock) -> float:
    """Return the learning rate of the step that ``clock`` points to."""
    match schedule:
        case MultistepSchedule():
            return multistep_warmup(
                clock.epoch, base_lr, schedule.milestones, schedule.gamma, schedule.warmup_epochs, schedule.warmup_overshoots
            )
        case CosineSchedule():
            ahead = int(schedule.one_ahead)
            return cosine(
                clock.epoch + ahead, base_lr, clock.epochs + ahead, schedule.final_lr, schedule.warmup_epochs, schedule.warmup_start
            )
        case StepCosineSchedule():
            epoch = _fractional_epoch(clock, schedule.one_behind)
            return step_cosine(epoch, base_lr, clock.epochs, schedule.final_lr, schedule.warmup_epochs, schedule.warmup_start)
        case StepLinearSchedule():
            epoch = _fractional_epoch(clock, schedule.one_behind)
            return step_linear(epoch, base_lr, clock.epochs, schedule.final_factor, schedule.warmup_epochs, schedule.warmup_start)
        case StepDecaySchedule():
            epoch = _fractional_epoch(clock, schedule.one_behind)
            return step_decay(epoch, base_lr, schedule.decay_epochs, schedule.gamma, schedule.warmup_epochs, schedule.warmup_start)


def _fractional_epoch(clock: Clock, one_behind: bool) -> float:
    return max(clock.step - one_behind, 0) / clock.steps_per_epoch
