"""Which rows lie near each other: the sparse similarity of SP2OT (Zhang et al., 2024, arXiv 2404.03446, section 3.3), built block by block.

The similarities of n rows are n x n numbers; only each row's nearest neighbours are kept, and no more than a block of rows is in memory at
once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lt_pipeline.errors import LongTailError

Kernel = Literal["gauss", "cosine", "linear", "laplace", "abel"]


def kernel_block(features: Tensor, start: int, stop: int, kernel: Kernel = "gauss", scale: float = 2.0, published: bool = False) -> Tensor:
    """Return the similarities of rows ``start`` to ``stop`` with all rows, [stop - start, n].

    ``gauss`` is ``exp(-|x - y|^2 / (2 s^2 D))``, ``laplace`` ``exp(-|x - y| / (s D))``, ``abel`` ``exp(-|x - y|_1 / (s D))``, ``cosine``
    and ``linear`` are the products with and without normalisation.

    Args:
        features: [n, D], as they are: not normalised.
        start: first row of the block.
        stop: row after the last.
        kernel: the kernel.
        scale: s.
        published: abel with D as a factor, ``exp(-|x - y|_1 D / s)``, a slip of the official code.

    Raises:
        LongTailError: if the kernel is unknown or the scale not positive.
    """
    size = features.shape[1]
    rows = features[start:stop]
    if not scale > 0:
        raise LongTailError(f"The scale of a kernel must be positive, not {scale}.")
    if kernel == "linear":
        return rows @ features.T
    if kernel == "cosine":
        unit = torch.nn.functional.normalize(features, dim=1)
        return unit[start:stop] @ unit.T
    if kernel == "gauss":
        return torch.exp(-torch.cdist(rows, features).square_() / (2 * scale**2 * size))
    if kernel == "laplace":
        return torch.exp(-torch.cdist(rows, features) / (scale * size))
    if kernel == "abel":
        width = scale / size if published else scale * size
        return torch.exp(-torch.cdist(rows, features, p=1) / width)
    raise LongTailError(f"The kernel '{kernel}' is unknown; there are gauss, cosine, linear, laplace and abel.")


def clipped(block: Tensor, low: float = -1.0, high: float = 1.0) -> Tensor:
    """Return similarities where those below ``low`` are 0 (if it is above -1) and those above ``high`` are ``high`` (if it is below 1)."""
    block = torch.where(block < low, 0.0, block) if low > -1 else block
    return block.clamp(max=high) if high < 1 else block


def without_self(block: Tensor, start: int) -> Tensor:
    """Return a block whose first row is row ``start`` with 0 for each row's similarity with itself."""
    block = block.clone()
    rows = torch.arange(len(block), device=block.device)
    block[rows, rows + start] = 0
    return block


