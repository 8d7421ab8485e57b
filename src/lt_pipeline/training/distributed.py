"""Many processes for the training code of one, started by PyTorch's elastic launcher."""

import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from lt_pipeline.errors import LongTailError
from lt_pipeline.training.config import TrainerConfig

_TIMEOUT = timedelta(minutes=30)


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
