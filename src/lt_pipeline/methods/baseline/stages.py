"""The one stage of the baselines: a classifier under a chosen loss."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lt_pipeline.losses.classification import cross_entropy, focal_loss, log_prior, logit_adjusted_cross_entropy, post_hoc_adjustment
from lt_pipeline.losses.margins import LdamDrw
from lt_pipeline.methods.baseline.config import Baseline
from lt_pipeline.methods.facts import DataFacts
from lt_pipeline.models.experts import MultiExpert
from lt_pipeline.models.registry import build_experts
from lt_pipeline.training.checkpoint import Checkpoint
from lt_pipeline.training.clock import Clock
from lt_pipeline.training.task import Batch, Task


class PostHocAdjusted(nn.Module):
    """A network whose logits lose ``tau`` log prior outside training (Menon et al., ICLR 2021, section 4.1)."""

    prior: Tensor

    def __init__(self, network: MultiExpert, prior: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("prior", prior, persistent=False)

    def trunk(self, images: Tensor) -> Tensor:
        """Return the shared feature map of the network."""
        return self.network.trunk(images)

    @property
    def experts(self) -> tuple[nn.Module, ...]:
        """The branches of the network."""
        return self.network.experts

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the network's output, with adjusted ``logits`` in evaluation mode."""
        outputs: dict[str, Tensor] = self.network(images)
        if self.training:
            return outputs
        return {"logits": post_hoc_adjustment(outputs["logits"], self.prior)}


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
    model = settings.model
    network = build_experts(
        model.backbone, facts.num_classes, model.experts, model.reduce_dimension, model.cosine_head, model.scale, model.share_stage3
    )
    if settings.loss.kind != "logit_adjustment":
        return network
    total = sum(facts.train_counts)
    return PostHocAdjusted(network, settings.loss.tau * torch.tensor(facts.train_counts, dtype=torch.float64).div(total).log().float())


def build_task(settings: Baseline, stage: str, facts: DataFacts, previous: Mapping[str, Checkpoint]) -> Task:
    """Return the classification task; there is no earlier stage.

    Raises:
        LongTailError: if a class has no training image.
    """
    return ClassifierTask(build_network(settings, stage, facts), settings, facts)