def nearest(block: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` largest similarities of each row and whose they are, both [b, count], in decreasing order."""
    return block.topk(min(count, block.shape[1]), 1)


def kept(block: Tensor, count: int) -> Tensor:
    """Return a block with the ``count`` largest of each row, 0 elsewhere (knn)."""
    values, indices = nearest(block, count)
    return torch.zeros_like(block).scatter_(1, indices, values)


def raised(block: Tensor, count: int) -> Tensor:
    """Return a block with 1 at the ``count`` largest of each row, the rest as it was (topk)."""
    return block.scatter(1, nearest(block, count)[1], 1.0)


def same_class(targets: Tensor) -> Tensor:
    """Return the similarity that knows the labels [n]: +1 within a class, -1 between two, [n, n]; for upper bounds on small data."""
    return torch.where(targets[:, None] == targets, 1.0, -1.0)


@dataclass(frozen=True)
class Neighbours:
    """``A = S + S^T`` among the m rows in play, sparse: row i has entries ``columns[starts[i]:starts[i + 1]]`` with those ``weights``."""

    starts: Tensor
    columns: Tensor
    weights: Tensor

    @classmethod
    def of(cls, similarity: Tensor) -> "Neighbours":
        """Return ``S + S^T`` of similarities [m, m], dense or sparse."""
        entries = similarity.detach().to_sparse_coo().coalesce()
        rows, columns = entries.indices()
        return cls._symmetric(rows, columns, entries.values(), len(similarity))

    @classmethod
    def _symmetric(cls, rows: Tensor, columns: Tensor, weights: Tensor, size: int) -> "Neighbours":
        both = torch.stack((torch.cat((rows, columns)), torch.cat((columns, rows))))
        joined = torch.sparse_coo_tensor(both, torch.cat((weights, weights)).double(), (size, size), check_invariants=False).coalesce()
        starts = torch.searchsorted(joined.indices()[0].contiguous(), torch.arange(size, device=rows.device))
        return cls(starts, joined.indices()[1].contiguous(), joined.values())

    def __len__(self) -> int:
        return len(self.starts)

    def product(self, plan: Tensor) -> Tensor:
        """Return ``A Q`` [m, K] of a plan [m, K] in its dtype: the gradient of ``<S, Q Q^T>``, without any m x m numbers."""
        weights = self.weights.to(plan.dtype)
        return torch.nn.functional.embedding_bag(self.columns, plan, self.starts, mode="sum", per_sample_weights=weights)


@dataclass(frozen=True)
class NeighbourGraph:
    """The nearest neighbours of each of n rows: ``indices`` int64 [n, k] and ``weights`` float32 [n, k]; weight 0 is no neighbour."""

    indices: Tensor
    weights: Tensor

    def __post_init__(self) -> None:
        if self.indices.shape != self.weights.shape or self.indices.ndim != 2 or self.indices.dtype != torch.int64:
            raise LongTailError("A graph of neighbours has int64 indices and weights of one shape, rows x neighbours.")

    def state(self) -> dict[str, Tensor]:
        """Return the two tensors by name, for a file."""
        return {"indices": self.indices.contiguous(), "weights": self.weights.contiguous()}

    def among(self, positions: Tensor) -> Neighbours:
        """Return ``A = S + S^T`` of the rows at ``positions`` [m] in the data set, of which only those count as neighbours.

        A position may occur several times: its copies have the same neighbours, and similarity 0 with one another.

        Raises:
            LongTailError: if a position is not a row of the graph.
        """
        size = len(positions)
        if size == 0 or int(positions.min()) < 0 or int(positions.max()) >= len(self.indices):
            raise LongTailError(f"The rows in play must be positions from 0 to {len(self.indices) - 1}.")
        positions = positions.to(self.indices.device)
        ordered, slots = positions.sort(stable=True)
        wanted, weights = self.indices[positions].flatten(), self.weights[positions].flatten()
        rows = torch.arange(size, device=positions.device).repeat_interleave(self.indices.shape[1])
        first, after = torch.searchsorted(ordered, wanted), torch.searchsorted(ordered, wanted, right=True)
        copies = torch.where(weights != 0, after - first, 0)
        ends = copies.cumsum(0)
        place = torch.arange(int(ends[-1]), device=positions.device) - (ends - copies).repeat_interleave(copies)
        columns = slots[first.repeat_interleave(copies) + place]
        return Neighbours._symmetric(rows.repeat_interleave(copies), columns, weights.repeat_interleave(copies), size)

    def mutual(self) -> "NeighbourGraph":
        """Return the graph without neighbours that are not neighbours of each other (weight below 1e-5 the other way)."""
        backwards = self.indices[self.indices]  # [n, k, k]: the neighbours of each neighbour
        own = torch.arange(len(self.indices), device=self.indices.device)[:, None, None]
        answered = ((backwards == own) & (self.weights[self.indices].abs() >= 1e-5)).any(2)
        return NeighbourGraph(self.indices, torch.where(answered, self.weights, 0.0))


@torch.no_grad()
def neighbour_graph(
    features: Tensor,
    neighbours: int = 20,
    kernel: Kernel = "gauss",
    scale: float = 2.0,
    mutual: bool = False,
    block: int = 1024,
    on_block: Callable[[int], object] | None = None,
) -> NeighbourGraph:
    """Return the nearest neighbours of each row by initial features, themselves left out (operations rmDiag and knn).

    Args:
        features: [n, D], as the network gave them: not normalised.
        neighbours: k; fewer where there are fewer other rows.
        kernel: similarity of two rows.
        scale: s of the kernel.
        mutual: keep neighbours only that are neighbours of each other (operation consistency).
        block: rows whose similarities with all others are in memory at once.
        on_block: called with the rows done so far, for a progress bar.

    Raises:
        LongTailError: if the features are not finite rows of numbers, or k is not positive.
    """
    if features.ndim != 2 or len(features) < 2 or not bool(torch.isfinite(features).all()):
        raise LongTailError("Neighbours need at least two rows of finite features.")
    if neighbours < 1:
        raise LongTailError(f"A row must have at least 1 neighbour, not {neighbours}.")
    features = features.detach().float()
    parts = []
    for start in range(0, len(features), block):
        similar = without_self(kernel_block(features, start, min(start + block, len(features)), kernel, scale), start)
        values, indices = nearest(similar, min(neighbours, len(features) - 1))
        own = torch.arange(start, start + len(indices), device=features.device)[:, None]
        parts.append((indices, torch.where(indices == own, 0.0, values)))
        if on_block:
            on_block(start + len(indices))
    graph = NeighbourGraph(torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts]))
    return graph.mutual() if mutual else graph
