"""The one stage of MDCS."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lt_pipeline.losses.self_distillation import adjusted_logits, consistency_loss, consistency_weight, diversity_loss, expert_priors
from lt_pipeline.methods.facts import DataFacts
from lt_pipeline.methods.mdcs.config import ConsistencyConfig, Mdcs
from lt_pipeline.models.experts import MultiExpert
from lt_pipeline.models.registry import experts_network, prepare
from lt_pipeline.training.checkpoint import Checkpoint
from lt_pipeline.training.clock import Clock
from lt_pipeline.training.task import Batch, Task


def build_network(settings: Mdcs, stage: str, facts: DataFacts) -> MultiExpert:
    """Return the untrained network."""
    return experts_network(settings.model, facts.num_classes)


def build_task(settings: Mdcs, stage: str, facts: DataFacts, previous: Mapping[str, Checkpoint]) -> Task:
    """Return the task; there is no earlier stage.

    Raises:
        LongTailError: if a class has no training image or the initial weights do not fit.
    """
    network = prepare(build_network(settings, stage, facts), settings.model)
    return ConsistencyTask(
        network, expert_priors(facts.train_counts, settings.loss.exponents), settings.loss, settings.batch_norm == "mixed"
    )


class ConsistencyTask(Task):
    """Weak and strong views of the same images in one forward pass; the weak ones teach."""

    def __init__(self, model: nn.Module, priors: Tensor, loss: ConsistencyConfig, mixed: bool) -> None:
        super().__init__()
        self.model, self.loss, self.mixed = model, loss, mixed
        self.register_buffer("priors", priors, persistent=False)

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Return ``diversity`` and ``consistency``, each summed over the experts."""
        adjusted = adjusted_logits(self._expert_logits(*batch.views), self.get_buffer("priors"))
        weak, strong = adjusted.chunk(2, dim=1)
        divergence, _ = consistency_loss(weak, strong, batch.labels)
        weight = consistency_weight(clock.epoch_number, self.loss.consistency, self.loss.warmup_epochs)
        return {"diversity": diversity_loss(adjusted, batch.labels.repeat(2)).sum(), "consistency": weight * divergence.sum()}

    def _expert_logits(self, weak: Tensor, strong: Tensor) -> Tensor:
        if self.mixed:
            both: Tensor = self.model(torch.cat([weak, strong]))["expert_logits"]
            return both
        first = self.model(weak)["expert_logits"]
        with _statistics_kept(self.model):
            return torch.cat([first, self.model(strong)["expert_logits"]], dim=1)


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """Let batch norm use the statistics of the batch without moving the running ones."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
