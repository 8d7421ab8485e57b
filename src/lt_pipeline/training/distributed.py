"""One process or many: the same training code, started by PyTorch's elastic launcher."""

import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lt_pipeline.errors import LongTailError
from lt_pipeline.training.config import TrainerConfig

_TIMEOUT = timedelta(minutes=30)


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


def run_ranks(function: Callable[..., Any], *arguments: Any, trainer: TrainerConfig) -> None:
    """Run ``function(*arguments)`` once per rank and wait for all of them.

    Kedro stays in this process; ranks hand their results over through the training state that rank 0 writes.

    Raises:
        LongTailError: if the ranks stopped on something the user can fix.
        RuntimeError: naming the first rank that failed, with its message.
        SystemExit: 128 + the signal, if one stopped the launcher.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=trainer.nodes,
        max_nodes=trainer.nodes,
        nproc_per_node=trainer.processes,
        run_id="lt-pipeline",
        rdzv_backend="c10d",
        rdzv_endpoint=trainer.endpoint,
        max_restarts=0,
        monitor_interval=0.1,
        start_method="spawn",
    )
    try:
        elastic_launch(config, _on_rank)(function, arguments)
    except ChildFailedError as error:
        failed, failure = error.get_first_failure()
        if LongTailError.__name__ in str(failure.message):
            raise LongTailError(str(failure.message).split(f"{LongTailError.__name__}:", 1)[-1].strip().rstrip('"}')) from error
        raise RuntimeError(f"rank {failed} failed: {failure.message}") from error
    except SignalException as error:
        raise SystemExit(128 + int(error.sigval)) from error


def _on_rank(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Join the group, run, leave; a broken connection waits a moment so that the launcher sees the rank that died first."""
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(backend, timeout=_TIMEOUT)
    try:
        function(*arguments)
    except RuntimeError as error:
        if "onnect" in str(error):
            time.sleep(3)
        raise
    finally:
        dist.destroy_process_group()
