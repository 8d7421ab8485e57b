"""The weighted mean over two ranks, in two processes."""

import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lt_pipeline.losses.reweighting import weighted_mean

VALUES = torch.tensor([1.0, 4.0, 2.0, 8.0, 5.0])
WEIGHTS = torch.tensor([0.1, 3.0, 0.5, 0.7, 2.0])
SPLIT = 3


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    part = slice(0, SPLIT) if rank == 0 else slice(SPLIT, None)
    mine = weighted_mean(VALUES[part], WEIGHTS[part], across_ranks=True)
    torch.save(mine, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_rank_losses_averaged_by_batch_share_are_the_global_weighted_mean() -> None:
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, (folder,), nprocs=2)
        first, second = (torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    shares = (SPLIT / len(VALUES), 1 - SPLIT / len(VALUES))
    torch.testing.assert_close(shares[0] * first + shares[1] * second, weighted_mean(VALUES, WEIGHTS))
