"""What the processes that train together know of each other; without a group, one process alone."""

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """Return this process's rank, 0 without a group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of ranks, 1 without a group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def highest(value: int) -> int:
    """Return the largest ``value`` of all ranks, so that all of them act on the same step."""
    if world_size() == 1:
        return value
    votes = torch.tensor(value, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(votes, dist.ReduceOp.MAX)
    return int(votes.item())


def summed(values: list[float], device: torch.device) -> list[float]:
    """Return the element-wise sum of ``values`` over all ranks."""
    if world_size() == 1:
        return values
    total = torch.tensor(values, dtype=torch.float64, device=device if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(total)
    return total.tolist()


def gathered(values: Tensor, dim: int = 0) -> Tensor:
    """Return the ``values`` of all ranks joined along ``dim`` in the order of the ranks, without a gradient; every rank gives equally many."""
    if world_size() == 1:
        return values.detach()
    parts = [torch.empty_like(values, memory_format=torch.contiguous_format) for _ in range(world_size())]
    dist.all_gather(parts, values.detach().contiguous())
    return torch.cat(parts, dim)
