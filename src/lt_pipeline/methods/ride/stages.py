"""The stages of RIDE: (teacher,) experts, router."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lt_pipeline.losses.distillation import DistilledRideLoss
from lt_pipeline.losses.diversity import RideLoss
from lt_pipeline.methods.facts import DataFacts
from lt_pipeline.methods.ride.config import DistillationConfig, Ride, RideDistilled
from lt_pipeline.models.experts import MultiExpert
from lt_pipeline.models.registry import build_router, experts_network, prepare
from lt_pipeline.models.router import RoutedExperts, routing_loss, routing_targets
from lt_pipeline.training.checkpoint import Checkpoint, load_into
from lt_pipeline.training.clock import Clock
from lt_pipeline.training.task import Batch, Task


def build_network(settings: Ride, stage: str, facts: DataFacts) -> nn.Module:
    """Return the untrained network of a stage: experts, or experts with their router."""
    model = settings.model
    if stage == "teacher" and isinstance(settings, RideDistilled):
        model = model.model_copy(update={"experts": settings.distillation.teacher_experts})
    experts = experts_network(model, facts.num_classes)
    if stage != "router":
        return experts
    router = settings.router
    return RoutedExperts(experts, build_router(model.backbone, experts, router.top_choices, router.hidden, router.shared_output))


def build_task(settings: Ride, stage: str, facts: DataFacts, previous: Mapping[str, Checkpoint]) -> Task:
    """Return the task of a stage; ``previous`` holds the checkpoints it starts from, by stage.

    Raises:
        LongTailError: if a class has no training image or an earlier checkpoint does not fit.
    """
    network = build_network(settings, stage, facts)
    if isinstance(network, RoutedExperts):
        load_into(network.experts, previous["experts"].state, "The experts' checkpoint")
        return RouterTask(network, settings.router.positive_weight)
    assert isinstance(network, MultiExpert)
    prepare(network, settings.model)
    loss = RideLoss(
        facts.train_counts,
        max_margin=settings.loss.max_margin,
        scale=settings.model.scale if settings.model.cosine_head else 1.0,
        diversity=settings.loss.diversity,
        temperature_spread=settings.loss.temperature_spread,
        base_temperature=settings.loss.base_temperature,
        reweight_epoch=settings.loss.reweight_epoch,
        base=settings.loss.base,
        divergence=settings.loss.divergence,
    )
    if stage == "experts" and isinstance(settings, RideDistilled):
        teacher = build_network(settings, "teacher", facts)
        load_into(teacher, previous["teacher"].state, "The teacher's checkpoint")
        return DistilledExpertsTask(network, loss, teacher, settings.distillation)
    return ExpertsTask(network, loss)


class ExpertsTask(Task):
    """Every expert learns from every image; the diversity term keeps them apart."""

    def __init__(self, model: MultiExpert, loss: RideLoss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Return ``base`` and ``diversity``."""
        terms: dict[str, Tensor] = self.loss(self.model(batch.views[0])["expert_logits"], batch.labels, clock.epoch_number)
        return terms


class DistilledExpertsTask(Task):
    """The same, with a frozen ensemble of more experts as teacher."""

    def __init__(self, model: MultiExpert, loss: RideLoss, teacher: nn.Module, config: DistillationConfig) -> None:
        super().__init__()
        self.model, self.teacher = model, teacher.requires_grad_(False)
        self.loss = DistilledRideLoss(loss, config.temperature, config.factor, config.total)
        self.teacher_in_training_mode = config.teacher_statistics == "batch"

    def train(self, mode: bool = True) -> "DistilledExpertsTask":
        """Set the mode of the student; the teacher's is a choice of the recipe."""
        super().train(mode)
        self.teacher.train(self.teacher_in_training_mode)
        return self

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Return ``base``, ``diversity`` and ``distillation``."""
        with torch.no_grad():
            teacher_logits = self.teacher(batch.views[0])["logits"]
        terms: dict[str, Tensor] = self.loss(self.model(batch.views[0])["expert_logits"], teacher_logits, batch.labels, clock.epoch_number)
        return terms


class RouterTask(Task):
    """Frozen experts; the router learns where a further expert would help."""

    def __init__(self, model: RoutedExperts, positive_weight: float) -> None:
        super().__init__()
        self.model, self.positive_weight = model, positive_weight

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Return ``routing``."""
        outputs = self.model(batch.views[0])
        targets = routing_targets(outputs["expert_logits"], batch.labels)
        return {"routing": routing_loss(outputs["router_scores"], targets, self.positive_weight)}
