"""Learning-rate schedules as pure functions of the 0-based epoch."""

import math
from collections.abc import Sequence

from lt_pipeline.training.clock import Clock
from lt_pipeline.training.config import CosineSchedule, MultistepSchedule, Schedule


def multistep_warmup(epoch: int, base_lr: float, milestones: Sequence[int], gamma: float, warmup_epochs: int) -> float:
    """Return the learning rate of ``epoch`` (0-based): a step decay with a linear warm-up on top.

    The rate is multiplied by ``gamma`` at every milestone reached, and by ``(1 + epoch) / warmup_epochs`` during the warm-up, so the first epoch
    already trains (LDAM-DRW and RIDE recipes).
    """
    rate = base_lr * gamma ** sum(epoch >= milestone for milestone in milestones)
    return rate * (1 + epoch) / warmup_epochs if epoch < warmup_epochs else rate


def cosine(epoch: int, base_lr: float, t_max: int, eta_min: float = 0.0) -> float:
    """Return the learning rate of ``epoch`` (0-based) on half a cosine from ``base_lr`` to ``eta_min`` over ``t_max`` epochs (SGDR, eq. 5)."""
    return eta_min + (base_lr - eta_min) * (1 + math.cos(math.pi * epoch / t_max)) / 2


def learning_rate(schedule: Schedule, base_lr: float, clock: Clock) -> float:
    """Return the learning rate of the step that ``clock`` points to."""
    match schedule:
        case MultistepSchedule():
            return multistep_warmup(clock.epoch, base_lr, schedule.milestones, schedule.gamma, schedule.warmup_epochs)
        case CosineSchedule():
            return cosine(clock.epoch, base_lr, clock.epochs, schedule.final_lr)
