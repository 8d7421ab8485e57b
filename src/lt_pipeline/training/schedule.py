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


def cosine(epoch: int, base_lr: float, t_max: int, eta_min: float = 0.0, warmup_epochs: int = 0, warmup_start: float = 0.0) -> float:
    """Return the learning rate of ``epoch`` (0-based) on half a cosine from ``base_lr`` to ``eta_min`` (SGDR, eq. 5).

    The cosine spans the ``t_max - warmup_epochs`` epochs after a warm-up that rises in a straight line from ``warmup_start`` in epoch 0 to
    ``base_lr`` in epoch ``warmup_epochs``. Past ``t_max`` it rises again.
    """
    if epoch < warmup_epochs:
        return warmup_start + (base_lr - warmup_start) * epoch / warmup_epochs
    return eta_min + (base_lr - eta_min) * (1 + math.cos(math.pi * (epoch - warmup_epochs) / max(t_max - warmup_epochs, 1))) / 2


def learning_rate(schedule: Schedule, base_lr: float, clock: Clock) -> float:
    """Return the learning rate of the step that ``clock`` points to."""
    match schedule:
        case MultistepSchedule():
            return multistep_warmup(clock.epoch, base_lr, schedule.milestones, schedule.gamma, schedule.warmup_epochs)
        case CosineSchedule():
            return cosine(clock.epoch, base_lr, clock.epochs, schedule.final_lr, schedule.warmup_epochs, schedule.warmup_start)
