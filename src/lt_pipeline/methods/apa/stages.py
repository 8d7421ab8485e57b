"""The one stage of APA."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_pipeline.augment.mixing import Mixing
from lt_pipeline.losses.binary import binary_cross_entropy, gumbel_cross_entropy
from lt_pipeline.losses.classification import soft_cross_entropy
from lt_pipeline.losses.inverse_frequency import inverse_image_frequency
from lt_pipeline.methods.apa.config import AdaptiveLossConfig, Apa
from lt_pipeline.methods.facts import DataFacts
from lt_pipeline.models.adaptive import build_adaptive
from lt_pipeline.models.experts import MultiExpert
from lt_pipeline.models.heads import LinearClassifier
from lt_pipeline.models.posthoc import PostHocAdjusted
from lt_pipeline.models.registry import prepare
from lt_pipeline.training.checkpoint import Checkpoint
from lt_pipeline.training.clock import Clock
from lt_pipeline.training.task import Batch, Task


def build_network(settings: Apa, stage: str, facts: DataFacts) -> nn.Module:
    """Return the untrained network, which adjusts its logits at inference where the settings say so.

    Raises:
        LongTailError: if a class has no training image.
    """
    network = _network(settings, facts)
    if settings.loss.adjustment == "none":
        return network
    return PostHocAdjusted(network, inverse_image_frequency(facts.train_counts, settings.loss.adjustment))


def build_task(settings: Apa, stage: str, facts: DataFacts, previous: Mapping[str, Checkpoint]) -> Task:
    """Return the task; there is no earlier stage.

    Raises:
        LongTailError: if a class has no training image, or the initial weights do not fit.
    """
    network = build_network(settings, stage, facts)
    plain = network.network if isinstance(network, PostHocAdjusted) else network
    prepare(plain, settings.model)
    if settings.loss.kind != "cross_entropy":
        _expect_rare_positives(plain)
    return MixedClassifierTask(network, settings.loss, facts)


class MixedClassifierTask(Task):
    """Classification of mixed images."""

    weights: Tensor | None

    def __init__(self, model: nn.Module, loss: AdaptiveLossConfig, facts: DataFacts) -> None:
        super().__init__()
        self.model, self.loss, self.num_classes = model, loss, facts.num_classes
        self.mix = Mixing(facts.num_classes, loss.mixup, loss.cutmix)
        counts = torch.tensor(facts.train_counts, dtype=torch.float32)
        self.register_buffer("weights", counts.sum() / counts if loss.class_weights else None, persistent=False)

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Return ``classification``."""
        images, target = self.mix(batch.views[0], batch.labels)
        return {"classification": self._loss(self.model(images)["logits"], target)}

    def _loss(self, logits: Tensor, target: Tensor) -> Tensor:
        if self.loss.kind == "cross_entropy":
            return soft_cross_entropy(logits, target, self.loss.smoothing, self.weights)
        shares = target if target.is_floating_point() else F.one_hot(target, self.num_classes).float()
        if self.loss.kind == "bce":
            return binary_cross_entropy(logits, shares, self.loss.smoothing, "sum")
        smoothed = shares * (1 - self.loss.smoothing) + self.loss.smoothing / self.num_classes
        return gumbel_cross_entropy(logits, smoothed)


def _network(settings: Apa, facts: DataFacts) -> MultiExpert:
    model = settings.model
    return build_adaptive(
        model.backbone,
        facts.num_classes,
        model.attention,
        model.activation,
        model.gate,
        model.spatial_gate,
        model.lambda_grad,
        model.lambda_floor,
        model.dropout,
        model.head,
        model.scale,
    )


def _expect_rare_positives(network: nn.Module) -> None:
    """Let linear heads start where every class is unlikely, so that the many negatives do not drown the first steps."""
    for module in network.modules():
        if isinstance(module, LinearClassifier):
            nn.init.normal_(module.weight, std=0.001)
            nn.init.constant_(module.bias, -6.0)
