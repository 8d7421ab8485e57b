"""What every training node needs: the job of a stage, its checkpoint, found or trained, and the facts of a run."""

import hashlib
import logging
import os
import platform
import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from lt_pipeline.config import Config
from lt_pipeline.methods.facts import DataFacts
from lt_pipeline.training.config import StageConfig, TrainerConfig

logger = logging.getLogger(__name__)
_PACKAGES = ("lt-pipeline", "torch", "torchvision", "timm", "kedro", "numpy", "pandas")
_SHAPES_WEIGHTS = ("ranks.py", *(f"{room}/**/*.py" for room in ("augment", "data", "losses", "methods", "models", "training", "transport")))


def stage_job(
    method: str,
    stage: str,
    build: Callable[[], Any],
    config: StageConfig,
    trainer: TrainerConfig,
    seed: int,
    facts: DataFacts,
    train: Any,
    monitors: dict[str, Any],
    workspace: Any,
    shaping: dict[str, Any],
) -> Any:
    """Return the :class:`~lt_pipeline.training.loop.Job` of a stage.

    Args:
        method: name.
        stage: name.
        build: makes the task.
        config: of the stage.
        trainer: machine settings.
        seed: of everything random.
        facts: about the data.
        train: the training images.
        monitors: further image sets, by selection name.
        workspace: of the stage.
        shaping: what shapes the weights beside method, stage, data, seed, precision and number of processes: settings, split, and whatever
            the pipeline adds.
    """
    from lt_pipeline.training.loop import Job

    fingerprint = {
        "method": method,
        "stage": stage,
        "data": facts.model_dump(mode="json"),
        "seed": seed,
        "precision": trainer.precision,
        "processes": trainer.processes * trainer.nodes,
        **shaping,
    }
    return Job(
        name=f"{method}.{stage}",
        build=build,
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
    """Return 16 hex digits over the source of everything that can change what is learned."""
    root, digest = Path(__file__).resolve().parents[1], hashlib.sha256()
    for path in sorted(path for pattern in _SHAPES_WEIGHTS for path in root.glob(pattern)):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
