"""How fast a method trains here, beside the published way, in one run.

The published way is built from torchvision parts: a DataLoader with PIL transforms, float32 NCHW, the loss as the official code has it (SHIKE's in
float64, MDCS's with a selection per expert), and an evaluation of the test set after each epoch. Ours is the project's engine: resident uint8
pixels, batched augmentation, fused optimizer; no test evaluation. Both train the same network. Ratios of images per second are the figures
to quote: the machine's speed cancels.

    python benchmarks/training.py --method ride --data ../shared/data
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from losses import loops
from lt_pipeline.augment.normalise import Normalise
from lt_pipeline.data.config import BenchmarkConfig, SourceConfig
from lt_pipeline.data.sources import ingest
from lt_pipeline.data.split import ImageSet, class_statistics, image_set, make_split
from lt_pipeline.methods import METHODS
from lt_pipeline.methods.facts import DataFacts
from lt_pipeline.training.clock import Clock
from lt_pipeline.training.config import TrainerConfig
from lt_pipeline.training.feed import Chunk, build_feed
from lt_pipeline.training.loop import Job, _Run
from lt_pipeline.training.state import Workspace
from lt_pipeline.training.task import Batch, Task

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
_MOVE = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
_FINISH = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]


def _cutout(image: Tensor, length: int = 16) -> Tensor:
    row, column = (int(torch.randint(32, ())) for _ in range(2))
    image[:, max(row - length // 2, 0) : row + length // 2, max(column - length // 2, 0) : column + length // 2] = 0
    return image


_WEAK = [*_MOVE, transforms.RandomRotation(15), *_FINISH]
_POLICY = transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10)
_STRONG = [*_MOVE, _POLICY, transforms.ToTensor(), transforms.Lambda(_cutout), transforms.Normalize(MEAN, STD)]
VIEWS = {"ride": [_WEAK], "shike": [_STRONG], "mdcs": [_WEAK, _STRONG]}


class PublishedDataset(Dataset):
    """One PIL image at a time in each view, as the official loaders do."""

    def __init__(self, images: ImageSet, views: list[list[Callable]]) -> None:
        self.images, self.views = images, [transforms.Compose(steps) for steps in views]

    def __len__(self) -> int:
        return len(self.images.rows)

    def __getitem__(self, index: int) -> tuple[list[Tensor], int]:
        image = Image.fromarray(self.images.images.read(int(self.images.rows[index])))
        return [view(image) for view in self.views], int(self.images.labels[index])


def published_mdcs(logits: Tensor, labels: Tensor, priors: Tensor) -> Tensor:
    """MDCS's loss expert by expert, with the selected images gathered."""
    half = len(labels)
    total = torch.zeros(())
    for z, prior in zip(logits, priors, strict=True):
        adjusted = z + prior
        total = total + F.cross_entropy(adjusted, labels.repeat(2))
        weak, strong = adjusted[:half], adjusted[half:]
        chosen = weak.softmax(1).argmax(1) == labels
        if chosen.sum() > 0:
            target = weak[chosen].detach().softmax(1)
            total = total + 0.6 * F.kl_div(strong[chosen].softmax(1).log(), target, reduction="batchmean")
    return total


