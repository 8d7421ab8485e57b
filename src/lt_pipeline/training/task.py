"""What a method hands to the loop."""

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
    """

    views: tuple[Tensor, ...]
    labels: Tensor
    indices: Tensor


class Task(nn.Module):
    """One training stage of a method.

    ``forward(batch, clock)`` returns the loss terms by name; the loop minimises their sum. Being a module, a task can be wrapped for
    several ranks or compiled as a whole. Anything beside ``model`` (a frozen teacher, loss buffers) is rebuilt by the method, never saved.

    Attributes:
        model: what is trained and what the checkpoint holds; called with images [B, 3, H, W] it returns at least ``{"logits": [B, C]}``.
    """

    model: nn.Module

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Return scalar loss terms by name."""
        raise TypeError(f"{type(self).__name__} must define forward(batch, clock)")
