"""Nodes of the classification template: they fetch typed settings, call the layers below and hand results to the catalog.

Kedro reads the annotations of a node to type its parameters and needs every name in them at run time; values whose class lives beside torch
(checkpoints, workspaces, image stores, predictions) are therefore annotated ``Any``, so that listing pipelines stays quick.
"""

import hashlib
import logging
import os
import platform
import sys
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from lt_pipeline.config import Config
from lt_pipeline.data.config import BenchmarkConfig
from lt_pipeline.data.metadata_config import MetadataConfig
from lt_pipeline.methods import get_method
from lt_pipeline.methods.facts import DataFacts
from lt_pipeline.training.config import ProtocolConfig, StageConfig, TrainerConfig, scale_epochs, warn_beyond_the_end

logger = logging.getLogger(__name__)
_PACKAGES = ("lt-pipeline", "torch", "torchvision", "timm", "kedro", "numpy", "pandas")
_SHAPES_WEIGHTS = ("augment", "data", "losses", "methods", "models", "training", "transport")


def training_node(method: str, stage: str) -> Callable[..., Any]:
    """Return the node function that trains one stage of a method."""

    def train(
        settings: Config,
        trainer: TrainerConfig,
        protocol: ProtocolConfig,
        benchmark: BenchmarkConfig,
        metadata: MetadataConfig,
        seed: int,
        images: Any,
        split: pd.DataFrame,
        workspace: Any,
        **previous: Any,
    ) -> tuple[Any, pd.DataFrame]:
        return train_stage(method, stage, settings, trainer, protocol, benchmark, metadata, seed, images, split, workspace, previous)

    train.__name__ = f"train_{stage}"
    train.__doc__ = f"Train stage '{stage}' of {method}."
    train.__annotations__["settings"] = get_method(method).settings_class()
    return train


def train_stage(
    method: str,
    stage: str,
    settings: Config,
    trainer: TrainerConfig,
    protocol: ProtocolConfig,
    benchmark: BenchmarkConfig,
    metadata: MetadataConfig,
    seed: int,
    images: Any,
    split: pd.DataFrame,
    workspace: Any,
    previous: dict[str, Any],
) -> tuple[Any, pd.DataFrame]:
    """Train, continue or reuse one stage; return its checkpoint and its history, one row an epoch.

    A finished stage is reused when nothing that shapes its weights has changed: settings, seed, split, the checkpoints before it, and the
    project's code. ``trainer.resume=never`` always trains.
    """
    from lt_pipeline.data.labels import has_labels
    from lt_pipeline.data.metadata import fit_metadata, metadata_digest
    from lt_pipeline.data.split import class_statistics, image_set, split_hash
    from lt_pipeline.errors import LongTailError
    from lt_pipeline.training.loop import Job

    if not has_labels(split):
        raise LongTailError(f"{method} learns from labels, and the images have none; p2ot and sp2ot cluster images without labels.")
    described = get_method(method)
    typed = scale_epochs(settings, trainer.epochs_scale)
    config: StageConfig = getattr(typed, stage)
    statistics = class_statistics(split)
    facts = DataFacts(
        class_names=statistics.names,
        train_counts=tuple(int(count) for count in statistics.counts),
        image_shape=images.shape,
        mean=config.mean or benchmark.mean,
        std=config.std or benchmark.std,
        metadata=fit_metadata(split[split["split"] == "train"], metadata) if described.metadata else (),
    )
    identity = split_hash(split)
    train, monitors = image_set(images, split, "train", facts.metadata), _monitors(protocol, images, split, facts)
    later = [name for name in described.stages if name != stage]
    fingerprint = {
        "method": method,
        "stage": stage,
        "settings": typed.model_dump(mode="json", exclude=set(later)),
        "data": facts.model_dump(mode="json"),
        "split": identity,
        "seed": seed,
        "precision": trainer.precision,
        "processes": trainer.processes * trainer.nodes,
        "monitors": sorted(monitors),
        "previous": {name: checkpoint.digest for name, checkpoint in previous.items()},
        **({"metadata": metadata_digest(train.metadata)} if train.metadata is not None else {}),
    }
    for name, checkpoint in previous.items():
        _same_split(checkpoint, identity, f"The {name} checkpoint")
    longest = max(getattr(typed, name).epochs for name in described.stages)
    for name, block in typed:
        if isinstance(block, Config) and (name == stage or (name not in described.stages and config.epochs == longest)):
            warn_beyond_the_end(block, config.epochs, f"{method}.{name}")
    code = described.load()
    job = Job(
        name=f"{method}.{stage}",
        build=partial(code.build_task, typed, stage, facts, previous),
        stage=config,
        trainer=trainer,
        seed=seed,
        num_classes=facts.num_classes,
        mean=facts.mean,
        std=facts.std,
        train=train,
        monitors=monitors,
        workspace=workspace,
        fingerprint=fingerprint,
    )
    check = partial(code.before_training, typed, stage, facts, previous, job.train, trainer) if hasattr(code, "before_training") else None
    return finished_stage(job, typed, {name: one.record.get("timing") for name, one in previous.items()}, check)


