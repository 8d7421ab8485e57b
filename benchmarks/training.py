"""How fast RIDE trains here, beside the published way, in one run.

The published way is built from torchvision parts: a DataLoader with PIL transforms, float32 NCHW, and an evaluation of the test set after each
epoch. Ours is the project's engine: resident uint8 pixels, batched augmentation, channels_last, fused optimizer; no test evaluation. Both
train the same network with the same loss. Ratios of images per second are the figures to quote: the machine's speed cancels.

    python benchmarks/training.py --data ../shared/data --steps 12
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
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
from lt_pipeline.training.inference import autocast
from lt_pipeline.training.task import Batch

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


def published(facts: DataFacts, train: ImageSet, test: ImageSet, steps: int) -> float:
    """Return images per second of an epoch the published way, extrapolated from ``steps`` training and evaluation batches."""
    task = build_task(Ride(), "experts", facts, {})
    optimizer = torch.optim.SGD(task.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    batches = iter(DataLoader(PublishedDataset(train, True), batch_size=128, shuffle=True, num_workers=0))

    def step() -> None:
        images, labels = next(batches)
        losses = task(Batch((images,), labels, labels), Clock(0, 85, 200))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()

    tests = iter(DataLoader(PublishedDataset(test, False), batch_size=128, num_workers=0))

    @torch.no_grad()
    def evaluate() -> None:
        task.model(next(tests)[0])

    train_step = seconds_per_call(step, steps)
    task.eval()
    test_step = seconds_per_call(evaluate, max(steps // 2, 3))
    per_epoch = np.ceil(len(train.rows) / 128) * train_step + np.ceil(len(test.rows) / 128) * test_step
    print(f"published: training step {train_step:.3f} s, test batch {test_step:.3f} s")
    return len(train.rows) / per_epoch


def ours(facts: DataFacts, train: ImageSet, precision: str, steps: int) -> float:
    """Return images per second of the project's engine, and print the share of an epoch that is not the model step."""
    from functools import partial

    from lt_pipeline.training.loop import Job, _Run
    from lt_pipeline.training.state import Workspace

    settings = Ride()
    trainer = TrainerConfig(device="cpu", precision=precision, save_seconds=1e9)
    with TemporaryDirectory() as folder:
        stage = settings.experts.model_copy(update={"epochs": 1})
        job = Job("ride.experts", partial(build_task, settings, "experts", facts, {}), stage, trainer, 0, facts.num_classes, MEAN, STD,
                  train, {}, Workspace(Path(folder) / "x"), {})  # fmt: skip
        rows = (steps + 2) * 128
        job = replace(
            job,
            train=ImageSet(train.images, train.rows[:rows], train.labels[:rows], train.sample_ids[:rows]),
            num_classes=facts.num_classes,
        )
        run = _Run(job)
        marks: list[tuple[float, float]] = []
        inner = run._optimize

        def timed(*arguments: object) -> None:
            start = time.perf_counter()
            inner(*arguments)  # type: ignore[arg-type]
            marks.append((start, time.perf_counter()))

        run._optimize = timed  # type: ignore[method-assign]
        run.run()
    steady = marks[2:]
    whole = (steady[-1][1] - steady[0][0]) / len(steady)
    print(f"ours {precision}: step {whole:.3f} s")
    return 128 / whole


def outside_share(facts: DataFacts, train: ImageSet, precision: str) -> float:
    """Return the share of a step that is not the model's: drawing, cropping, flipping, rotating and normalising a batch, in percent."""
    from lt_pipeline.training.feed import Chunk, build_feed

    settings = Ride()
    feed = build_feed(train, settings.experts.views, Normalise(MEAN, STD), torch.device("cpu"), True, 0)
    order = np.random.default_rng(0).permutation(len(train.rows))
    chunks = [Chunk(order[i * 128 : (i + 1) * 128], (0, i)) for i in range(60)]
    for _ in feed.batches(chunks[:5]):
        pass
    start = time.perf_counter()
    batch = None
    for batch in feed.batches(chunks):  # noqa: B007 (the last one is used below)
        pass
    data = (time.perf_counter() - start) / len(chunks)
    task = build_task(settings, "experts", facts, {}).to(memory_format=torch.channels_last)

    def step() -> None:
        with autocast(torch.device("cpu"), precision):
            losses = task(batch, Clock(0, 85, 200))
        sum(losses.values()).backward()

    model = seconds_per_call(step, 6)
    return 100 * data / (data + model)


def seconds_per_call(call: Callable[[], None], calls: int) -> float:
    """Return the median duration of a call after two that are not counted."""
    times = []
    for _ in range(calls + 2):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times[2:]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", help="folder with CIFAR-100 in Parquet or torchvision's files")
    parser.add_argument("--steps", type=int, default=12)
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

    base = published(facts, train, test, arguments.steps)
    print(f"published way                    {base:8.1f} images/s   1.00")
    for precision in ("fp32", "bf16"):
        rate = ours(facts, train, precision, arguments.steps)
        print(f"lt-pipeline {precision}                 {rate:8.1f} images/s   {rate / base:.2f}")
        print(f"  outside the model step: {outside_share(facts, train, precision):.1f} % of an epoch")


if __name__ == "__main__":
    main()
