"""The stages of DeiT-LT: teacher, student."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from lt_pipeline.augment.config import View
from lt_pipeline.data.split import ImageSet
from lt_pipeline.methods.deit_lt.analysis import analyse_tokens
from lt_pipeline.methods.deit_lt.config import DeitLt
from lt_pipeline.methods.deit_lt.start import announce, check_classes, check_teacher
from lt_pipeline.methods.deit_lt.student import DistillationTask
from lt_pipeline.methods.deit_lt.teacher import ContrastiveTask, DeferredTask, FrozenTeacher, teacher_network
from lt_pipeline.methods.facts import DataFacts
from lt_pipeline.models.distilled_vit import build_distilled_vit
from lt_pipeline.models.paco import ContrastiveNetwork
from lt_pipeline.models.registry import prepare
from lt_pipeline.training.checkpoint import Checkpoint, load_into
from lt_pipeline.training.config import TrainerConfig
from lt_pipeline.training.task import Task


def build_network(settings: DeitLt, stage: str, facts: DataFacts) -> nn.Module:
    """Return the untrained network of a stage.

    Raises:
        LongTailError: if the student's image is not made of whole patches.
    """
    if stage == "teacher":
        return teacher_network(settings.teacher, facts.num_classes)
    model = settings.student.model
    return build_distilled_vit(model.backbone, facts.num_classes, model.image_size, model.patch_size, model.drop_path)


def build_task(settings: DeitLt, stage: str, facts: DataFacts, previous: Mapping[str, Checkpoint]) -> Task:
    """Return the task of a stage; the student starts from the teacher's checkpoint.

    Raises:
        LongTailError: if a class has no training image, or the teacher's checkpoint does not fit.
    """
    network: Any = build_network(settings, stage, facts)
    if stage == "teacher":
        loss = settings.teacher.loss
        plain = network.network if isinstance(network, ContrastiveNetwork) else network
        prepare(plain, settings.teacher.model)
        return (ContrastiveTask if loss.kind == "paco" else DeferredTask)(network, loss, facts.train_counts)
    config = settings.student.distillation
    teacher = None if config.kind == "none" else frozen_teacher(settings, facts, previous["teacher"])
    return DistillationTask(network, teacher, config, facts.train_counts)


def frozen_teacher(settings: DeitLt, facts: DataFacts, checkpoint: Checkpoint) -> FrozenTeacher:
    """Return the trained teacher as the student uses it.

    Raises:
        LongTailError: if its classes, their order or its weights differ from what is expected here.
    """
    data = DataFacts.model_validate(checkpoint.facts["data"])
    check_classes(data, facts)
    network: Any = teacher_network(settings.teacher, facts.num_classes)
    load_into(network, checkpoint.state, "The teacher's checkpoint")
    plain = network.network if isinstance(network, ContrastiveNetwork) else network
    return FrozenTeacher(plain, settings.student.distillation, facts, data)


def before_training(
    settings: DeitLt, stage: str, facts: DataFacts, previous: Mapping[str, Checkpoint], train: ImageSet, trainer: TrainerConfig
) -> None:
    """Say what a stage is about to do, and refuse what cannot be meant.

    Raises:
        LongTailError: if batch, accumulation and processes contradict each other, or the teacher speaks of other classes.
    """
    if stage == "teacher":
        announce("teacher", settings.teacher, train, facts.num_classes, trainer, paired=False)
        return
    config = settings.student.distillation
    announce("student", settings.student, train, facts.num_classes, trainer, paired=bool(config.mixup or config.cutmix))
    if config.kind != "none":
        check_teacher(frozen_teacher(settings, facts, previous["teacher"]), config, settings, facts, train, trainer)


def analyse(settings: DeitLt, network: nn.Module, images: ImageSet, view: View, facts: DataFacts, trainer: TrainerConfig) -> dict[str, Any]:
    """Return the paper's analyses of a trained student, JSON-able, for the report."""
    return analyse_tokens(network, images, view, facts, trainer)
