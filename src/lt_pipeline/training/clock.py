"""Where a training stage stands. Every schedule is a pure function of the clock, so a resumed run cannot drift from an uninterrupted one."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """The position of one optimizer step in a stage.

    Attributes:
        step: optimizer steps already taken in this stage.
        steps_per_epoch: optimizer steps that make one pass over the sampler.
        epochs: length of the stage in epochs.
    """

    step: int
    steps_per_epoch: int
    epochs: int

    @property
    def epoch(self) -> int:
        """Current epoch, counted from 0."""
        return self.step // self.steps_per_epoch

    @property
    def epoch_number(self) -> int:
        """Current epoch, counted from 1 as the papers do."""
        return self.epoch + 1

    @property
    def step_in_epoch(self) -> int:
        """Steps already taken in the current epoch."""
        return self.step % self.steps_per_epoch

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole stage."""
        return self.steps_per_epoch * self.epochs

    @property
    def fraction(self) -> float:
        """Share of the stage that is done, in [0, 1]."""
        return self.step / self.total_steps
