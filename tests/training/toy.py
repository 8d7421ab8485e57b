"""A tiny classification task on generated images, for tests of the loop."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lt_pipeline.augment.config import PadCropView
from lt_pipeline.data.images import PackedImages
from lt_pipeline.data.split import ImageSet
from lt_pipeline.training.clock import Clock
from lt_pipeline.training.config import CosineSchedule, OptimizerConfig, SamplerConfig, StageConfig, TrainerConfig
from lt_pipeline.training.loop import Job
from lt_pipeline.training.state import Workspace
from lt_pipeline.training.task import Batch, Task


class ToyNetwork(nn.Module):
    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(F.relu(self.norm(self.conv(images))).mean((2, 3)))}


class Recall(nn.Module):
    """A running mean that the loss depends on and that no checkpoint holds."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))


class RecallTask(Task):
    """Pulls the logits towards their own running mean; its score is lowest in epoch 2."""

    memory: Recall

    def __init__(self, kill_step: int = -1) -> None:
        super().__init__()
        self.model, self.memory, self.kill_step = ToyNetwork(), Recall(), kill_step

    def begin(self, batches: Iterator[Batch]) -> None:
        self.memory.mean.copy_(next(batches).views[0].mean((0, 2, 3))[[0, 1, 2, 0]])

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        logits = self.model(batch.views[0])["logits"]
        if clock.step == self.kill_step:
            raise KeyboardInterrupt
        self.memory.mean.lerp_(logits.detach().mean(0), 0.1)
        return {"classification": F.cross_entropy(logits, batch.labels), "recall": F.mse_loss(logits, self.memory.mean.expand_as(logits))}

    def epoch_figures(self, clock: Clock) -> dict[str, float]:
        return {"score": abs(clock.epoch - 1.0), "seen": float(self.memory.mean.sum())}


class ToyTask(Task):
    def __init__(self, norm: bool = True, bad_step: int = -1, dropout: float = 0.0, kill_step: int = -1) -> None:
        super().__init__()
        self.model, self.bad_step, self.kill_step = ToyNetwork(norm), bad_step, kill_step
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        logits = self.model(self.dropout(batch.views[0]))["logits"]
        second = 0.1 * logits.float().square().mean()
        if clock.step == self.bad_step:
            second = second * torch.inf
        if clock.step == self.kill_step:
            raise KeyboardInterrupt
        return {"classification": F.cross_entropy(logits.float(), batch.labels), "decay": second}


def toy_images(size: int = 53, seed: int = 0) -> ImageSet:
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.integers(0, 4, size))
    labels[:4] = np.arange(4)
    pixels = rng.integers(0, 120, (size, 8, 8, 3)) + 30 * labels[:, None, None, None]
    ids = [f"toy-{index}" for index in range(size)]
    return ImageSet(PackedImages(pixels.astype(np.uint8)), np.arange(size), labels.astype(np.int64), ids)


def toy_job(
    folder: Path, task: dict[str, Any] | None = None, stage: dict[str, Any] | None = None, trainer: dict[str, Any] | None = None
) -> Job:
    defaults = {
        "epochs": 3,
        "batch_size": 10,
        "optimizer": OptimizerConfig(lr=0.05),
        "schedule": CosineSchedule(),
        "views": (PadCropView(padding=1, flip=0.5),),
    }
    config = StageConfig(**(defaults | (stage or {})))
    return Job(
        name="toy.stage",
        build=partial(ToyTask, **(task or {})),
        stage=config,
        trainer=TrainerConfig(**({"device": "cpu", "threads": 1, "save_seconds": 0.0} | (trainer or {}))),
        seed=0,
        num_classes=4,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        train=toy_images(),
        monitors={},
        workspace=Workspace(folder),
        fingerprint={"stage": config.model_dump(mode="json")},
    )


BALANCED = SamplerConfig(kind="class_balanced")