def finished_stage(
    job: Any, settings: Config, previous: dict[str, Any], check: Callable[[], None] | None = None
) -> tuple[Any, pd.DataFrame]:
    """Run a job, or find its finished checkpoint unchanged; return checkpoint and history.

    Args:
        job: with a fingerprint that has method, stage, data, split and seed.
        settings: of the whole method, as they shape the stage.
        previous: timing of the earlier stages.
        check: what the method looks at before it trains; not called for a stage that is reused.
    """
    from lt_pipeline.training.checkpoint import Checkpoint
    from lt_pipeline.training.loop import train

    finished = job.workspace.finished() if job.trainer.resume == "auto" else None
    if finished is not None and finished.facts.get("fingerprint") == job.fingerprint and finished.facts.get("code") == code_digest():
        logger.info("%s is already trained with these settings and is reused; trainer.resume=never trains it again.", job.name)
        return finished, pd.DataFrame(finished.record["history"])
    if check is not None:
        check()
    result = train(job)
    history = [{"stage": job.fingerprint["stage"], **row} for row in result.history]
    checkpoint = Checkpoint(
        result.selections,
        facts={
            **{name: job.fingerprint[name] for name in ("method", "stage", "data", "seed")},
            "settings": settings.model_dump(mode="json"),
            "split_hash": job.fingerprint["split"],
            "fingerprint": job.fingerprint,
            "code": code_digest(),
            "versions": {package: version(package) for package in _PACKAGES},
        },
        record={"history": history, "timing": result.timing, "previous": previous},
    )
    return checkpoint, pd.DataFrame(history)


def predict_test(
    checkpoint: Any, images: Any, split: pd.DataFrame, trainer: TrainerConfig, benchmark: BenchmarkConfig, metadata: MetadataConfig
) -> dict[str, Any]:
    """Read the test split, once, and return what the final network says about it, by selection; with all of the metadata and with less.

    Raises:
        LongTailError: if the checkpoint was trained on another split or on other classes.
    """
    from lt_pipeline.data.metadata import values_to_report
    from lt_pipeline.data.split import class_statistics, image_set, split_hash
    from lt_pipeline.pipelines.inference import predictions_of

    identity = split_hash(split)
    _same_split(checkpoint, identity, "The checkpoint")
    facts = {
        "benchmark": benchmark.name,
        "split_hash": identity,
        "test_part": "test",
        "shot_convention": benchmark.shot_convention,
        "shot_many": benchmark.shot_many,
        "shot_few": benchmark.shot_few,
        "rank_groups": benchmark.rank_groups,
        "profile": benchmark.profile,
        "imbalance_factor": benchmark.stated_imbalance,
        "train_counts": [int(count) for count in class_statistics(split).counts],
    }
    groups = DataFacts.model_validate(checkpoint.facts["data"]).metadata
    test = image_set(images, split, "test", groups)
    return predictions_of(checkpoint, test, trainer, facts, values_to_report(split, metadata))


