"""Rows in blocks, and rows spread over processes."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file

from lt_pipeline.errors import LongTailError
from lt_pipeline.transport import RowBlocks, cost_of_logits, labels_of, progressive_transport, streaming
from tests.transport.problems import logits

COST = cost_of_logits(logits(301, 9))
SPLIT = 120
MOST = 40
"""The loop stops early in one process and in two."""


def test_blocks_give_the_same_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_SAMPLE", 100 * 9)
    largest = []

    def read(start: int, stop: int) -> torch.Tensor:
        largest.append(stop - start)
        return COST[start:stop]

    for mass in (0.106, 0.9, 1.0):
        whole = progressive_transport(COST, mass)
        blocks = progressive_transport(RowBlocks(301, 9, read, torch.float64, block_rows=64), mass)
        assert max(largest) == 64
        torch.testing.assert_close(blocks.plan, whole.plan, rtol=0, atol=1e-8)
        lean = progressive_transport(RowBlocks(301, 9, read, torch.float64, block_rows=64), mass, keep_plan=False)
        assert lean.plan is None
        torch.testing.assert_close(labels_of(COST[:7], lean.potential), whole.plan[:7], rtol=0, atol=1e-8)


def test_a_sample_that_misjudges_rare_columns_does_not_slow_the_solve(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hessian comes from a tenth of the rows, the steps' sizes from all of them: else this takes 260 passes, and in float32 no end."""
    cost = cost_of_logits(logits(4000, 40))
    monkeypatch.setattr(streaming, "_SAMPLE", 400 * 40)
    found = progressive_transport(RowBlocks(4000, 40, lambda start, stop: cost[start:stop], torch.float64, 1000), 0.1)
    torch.testing.assert_close(found.plan, progressive_transport(cost, 0.1).plan, rtol=0, atol=1e-8)
    assert int(found.iterations) < 60


def test_a_memory_mapped_cost_is_read_in_blocks(tmp_path: Path) -> None:
    np.save(tmp_path / "cost.npy", COST.float().numpy())
    found = progressive_transport(np.load(tmp_path / "cost.npy", mmap_mode="r"), 0.4)
    assert isinstance(found.plan, np.ndarray)
    torch.testing.assert_close(torch.as_tensor(found.plan).double(), progressive_transport(COST, 0.4).plan, rtol=0, atol=1e-5)


def test_empty_columns_in_blocks() -> None:
    cost = COST.clone()
    cost[:, 4] += 500
    found = progressive_transport(RowBlocks(301, 9, lambda start, stop: cost[start:stop], torch.float64, 100), 0.5)
    torch.testing.assert_close(found.plan, progressive_transport(cost, 0.5).plan, rtol=0, atol=1e-8)


def test_bad_blocks_are_said() -> None:
    with pytest.raises(LongTailError, match=r"Rows 0 to 50 .* shape"):
        progressive_transport(RowBlocks(50, 9, lambda start, stop: COST[start : stop - 1]), 0.5)
    with pytest.raises(LongTailError, match="not finite"):
        progressive_transport(RowBlocks(50, 9, lambda start, stop: COST[start:stop] * np.nan), 0.5)
    with pytest.raises(LongTailError, match="in memory"):
        progressive_transport(RowBlocks(50, 9, lambda start, stop: COST[start:stop]), 0.5, algorithm="scaling")


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    rows = COST[:SPLIT] if rank == 0 else COST[SPLIT:]
    found = {}
    for mass in (0.106, 0.9, 1.0):
        for algorithm in ("semidual", "scaling"):
            part = progressive_transport(rows, mass, algorithm=algorithm, max_iterations=MOST, group=dist.group.WORLD, on_failure="warn")
            found |= {f"plan.{mass}.{algorithm}": part.plan, f"potential.{mass}.{algorithm}": part.potential}
    blocks = RowBlocks(len(rows), 9, lambda start, stop: rows[start:stop], torch.float64, 50)
    found["plan.blocks"] = progressive_transport(blocks, 0.3, group=dist.group.WORLD).plan
    spoilt = rows.clone()
    spoilt[0, 0] = torch.nan if rank == 1 else spoilt[0, 0]
    try:
        progressive_transport(spoilt, 0.5, group=dist.group.WORLD)
    except LongTailError:
        found["refused"] = torch.ones(1)
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, Path(folder) / f"{rank}.safetensors")
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:The transport did not converge")
def test_two_processes_find_the_plan_of_one() -> None:
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, (folder,), nprocs=2)
        first, second = (load_file(Path(folder) / f"{rank}.safetensors") for rank in (0, 1))
    assert first.keys() == second.keys()
    assert "refused" in first
    for mass in (0.106, 0.9, 1.0):
        for algorithm in ("semidual", "scaling"):
            name = f"{mass}.{algorithm}"
            alone = progressive_transport(COST, mass, algorithm=algorithm, max_iterations=MOST, on_failure="warn")
            torch.testing.assert_close(torch.cat((first[f"plan.{name}"], second[f"plan.{name}"])), alone.plan, rtol=0, atol=1e-8)
            assert torch.equal(first[f"potential.{name}"], second[f"potential.{name}"])
    torch.testing.assert_close(
        torch.cat((first["plan.blocks"], second["plan.blocks"])), progressive_transport(COST, 0.3).plan, rtol=0, atol=1e-8
    )
