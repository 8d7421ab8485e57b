"""The one stage of the baselines: a classifier under a chosen loss."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lt_pipeline.losses.classification import cross_entropy, focal_loss, log_prior, logit_adjusted_cross_entropy
from lt_pipeline.losses.margins import LdamDrw
from lt_pipeline.methods.baseline.config import Baseline
from lt_pipeline.methods.facts import DataFacts
from lt_pipeline.models.posthoc import PostHocAdjusted
from lt_pipeline.models.registry import experts_network, prepare
from lt_pipeline.training.checkpoint import Checkpoint
from lt_pipeline.training.clock import Clock
from lt_pipeline.training.task import Batch, Task


class ClassifierTask(Task):
    """Softmax classification; the loss is a parameter."""

    def __init__(self, model: nn.Module, settings: Baseline, facts: DataFacts) -> None:
        super().__init__()
        self.model, self.loss = model, settings.loss
        scale = settings.model.scale if settings.model.cosine_head else 1.0
        if self.loss.kind == "ldam_drw":
            self.ldam = LdamDrw(facts.train_counts, self.loss.max_margin, scale, self.loss.reweight_epoch)
        if self.loss.kind == "balanced_softmax":
            self.register_buffer("prior", log_prior(facts.train_counts, self.loss.tau), persistent=False)

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Return ``classification``."""
        logits = self.model(batch.views[0])["logits"]
        return {"classification": self._loss(logits, batch.labels, clock)}

    def _loss(self, logits: Tensor, labels: Tensor, clock: Clock) -> Tensor:
        match self.loss.kind:
            case "ldam_drw":
                loss: Tensor = self.ldam(logits, labels, clock.epoch_number)
                return loss
            case "balanced_softmax":
                return logit_adjusted_cross_entropy(logits, labels, self.get_buffer("prior"))
            case "focal":
                return focal_loss(logits, labels, self.loss.gamma)
            case "cross_entropy" | "logit_adjustment":
                return cross_entropy(logits, labels)


def build_network(settings: Baseline, stage: str, facts: DataFacts) -> nn.Module:
    """Return the untrained network."""
    network = experts_network(settings.model, facts.num_classes)
    if settings.loss.kind != "logit_adjustment":
        return network
    shares = torch.tensor(facts.train_counts, dtype=torch.float64) / sum(facts.train_counts)
    return PostHocAdjusted(network, -settings.loss.tau * shares.log().float())


def build_task(settings: Baseline, stage: str, facts: DataFacts, previous: Mapping[str, Checkpoint]) -> Task:
    """Return the classification task; there is no earlier stage.

    Raises:
        LongTailError: if a class has no training image.
    """
    network = build_network(settings, stage, facts)
    prepare(network.network if isinstance(network, PostHocAdjusted) else network, settings.model)
    return ClassifierTask(network, settings, facts)
