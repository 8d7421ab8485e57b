"""Two processes do what one does: momentum contrast's keys and queue, clustering's memory, labels and gradient."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lt_pipeline.methods.p2ot.config import BankConfig
from lt_pipeline.models.paco import MomentumQueue
from lt_pipeline.training.clock import Clock
from lt_pipeline.training.task import Batch
from tests.methods.test_p2ot import batch_at, settings, task_of
from tests.models.test_paco import network

IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def contrasted(part: slice) -> dict[str, torch.Tensor]:
    """The keys of a part of the images, and the queue after it."""
    memory = MomentumQueue(network(), 16, 8)
    memory.key.train().get_submodule("network").eval()  # projections as in training, but of each image alone
    for module in memory.key.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.eval()
    keys = memory.keys(IMAGES[part])
    memory.enqueue(keys, torch.arange(8)[part])
    return {"keys": keys, "queue": memory.queue, "labels": memory.queue_labels, "pointer": memory.pointer}


def clustered(part: slice) -> dict[str, torch.Tensor]:
    """Loss and gradient of a part of a step, the memory and the sums of the epoch after it."""

    def own(batch: Batch) -> Batch:
        return Batch(tuple(view[part] for view in batch.views), batch.labels[part], batch.indices[part])

    task = task_of(settings(bank=BankConfig(batches=3, from_epoch=0)))
    task.begin(iter([own(batch_at(24 * number)) for number in range(3)]))
    loss = torch.stack(list(task(own(batch_at(96)), Clock(7, 5, 4)).values())).sum()
    loss.backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in task.model.parameters() if parameter.grad is not None])
    bank = task.memory.bank(1)
    return {
        "loss": loss.detach(),
        "gradient": gradient,
        "rows": bank.rows,
        "positions": bank.positions,
        "losses": task.memory.losses,
        "sizes": task.memory.sizes,
    }


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    torch.save((contrasted(slice(4 * rank, 4 * rank + 4)), clustered(slice(12 * rank, 12 * rank + 12))), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]]:
    """What each rank found."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(_rank, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_keys_return_to_the_images_they_were_dealt_from(ranks: list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]]) -> None:
    (first, _), (second, _) = ranks
    alone = contrasted(slice(None))
    torch.testing.assert_close(torch.cat([first["keys"], second["keys"]]), alone["keys"])
    for one in (first, second):
        for name in ("queue", "labels", "pointer"):
            torch.testing.assert_close(one[name], alone[name])


def test_a_step_of_clustering_is_solved_over_all_ranks(ranks: list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]]) -> None:
    (_, first), (_, second) = ranks
    alone = clustered(slice(None))
    for name in ("rows", "positions", "losses", "sizes"):
        torch.testing.assert_close(first[name], alone[name])
        torch.testing.assert_close(second[name], alone[name])
    for name in ("loss", "gradient"):  # the loop averages both over ranks of equal shares
        torch.testing.assert_close((first[name] + second[name]) / 2, alone[name], rtol=1e-5, atol=1e-6)