class Published:
    """The published way: one training step, and one evaluation batch of the test set that every epoch pays for."""

    def __init__(self, method: str, task: Task, batch: int, train: ImageSet, test: ImageSet) -> None:
        self.method, self.task = method, task
        self.optimizer = torch.optim.SGD(task.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        self.train = iter(DataLoader(PublishedDataset(train, VIEWS[method]), batch_size=batch, shuffle=True))
        self.test = iter(DataLoader(PublishedDataset(test, [_FINISH]), batch_size=batch))

    def step(self) -> None:
        """Load, augment, train."""
        self.task.train()
        views, labels = next(self.train)
        self.optimizer.zero_grad()
        self._loss(views, labels).backward()
        self.optimizer.step()

    def _loss(self, views: list[Tensor], labels: Tensor) -> Tensor:
        if self.method == "ride":
            return sum(self.task(Batch(tuple(views), labels, labels), Clock(0, 85, 200)).values())
        logits = self.task.model(torch.cat(views))["expert_logits"]
        if self.method == "mdcs":
            return published_mdcs(logits, labels, self.task.get_buffer("priors"))
        return loops(logits.double(), labels)

    @torch.no_grad()
    def evaluate(self) -> None:
        """Load and classify."""
        self.task.eval()
        self.task.model(next(self.test)[0][0])


class Ours:
    """A step of the project's engine, data included."""

    def __init__(self, recipe: "Recipe", facts: DataFacts, train: ImageSet, folder: Path, **trainer: object) -> None:
        machine = TrainerConfig(device="cpu", **{"compile": False, **trainer})
        build, stage = partial(recipe.task, facts), recipe.stage
        self.batch = stage.batch_size
        job = Job(recipe.name, build, stage, machine, 0, facts.num_classes, MEAN, STD, train, {}, Workspace(folder), {})
        self.run = _Run(job)
        feed = build_feed(train, stage.views, Normalise(MEAN, STD), torch.device("cpu"), self.run.layout, 0)
        self.batches = feed.batches(chunks(train, self.batch, 80))

    def step(self) -> None:
        """Draw, augment, train."""
        self.run._optimize(self.run.task, [(next(self.batches), 1.0)], self.batch, Clock(0, 85, 200), 0.1)


class Recipe:
    """The first stage of a method with its published settings."""

    def __init__(self, method: str) -> None:
        self.method = METHODS[method]
        self.settings = self.method.settings_class()()
        self.first = next(iter(self.method.stages))
        self.stage = getattr(self.settings, self.first)
        self.name = f"{method}.{self.first}"

    def task(self, facts: DataFacts) -> Task:
        """Return a fresh task."""
        return self.method.load().build_task(self.settings, self.first, facts, {})


def chunks(train: ImageSet, batch: int, number: int) -> list[Chunk]:
    """Return that many batches of a permutation of the training images."""
    order = np.random.default_rng(0).permutation(len(train.rows))
    return [Chunk(order[i * batch : (i + 1) * batch], (0, i)) for i in range(number)]


def outside_share(recipe: Recipe, facts: DataFacts, train: ImageSet) -> float:
    """Return the share of a step that is not the model's: drawing, augmenting and normalising a batch, in percent."""
    plan = chunks(train, recipe.stage.batch_size, 60)
    start = time.perf_counter()
    feed = build_feed(train, recipe.stage.views, Normalise(MEAN, STD), torch.device("cpu"), torch.contiguous_format, 0)
    next(feed.batches(plan))
    print(f"first batch after packing: {time.perf_counter() - start:.3f} s")
    for _ in feed.batches(plan[:5]):
        pass
    start = time.perf_counter()
    batch = None
    for batch in feed.batches(plan):  # noqa: B007 (the last one is used below)
        pass
    data = (time.perf_counter() - start) / len(plan)
    task = recipe.task(facts)

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
    parser.add_argument("--method", choices=sorted(VIEWS), default="ride")
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
        recipe = Recipe(arguments.method)
        batch = recipe.stage.batch_size
        before = Published(arguments.method, recipe.task(facts), batch, train, test)
        after = {
            "fp32": Ours(recipe, facts, train, Path(folder) / "a"),
            "fp32, compiled": Ours(recipe, facts, train, Path(folder) / "b", compile=True),
        }
        if torch.ops.mkldnn._is_mkldnn_bf16_supported():
            after["bf16"] = Ours(recipe, facts, train, Path(folder) / "c", precision="bf16")
        else:
            print("bf16 is left out: this CPU has no bfloat16 arithmetic")
        calls = {"step": before.step, "evaluate": before.evaluate, **{name: one.step for name, one in after.items()}}
        seconds = interleaved(calls, arguments.rounds)
    steps, evaluations = np.ceil(len(train.rows) / batch), np.ceil(len(test.rows) / batch)
    base = steps * seconds["step"] + evaluations * seconds["evaluate"]
    print(f"published way: step {seconds['step']:.3f} s, evaluation batch {seconds['evaluate']:.3f} s")
    print(f"{'published way':42}{len(train.rows) / base:8.1f} images/s   1.00")
    for name in after:
        epoch = steps * seconds[name]
        print(f"{'lt-pipeline ' + name:42}{len(train.rows) / epoch:8.1f} images/s   {base / epoch:.2f}   step {seconds[name]:.3f} s")
    print(f"outside the model step: {outside_share(recipe, facts, train):.1f} % of an epoch")


if __name__ == "__main__":
    main()
