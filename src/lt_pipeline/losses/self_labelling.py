"""Learning from labels that the network makes itself: swapped prediction and the memory bank (P2OT, Zhang et al., ICLR 2024, arXiv 2401.09266,
sections 3.2 and 4.3; SP2OT, Zhang et al., 2024, arXiv 2404.03446).

The labels of one view teach the other. A label is a row that sums to at most 1: an image that is not sure of its cluster yet counts for less.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_pipeline.errors import LongTailError
from lt_pipeline.losses.precision import full_precision


@full_precision
def cross_entropy_of_views(views: Tensor, targets: Tensor) -> Tensor:
    """Return the sum over the views of their mean cross-entropy, a scalar.

    Args:
        views: logits [V, B, K].
        targets: labels int64 [V, B], or label rows [V, B, K]; a row that sums to less than 1 weighs its image down.
    """
    rows = targets if targets.dtype == torch.int64 else targets.to(views.dtype)
    return len(views) * F.cross_entropy(views.flatten(0, 1), rows.flatten(0, 1))


def swapped_prediction(views: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of two views that learn each other's labels: both directions are added, not averaged.

    Args:
        views: logits [2, B, K].
        labels: label rows [2, B, K] that each view was given; no gradient flows through them.

    Raises:
        LongTailError: if there are not two views.
    """
    if len(views) != 2 or len(labels) != 2:
        raise LongTailError(f"Swapped prediction needs 2 views, not {len(views)}.")
    return cross_entropy_of_views(views, labels.detach().flip(0))


@full_precision
def feature_drift(features: Tensor, reference: Tensor) -> Tensor:
    """Return how far features [V, B, D] have moved from the initial ones [B, D] of the same images: the mean squared difference (SP2OT's
    regulariser)."""
    return F.mse_loss(features, reference.expand_as(features))


class MemoryBank(nn.Module):
    """The last logits of one head in a ring, with the position in the training split of each; transport is solved over all of them.

    Both views of a step use the same slots: :meth:`rewind` before the second view, so that no label is found from two views of one image.

    Args:
        size: slots; at least a batch.
        num_clusters: K.
    """

    rows: Tensor
    positions: Tensor
    pointer: Tensor

    def __init__(self, size: int, num_clusters: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(size, num_clusters))
        self.register_buffer("positions", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def write(self, logits: Tensor, positions: Tensor) -> Tensor:
        """Overwrite the next B slots with logits [B, K] of the images at ``positions`` [B]; return the slots, int64 [B].

        Raises:
            LongTailError: if the batch is larger than the bank.
        """
        if len(logits) > len(self.rows):
            raise LongTailError(f"A batch of {len(logits)} does not fit a memory bank of {len(self.rows)} rows; raise bank.batches.")
        slots = (self.pointer + torch.arange(len(logits), device=self.rows.device)) % len(self.rows)
        self.rows[slots] = logits.detach().to(self.rows.dtype)
        self.positions[slots] = positions
        self.pointer.copy_((self.pointer + len(logits)) % len(self.rows))
        return slots

    @torch.no_grad()
    def rewind(self, count: int) -> None:
        """Move the pointer back by ``count`` slots: the next write takes the place of the last one."""
        self.pointer.copy_((self.pointer - count) % len(self.rows))
