"""What a method hands to the loop."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from lt_pipeline.training.clock import Clock


@dataclass(frozen=True)
class Batch:
    """One forward pass worth of images on the device.

    Attributes:
        views: one normalised float tensor [B, 3, H, W] per view of the stage.
        labels: int64 [B].
        indices: int64 [B], positions in the training split.
        metadata: float32 [B, d], or [B, T, d] for a text of T tokens; NaN is missing, None is a set without metadata.
    """

    views: tuple[Tensor, ...]
    labels: Tensor
    indices: Tensor
    metadata: Tensor | None = None


class Task(nn.Module):
    """One training stage of a method.

    ``forward(batch, clock)`` returns the loss terms by name; the loop minimises their sum. Being a module, a task can be wrapped for
    several ranks or compiled as a whole. Anything beside ``model`` and ``memory`` (a frozen teacher, loss buffers) is rebuilt by the method,
    never saved.

    Attributes:
        model: what is trained and what the checkpoint holds; called with images [B, 3, H, W] it returns at least ``{"logits": [B, C]}``.
        memory: what the next step depends on beside the model: queues, banks, running sums. Saved with an unfinished stage, not with the checkpoint.
        second_pass: whether this forward is the second of a two-pass optimizer step (SAM), on the same batches.
    """

    model: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.Module()
        self.second_pass = False

    def begin(self, batches: Iterator[Batch]) -> None:
        """Fill the memory before step 0 of a stage that starts afresh; ``batches`` are those that training will see first."""

    def epoch_figures(self, clock: Clock) -> dict[str, float]:
        """Return figures of the epoch that ends, for the history; called on every rank.

        Of a figure named ``score``, lower being better, the engine keeps the best epoch as a selection of its own.
        """
        return {}

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Return scalar loss terms by name."""
        raise TypeError(f"{type(self).__name__} must define forward(batch, clock)")
