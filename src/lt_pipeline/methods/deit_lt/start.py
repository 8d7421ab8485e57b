"""What is said and checked before a stage of DeiT-LT begins or goes on."""

import logging
import math

import numpy as np

from lt_pipeline.data.split import ImageSet
from lt_pipeline.errors import LongTailError
from lt_pipeline.methods.deit_lt.config import DeitLt, DistillationConfig
from lt_pipeline.methods.deit_lt.teacher import FrozenTeacher
from lt_pipeline.methods.facts import DataFacts
from lt_pipeline.training.clock import Clock
from lt_pipeline.training.config import StageConfig, TrainerConfig
from lt_pipeline.training.inference import run_model
from lt_pipeline.training.samplers import build_sampler
from lt_pipeline.training.schedule import learning_rate

logger = logging.getLogger(__name__)
_IMAGES = 2048


def announce(name: str, stage: StageConfig, train: ImageSet, num_classes: int, trainer: TrainerConfig, paired: bool) -> None:
    """Log how many steps of how many images at what rates a stage takes.

    Args:
        name: of the stage.
        stage: its settings.
        train: the training split.
        num_classes: C.
        trainer: how many processes share a step.
        paired: images are mixed in pairs, so every forward pass needs an even number.

    Raises:
        LongTailError: if a step does not divide among accumulation and processes, or a forward pass would be odd.
    """
    images, parts = epoch_images(stage, train, num_classes), stage.accumulate * trainer.processes * trainer.nodes
    if stage.batch_size % parts:
        raise LongTailError(
            f"{name}.batch_size is {stage.batch_size}, which {stage.accumulate} accumulation steps on {trainer.processes * trainer.nodes} "
            f"process(es) do not divide; choose a multiple of {parts}."
        )
    last = images % stage.batch_size
    if paired and any(size % 2 for size in {stage.batch_size // parts, *([*_dealt(last, parts)] if last else [])}):
        raise LongTailError(
            f"{name} mixes images in pairs, but a forward pass would have an odd number: {images} images an epoch in steps of "
            f"{stage.batch_size}, each in {parts} part(s). Choose batch_size and accumulate so that all parts are even, or set "
            "sampler.drop_last=true."
        )
    steps = math.ceil(images / stage.batch_size)
    rates = [learning_rate(stage.schedule, stage.optimizer.lr, Clock(step, steps, stage.epochs)) for step in range(stage.epochs * steps)]
    logger.info(
        "%s: %d steps an epoch, %d in all; %d images a step (%d at a time on %d process(es)); learning rate at most %.4g, %.4g in the last step.",
        name,
        steps,
        steps * stage.epochs,
        stage.batch_size,
        stage.batch_size // parts,
        trainer.processes * trainer.nodes,
        max(rates),
        rates[-1],
    )


def epoch_images(stage: StageConfig, train: ImageSet, num_classes: int) -> int:
    """Return the images that an epoch draws."""
    length = build_sampler(stage.sampler, train.labels, num_classes, 0).length
    return length // stage.batch_size * stage.batch_size if stage.sampler.drop_last else length


def _dealt(images: int, parts: int) -> list[int]:
    """Return the sizes of the parts of a step, as the training loop deals them; too few images go whole to each part."""
    return [len(range(part, images, parts)) for part in range(parts)] if images >= parts else [images]


def check_classes(teacher: DataFacts, student: DataFacts) -> None:
    """Compare the label spaces of teacher and student.

    Raises:
        LongTailError: if classes or their order differ.
    """
    if teacher.class_names == student.class_names:
        return
    if sorted(teacher.class_names) == sorted(student.class_names):
        place = next(i for i, names in enumerate(zip(teacher.class_names, student.class_names, strict=True)) if names[0] != names[1])
        raise LongTailError(
            f"The teacher has the same classes in another order: its class {place} is '{teacher.class_names[place]}', the student's is "
            f"'{student.class_names[place]}'. Train both with the same benchmark.class_order."
        )
    raise LongTailError(
        f"The teacher knows other classes: {teacher.num_classes} from '{teacher.class_names[0]}' on, the student {student.num_classes} "
        f"from '{student.class_names[0]}' on. Train the teacher on this split."
    )


def check_teacher(
    teacher: FrozenTeacher, config: DistillationConfig, settings: DeitLt, facts: DataFacts, train: ImageSet, trainer: TrainerConfig
) -> float:
    """Return the teacher's accuracy, mean over classes, on clean training images in the student's size and normalisation.

    Raises:
        LongTailError: if it is not far above chance: then its label space, its normalisation or its training is wrong.
    """
    chosen = class_balanced_rows(train.labels, facts.num_classes, _IMAGES)
    sample = ImageSet(train.images, train.rows[chosen], train.labels[chosen], [train.sample_ids[row] for row in chosen])
    answers = run_model(teacher, sample, settings.student.views[0], facts.mean, facts.std, trainer)["logits"].argmax(1)
    right = answers == sample.labels
    accuracy = float(np.mean([right[sample.labels == label].mean() for label in np.unique(sample.labels)]))
    chance = 1 / facts.num_classes
    least = min(3 * chance, (1 + chance) / 2) if config.teacher_accuracy is None else config.teacher_accuracy
    logger.info("The teacher names %.1f %% of %d clean training images right (mean over classes).", 100 * accuracy, len(chosen))
    if accuracy < least:
        raise LongTailError(
            f"The teacher names only {100 * accuracy:.1f} % of clean training images right (mean over classes; chance is {100 * chance:.1f} %, "
            f"at least {100 * least:.1f} % are asked for). Its label space or its input differs from the student's, or it was trained too "
            "little; student.distillation.teacher_accuracy sets the bar."
        )
    return accuracy


def class_balanced_rows(labels: np.ndarray, num_classes: int, images: int) -> np.ndarray:
    """Return the positions of the first ``images / num_classes`` images of each class, at least one of each."""
    each = max(images // num_classes, 1)
    return np.concatenate([np.flatnonzero(labels == label)[:each] for label in range(num_classes)])
