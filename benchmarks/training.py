"""How fast RIDE trains here, beside the published way, in one run.

The published way is built from torchvision parts: a DataLoader with PIL transforms, float32 NCHW, and an evaluation of the test set after each
epoch. Ours is the project's engine: resident uint8 pixels, batched augmentation, fused optimizer; no test evaluation. Both
train the same network with the same loss. Ratios of images per second are the figures to quote: the machine's speed cancels.

    python benchmarks/training.py --data ../shared/data
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from lt_pipeline.augment.normalise import Normalise
from lt_pipeline.data.config import BenchmarkConfig, SourceConfig
from lt_pipeline.data.sources import ingest
from lt_pipeline.data.split import ImageSet, class_statistics, image_set, make_split
from lt_pipeline.methods.facts import DataFacts
from lt_pipeline.methods.ride.config import Ride
from lt_pipeline.methods.ride.stages import build_task
from lt_pipeline.training.clock import Clock
from lt_pipeline.training.config import TrainerConfig
from lt_pipeline.training.feed import Chunk, build_feed
from lt_pipeline.training.loop import Job, _Run
from lt_pipeline.training.state import Workspace
from lt_pipeline.training.task import Batch

BATCH = 128
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


class PublishedDataset(Dataset):
    """One PIL image at a time, as the official loaders do."""

    def __init__(self, images: ImageSet, train: bool) -> None:
        self.images = images
        steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.RandomRotation(15)] if train else []
        self.transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self.images.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        pixels = self.images.images.read(int(self.images.rows[index]))
        return self.transform(Image.fromarray(pixels)), int(self.images.labels[index])


class Published:
    """The published way: one training step, and one evaluation batch of the test set that every epoch pays for."""

    def __init__(self, facts: DataFacts, train: ImageSet, test: ImageSet) -> None:
        self.task = build_task(Ride(), "experts", facts, {})
        self.optimizer = torch.optim.SGD(self.task.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
        self.train = iter(DataLoader(PublishedDataset(train, True), batch_size=BATCH, shuffle=True))
        self.test = iter(DataLoader(PublishedDataset(test, False), batch_size=BATCH))

    def step(self) -> None:
        """Load, augment, train."""
        self.task.train()
        images, labels = next(self.train)
        losses = self.task(Batch((images,), labels, labels), Clock(0, 85, 200))
        self.optimizer.zero_grad()
        sum(losses.values()).backward()
        self.optimizer.step()

    @torch.no_grad()
    def evaluate(self) -> None:
        """Load and classify."""
        self.task.eval()
        self.task.model(next(self.test)[0])


class Ours:
    """A step of the project's engine, data included."""

    def __init__(self, facts: DataFacts, train: ImageSet, folder: Path, **trainer: object) -> None:
        settings, machine = Ride(), TrainerConfig(device="cpu", **trainer)
        build = partial(build_task, settings, "experts", facts, {})
        job = Job("ride.experts", build, settings.experts, machine, 0, facts.num_classes, MEAN, STD, train, {}, Workspace(folder), {})
        self.run = _Run(job)
        feed = build_feed(train, settings.experts.views, Normalise(MEAN, STD), torch.device("cpu"), self.run.layout, 0)
        order = np.random.default_rng(0).permutation(len(train.rows))
        self.batches = feed.batches([Chunk(order[i * BATCH : (i + 1) * BATCH], (0, i)) for i in range(80)])

    def step(self) -> None:
        """Draw, augment, train."""
        self.run._optimize(self.run.task, [(next(self.batches), 1.0)], BATCH, Clock(0, 85, 200), 0.1)


def outside_share(facts: DataFacts, train: ImageSet) -> float:
    """Return the share of a step that is not the model's: drawing, cropping, flipping, rotating and normalising a batch, in percent."""
    settings = Ride()
    order = np.random.default_rng(0).permutation(len(train.rows))
    chunks = [Chunk(order[i * BATCH : (i + 1) * BATCH], (0, i)) for i in range(60)]
    start = time.perf_counter()
    feed = build_feed(train, settings.experts.views, Normalise(MEAN, STD), torch.device("cpu"), torch.contiguous_format, 0)
    next(feed.batches(chunks))
    print(f"first batch after packing: {time.perf_counter() - start:.3f} s")
    for _ in feed.batches(chunks[:5]):
        pass
    start = time.perf_counter()
    batch = None
    for batch in feed.batches(chunks):  # noqa: B007 (the last one is used below)
        pass
    data = (time.perf_counter() - start) / len(chunks)
    task = build_task(settings, "experts", facts, {})

    def step() -> None:
        sum(task(batch, Clock(0, 85, 200)).values()).backward()

    model = seconds_per_call(step, 6)
    return 100 * data / (data + model)


def seconds_per_call(call: Callable[[], None], calls: int) -> float:
    """Return the median duration of a call after two that are not counted."""
    return float(np.median([_seconds(call) for _ in range(calls + 2)][2:]))


def interleaved(calls: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Return the median duration of each call; they take turns, so that a drift of the machine's speed hits all of them alike."""
    for call in calls.values():
        call(), call()
    times = [{name: _seconds(call) for name, call in calls.items()} for _ in range(rounds)]
    return {name: float(np.median([row[name] for row in times])) for name in calls}


def _seconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", help="folder with CIFAR-100 in Parquet or torchvision's files")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    start = time.perf_counter()
    manifest, images = ingest(SourceConfig(kind="cifar100", root=arguments.data))
    print(f"packing {len(manifest):,} images: {time.perf_counter() - start:.1f} s")
    split = make_split(manifest, BenchmarkConfig(name="cifar100_lt", profile="exp", imbalance_factor=100, mean=MEAN, std=STD), 0)
    statistics = class_statistics(split)
    facts = DataFacts(
        class_names=statistics.names, train_counts=tuple(map(int, statistics.counts)), image_shape=(32, 32, 3), mean=MEAN, std=STD
    )
    train, test = image_set(images, split, "train"), image_set(images, split, "test")

    with TemporaryDirectory() as folder:
        before = Published(facts, train, test)
        after = {
            "fp32": Ours(facts, train, Path(folder) / "a"),
            "fp32, trainer.compile=true": Ours(facts, train, Path(folder) / "b", compile=True),
        }
        if torch.ops.mkldnn._is_mkldnn_bf16_supported():
            after["bf16"] = Ours(facts, train, Path(folder) / "c", precision="bf16")
        else:
            print("bf16 is left out: this CPU has no bfloat16 arithmetic")
        calls = {"step": before.step, "evaluate": before.evaluate, **{name: one.step for name, one in after.items()}}
        seconds = interleaved(calls, arguments.rounds)
    steps, evaluations = np.ceil(len(train.rows) / BATCH), np.ceil(len(test.rows) / BATCH)
    base = steps * seconds["step"] + evaluations * seconds["evaluate"]
    print(f"published way: step {seconds['step']:.3f} s, evaluation batch {seconds['evaluate']:.3f} s")
    print(f"{'published way':42}{len(train.rows) / base:8.1f} images/s   1.00")
    for name in after:
        epoch = steps * seconds[name]
        print(f"{'lt-pipeline ' + name:42}{len(train.rows) / epoch:8.1f} images/s   {base / epoch:.2f}   step {seconds[name]:.3f} s")
    print(f"outside the model step: {outside_share(facts, train):.1f} % of an epoch")


if __name__ == "__main__":
    main()