def evaluate_predictions(predictions: dict[str, Any]) -> tuple[dict[str, Any], pd.DataFrame]:
    """Return flat metrics of every selection and the per-class table of the last epoch; show the table in the terminal."""
    from rich.console import Console

    from lt_pipeline.evaluation.metrics import evaluate_many
    from lt_pipeline.evaluation.terminal import terminal_table
    from lt_pipeline.pipelines.inference import PROTOCOLS

    metrics, per_class = evaluate_many(
        {label: predictions[selection] for selection, label in PROTOCOLS.items() if selection in predictions}
    )
    if "top5" not in metrics:
        logger.info("Top-5 accuracy is left out: there are only %d classes.", len(per_class))
    Console(width=None if sys.stdout.isatty() else 110).print(terminal_table(metrics))
    return metrics, per_class


def report_node(routed: bool) -> Callable[..., tuple[Any, ...]]:
    """Return the node function that makes the report page and the figures that the lineage view previews."""

    def report(
        predictions: dict[str, Any], metrics: dict[str, Any], per_class: pd.DataFrame, checkpoint: Any, *histories: pd.DataFrame
    ) -> tuple[Any, ...]:
        """Return the page and the figures of :func:`previewed_figures`."""
        from lt_pipeline.evaluation.figures import build_figures
        from lt_pipeline.evaluation.metadata import group_table
        from lt_pipeline.evaluation.report import render_report

        last, history = predictions["last"], pd.concat(histories, ignore_index=True)
        figures = build_figures(last, metrics, per_class, history)
        page = render_report(metrics, per_class, figures, run_facts(checkpoint, last.facts), history, group_table(last.labelled()))
        return page, *(figures[name] for name in previewed_figures(routed))

    return report


def previewed_figures(routed: bool) -> list[str]:
    """Return the names of the figures that have a dataset of their own; only routed methods trade accuracy for cost."""
    return ["tail", "learning", "reliability", *(["cost"] if routed else [])]


def run_facts(checkpoint: Any, facts: dict[str, Any]) -> dict[str, Any]:
    """Return what a reader must know to trust or repeat the figures."""
    timing = checkpoint.record["timing"]
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "method": checkpoint.facts["method"],
        "benchmark": facts["benchmark"],
        "seed": checkpoint.facts["seed"],
        "split_hash": checkpoint.facts["split_hash"],
        "protocol": facts["protocol"],
        "settings": checkpoint.facts["settings"],
        "versions": checkpoint.facts["versions"],
        "hardware": f"{timing['device']}, {platform.machine()}, {os.cpu_count()} cores",
        "precision": timing["precision"],
        "timing": {checkpoint.facts["stage"]: timing, **checkpoint.record["previous"]},
        "python": platform.python_version(),
    }


@cache
def code_digest() -> str:
    """Return 16 hex digits over the source of every package that can change what is learned."""
    root, digest = Path(__file__).resolve().parents[1], hashlib.sha256()
    for path in sorted(path for folder in _SHAPES_WEIGHTS for path in (root / folder).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _monitors(protocol: ProtocolConfig, images: Any, split: pd.DataFrame, facts: DataFacts) -> dict[str, Any]:
    from lt_pipeline.data.split import image_set
    from lt_pipeline.errors import LongTailError

    monitors = {}
    if protocol.select_on_validation:
        if not (split["split"] == "val").any():
            raise LongTailError("protocol.select_on_validation needs a validation part: set benchmark.validation_fraction above 0.")
        monitors["validation"] = image_set(images, split, "val", facts.metadata)
    if protocol.select_on_test:
        monitors["test"] = image_set(images, split, "test", facts.metadata)
    return monitors


def _same_split(checkpoint: Any, identity: str, what: str) -> None:
    from lt_pipeline.errors import LongTailError

    if checkpoint.facts["split_hash"] != identity:
        raise LongTailError(
            f"{what} was trained on split {checkpoint.facts['split_hash']}, this run uses split {identity}. "
            "Train the earlier stage again on this split."
        )
