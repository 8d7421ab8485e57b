"""The teacher's stage, and the teacher as the student sees it."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_pipeline.losses.classification import cross_entropy
from lt_pipeline.losses.margins import LdamDrw
from lt_pipeline.losses.paco import frequency_prior, paco_loss
from lt_pipeline.losses.reweighting import effective_number_weights, reweighting_active
from lt_pipeline.methods.deit_lt.config import DistillationConfig, TeacherLossConfig, TeacherStageConfig
from lt_pipeline.methods.facts import DataFacts
from lt_pipeline.models.experts import MultiExpert
from lt_pipeline.models.paco import ContrastiveNetwork, MomentumQueue
from lt_pipeline.models.registry import build_experts
from lt_pipeline.training.clock import Clock
from lt_pipeline.training.task import Batch, Task


def teacher_network(stage: TeacherStageConfig, num_classes: int) -> MultiExpert | ContrastiveNetwork:
    """Return the untrained teacher; LDAM's has a cosine head, PaCo's a projection beside its linear one."""
    loss = stage.loss
    network = build_experts(stage.model.backbone, num_classes, 1, False, cosine_head=loss.kind == "ldam", scale=loss.scale)
    return ContrastiveNetwork(network, loss.dimension) if loss.kind == "paco" else network


class DeferredTask(Task):
    """LDAM (Cao et al., NeurIPS 2019) or cross-entropy with deferred re-weighting; SAM is the optimizer's."""

    def __init__(self, model: nn.Module, loss: TeacherLossConfig, counts: Sequence[int]) -> None:
        super().__init__()
        self.model, self.reweight_epoch = model, loss.reweight_epoch
        self.ldam = LdamDrw(counts, loss.max_margin, loss.scale, loss.reweight_epoch) if loss.kind == "ldam" else None
        self.register_buffer("weights", effective_number_weights(counts), persistent=False)

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Return ``classification``."""
        logits = self.model(batch.views[0])["logits"]
        if self.ldam is not None:
            return {"classification": self.ldam(logits, batch.labels, clock.epoch_number)}
        weights = self.get_buffer("weights") if reweighting_active(clock.epoch_number, self.reweight_epoch) else None
        return {"classification": cross_entropy(logits, batch.labels, weights)}


class ContrastiveTask(Task):
    """PaCo (Cui et al., ICCV 2021): queries from the first view, keys from the second by a slow copy, a queue of older keys.

    Under SAM the second pass meets the same keys and the same queue as the first, which alone moves the copy and the queue: the published
    teacher's code is not public, and the worst neighbour is to be measured on one loss.
    """

    memory: MomentumQueue

    def __init__(self, model: ContrastiveNetwork, loss: TeacherLossConfig, counts: Sequence[int]) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        self.memory = MomentumQueue(model, loss.queue_size, loss.dimension, loss.momentum)
        self.register_buffer("prior", frequency_prior(counts), persistent=False)
        self._others: tuple[Tensor, Tensor] | None = None

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Return ``contrast``."""
        if not self.second_pass or self._others is None:
            self._others = self._keys_and_queue(batch)
        keys, labels = self._others
        outputs = self.model(batch.views[0])
        features = torch.cat([outputs["projections"], keys])
        loss = self.loss
        value = paco_loss(
            features, labels, outputs["logits"], self.get_buffer("prior"), loss.alpha, loss.beta, loss.gamma, loss.temperature
        )  # fmt: skip
        return {"contrast": value}

    def _keys_and_queue(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return keys and the queue as it was [B + K, d], and labels with the queries' first [2B + K]; then remember the keys."""
        memory = self.memory
        memory.follow(self.model)
        keys = memory.keys(batch.views[1])
        others = torch.cat([keys, memory.queue]), torch.cat([batch.labels, batch.labels, memory.queue_labels])
        memory.enqueue(keys, batch.labels)
        return others


class FrozenTeacher(nn.Module):
    """A trained teacher behind the student's images: made smaller, normalised anew if so wished, never moved by training.

    Args:
        network: the trained teacher.
        config: size and normalisation of its input.
        student: data facts of the student's stage, whose normalisation the images have.
        teacher: data facts of the teacher's.
    """

    def __init__(self, network: nn.Module, config: DistillationConfig, student: DataFacts, teacher: DataFacts) -> None:
        super().__init__()
        self.network, self.size = network.requires_grad_(False).eval(), config.teacher_size
        own = teacher if config.teacher_norm == "teacher" else student
        mean, std, own_mean, own_std = (torch.tensor(values).view(3, 1, 1) for values in (student.mean, student.std, own.mean, own.std))
        self.register_buffer("factor", std / own_std, persistent=False)
        self.register_buffer("offset", (mean - own_mean) / own_std, persistent=False)
        self.renormalises = own is not student

    def train(self, mode: bool = True) -> "FrozenTeacher":
        """Stay in evaluation mode: running statistics must not move."""
        return super().train(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``logits`` [B, C] for the student's images [B, 3, S, S], outside autocast and without a gradient."""
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            seen = images.float()
            if self.size is not None:
                seen = teacher_input(seen, self.size)
            if self.renormalises:
                seen = seen * self.get_buffer("factor") + self.get_buffer("offset")
            return {"logits": self.network(seen)["logits"]}


def teacher_input(images: Tensor, size: int, antialias: bool = False) -> Tensor:
    """Return images [B, 3, S, S] brought to ``size`` pixels by a bicubic, without antialiasing as in the official environment.

    Where S is an odd multiple of ``size`` (224 of 32) an output pixel's centre is an input pixel's, which is then simply taken.
    """
    step, rest = divmod(images.shape[-1], size)
    if not antialias and rest == 0 and step % 2:
        return images[..., step // 2 :: step, step // 2 :: step]
    return F.interpolate(images, (size, size), mode="bicubic", align_corners=False, antialias=antialias)
