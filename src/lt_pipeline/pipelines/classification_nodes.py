"""Nodes of the classification template: they fetch typed settings, call the layers below and hand results to the catalog.

Kedro reads the annotations of a node to type its parameters and needs every name in them at run time; values whose class lives beside torch
(checkpoints, workspaces, image stores, predictions) are therefore annotated ``Any``, so that listing pipelines stays quick.
"""

import logging
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd

from lt_pipeline.config import Config
from lt_pipeline.data.config import BenchmarkConfig
from lt_pipeline.data.metadata_config import MetadataConfig
from lt_pipeline.methods import get_method
from lt_pipeline.methods.facts import DataFacts
from lt_pipeline.pipelines.stages import finished_stage, run_facts, stage_job
from lt_pipeline.training.config import ProtocolConfig, StageConfig, TrainerConfig, scale_epochs, warn_beyond_the_end

logger = logging.getLogger(__name__)


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
    for name, checkpoint in previous.items():
        _same_split(checkpoint, identity, f"The {name} checkpoint")
    longest = max(getattr(typed, name).epochs for name in described.stages)
    for name, block in typed:
        if isinstance(block, Config) and (name == stage or (name not in described.stages and config.epochs == longest)):
            warn_beyond_the_end(block, config.epochs, f"{method}.{name}")
    code = described.load()
    train = image_set(images, split, "train", facts.metadata)
    later = {name for name in described.stages if name != stage}
    monitors = _monitors(protocol, images, split, facts)
    job = stage_job(
        method, stage, partial(code.build_task, typed, stage, facts, previous), config, trainer, seed, facts, train, monitors, workspace,
        shaping={
            "settings": typed.model_dump(mode="json", exclude=later),
            "split": identity,
            "monitors": sorted(monitors),
            "previous": {name: checkpoint.digest for name, checkpoint in previous.items()},
            **({"metadata": metadata_digest(train.metadata)} if train.metadata is not None else {}),
        },
    )  # fmt: skip
    check = partial(code.before_training, typed, stage, facts, previous, job.train, trainer) if hasattr(code, "before_training") else None
    return finished_stage(job, typed, {name: one.record.get("timing") for name, one in previous.items()}, check)


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
