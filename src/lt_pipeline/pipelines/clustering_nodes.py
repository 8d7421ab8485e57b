"""Nodes of the clustering template.

Labels are used for scores alone: what trains gets an image set whose labels are all -1 and facts that know clusters, not classes.
"""

import hashlib
import inspect
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial, wraps
from typing import Any

import numpy as np
import pandas as pd

from lt_pipeline.augment.config import PadCropView
from lt_pipeline.config import Config
from lt_pipeline.data.config import BenchmarkConfig
from lt_pipeline.methods import get_method
from lt_pipeline.methods.facts import DataFacts
from lt_pipeline.pipelines.stages import code_digest, finished_stage, run_facts, stage_job
from lt_pipeline.training.config import StageConfig, TrainerConfig, scale_epochs

logger = logging.getLogger(__name__)
STAGE = "clustering"
FIGURES = ("sizes", "learning")
"""Figures that the lineage view previews."""


def of_method(function: Callable[..., Any], method: str) -> Callable[..., Any]:
    """Return ``function`` without its first argument, the method's name, and with ``settings`` of the method's own class."""

    @wraps(function)
    def node(*arguments: Any, **named: Any) -> Any:
        return function(method, *arguments, **named)

    signature = inspect.signature(function)
    settings = get_method(method).settings_class()
    parameters = [
        each.replace(annotation=settings) if each.name == "settings" else each
        for each in signature.parameters.values()
        if each.name != "method"
    ]
    node.__dict__["__signature__"] = signature.replace(parameters=parameters)  # Kedro types a node's parameters by it
    node.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": signature.return_annotation}
    return node


def extract_features(
    method: str,
    settings: Config,
    trainer: TrainerConfig,
    benchmark: BenchmarkConfig,
    seed: int,
    images: Any,
    split: pd.DataFrame,
    cache: Any,
) -> Any:
    """Return what the backbone says of every image before training, or what lies in the cache if nothing that shapes it has changed."""
    import torch

    from lt_pipeline.models.backbones import weights_digest
    from lt_pipeline.training.features import Features, augmented_features, plain_features
    from lt_pipeline.training.randomness import derive_seed

    typed: Any = settings
    facts, stage = cluster_facts(method, typed, split, images, benchmark), typed.clustering
    get_method(method).load().check_sizes(typed, int((split["split"] == "train").sum()), facts.num_classes)
    frozen = typed.model.train == "heads"
    weights = weights_digest(typed.model.weights) if typed.model.weights else None
    shaping = {
        "backbone": typed.model.backbone,
        "weights": weights or {"seed": seed, "method": method},
        "views": [view.model_dump(mode="json") for view in stage.views] if frozen else [stage.views[0].model_dump(mode="json")],
        "draws": typed.draws if frozen else 0,
        "normalisation": [facts.mean, facts.std],
        "images": [facts.image_shape, hashlib.sha256("\n".join(split["split"] + split["digest"]).encode()).hexdigest()],
        "precision": trainer.precision,
        "code": code_digest(),
    }
    fingerprint = hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()[:16]
    kept = cache.find(fingerprint) if trainer.resume == "auto" else None
    if kept is not None:
        logger.info("The features of these images are known already and are reused; trainer.resume=never extracts them again.")
        return kept
    torch.manual_seed(derive_seed(seed, f"{method}.{STAGE}", "weights"))  # random weights are those that training starts from
    backbone = get_method(method).load().initial_network(typed, facts).backbone
    train, test = (without_labels(images, split, part) for part in ("train", "test"))
    common = (facts.mean, facts.std, trainer)
    return Features(
        train=plain_features(backbone, train, stage.views[0], *common, title=f"{method}: features"),
        test=plain_features(backbone, test, stage.views[0], *common, title=f"{method}: test features"),
        views=augmented_features(backbone, train, stage.views, typed.draws, *common, seed=0) if frozen else None,
        fingerprint=fingerprint,
    )


def find_neighbours(method: str, settings: Config, features: Any, images: Any, split: pd.DataFrame) -> Any:
    """Return the nearest training images of each training image and how similar they are, by features or by pixels."""
    import torch

    from lt_pipeline.errors import LongTailError
    from lt_pipeline.training.feed import resident_pixels
    from lt_pipeline.transport import neighbour_graph

    config: Any = settings.labels  # type: ignore[attr-defined]
    vectors = torch.from_numpy(features.train)
    if config.neighbours >= len(vectors):
        raise LongTailError(f"{method}.labels.neighbours={config.neighbours} must be below the number of training images, {len(vectors)}.")
    if config.similarity_of == "pixels":
        vectors = resident_pixels(without_labels(images, split, "train"), torch.device("cpu")).flatten(1).float() / 255
    return neighbour_graph(vectors, config.neighbours, config.kernel, config.kernel_scale)


def train_clusters(
    method: str,
    settings: Config,
    trainer: TrainerConfig,
    benchmark: BenchmarkConfig,
    seed: int,
    images: Any,
    split: pd.DataFrame,
    workspace: Any,
    features: Any,
    neighbours: Any = None,
) -> tuple[Any, pd.DataFrame]:
    """Train, continue or reuse the clustering; return its checkpoint and its history, one row an epoch."""
    from lt_pipeline.data.split import split_hash

    typed: Any = scale_epochs(settings, trainer.epochs_scale)
    stage: StageConfig = typed.clustering
    facts = cluster_facts(method, typed, split, images, benchmark)
    train_set = without_labels(images, split, "train")
    if typed.model.train == "heads":
        # the pictures have done their part: training deals in positions, to which the task knows the features
        train_set, stage = _positions_only(train_set), stage.model_copy(update={"views": (PadCropView(padding=0, flip=0),)})
    build = partial(get_method(method).load().build_task, typed, STAGE, facts, {}, features, neighbours)
    job = stage_job(
        method, STAGE, build, stage, trainer, seed, facts, train_set, {}, workspace,
        shaping={"settings": typed.model_dump(mode="json"), "split": split_hash(split), "features": features.fingerprint},
    )  # fmt: skip
    return finished_stage(job, typed, {})


def assign_images(
    method: str, settings: Config, checkpoint: Any, images: Any, split: pd.DataFrame, trainer: TrainerConfig, features: Any
) -> pd.DataFrame:
    """Return the cluster of every training and test image and how sure the network is: sample_id, split, file position, cluster, probability.

    The rows are those of the split; the table can be the label column of a classifier's source (``source.labels``).
    """
    import torch

    from lt_pipeline.pipelines.inference import build_network
    from lt_pipeline.training.inference import run_model

    typed: Any = settings
    network: Any = build_network(checkpoint)
    data = DataFacts.model_validate(checkpoint.facts["data"])
    tables = []
    for part, known in (("train", features.train), ("test", features.test)):
        rows = split[split["split"] == part]
        if typed.model.train == "heads":
            with torch.inference_mode():
                logits = network.cpu().eval().experts[0](torch.from_numpy(known))
        else:
            view = typed.clustering.views[0]
            answer = run_model(network, without_labels(images, split, part), view, data.mean, data.std, trainer, f"{method}: {part}")
            logits = torch.from_numpy(answer["logits"])
        best = logits.float().softmax(1).max(1)
        tables.append(
            pd.DataFrame(
                {
                    "sample_id": rows["sample_id"].to_numpy(),
                    "split": part,
                    "image": rows["image"].to_numpy(),
                    "cluster": best.indices.numpy().astype(np.int64),
                    "probability": best.values.numpy(),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def cluster_by_k_means(checkpoint: Any, features: Any, split: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return the clusters that spherical k-means finds in the initial features, the yardstick: sample_id, split, cluster."""
    from lt_pipeline.evaluation.clustering import spherical_k_means

    train, (test,) = spherical_k_means(features.train, [features.test], len(checkpoint.facts["data"]["class_names"]), seed)
    rows = pd.concat([split[split["split"] == part] for part in ("train", "test")])
    return pd.DataFrame({"sample_id": rows["sample_id"].to_numpy(), "split": rows["split"].to_numpy(), "cluster": np.r_[train, test]})


def score_assignments(
    method: str,
    settings: Config,
    checkpoint: Any,
    assignments: pd.DataFrame,
    k_means: pd.DataFrame,
    split: pd.DataFrame,
    benchmark: BenchmarkConfig,
) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
    """Return flat metrics, one row a class and one row a cluster; show the table in the terminal."""
    from rich.console import Console

    from lt_pipeline.data.split import split_hash
    from lt_pipeline.evaluation.cluster_report import cluster_metrics, cluster_table
    from lt_pipeline.pipelines.inference import answering

    typed: Any = settings
    facts = {
        "method": method,
        "benchmark": benchmark.name,
        "backbone": typed.model.backbone,
        "imbalance_factor": benchmark.stated_imbalance,
        "profile": benchmark.profile,
        "seed": checkpoint.facts["seed"],
        "split_hash": split_hash(split),
        "protocol": f"clusters, {'epoch of the lowest loss' if answering(checkpoint) == 'score' else 'last epoch'}",
        "precision": checkpoint.record["timing"]["precision"],
        "shot_convention": benchmark.shot_convention,
        "shot_many": benchmark.shot_many,
        "shot_few": benchmark.shot_few,
    }
    clusters = len(checkpoint.facts["data"]["class_names"])
    metrics, per_class, per_cluster = cluster_metrics(assignments, k_means, split, clusters, facts)
    Console(width=None if sys.stdout.isatty() else 110).print(cluster_table(metrics))
    if metrics["collapse"]:
        logger.warning("The clustering has collapsed: %s. A larger labels.gamma draws the sizes to equal ones.", metrics["collapse"])
    return metrics, per_class, per_cluster


def report_clusters(
    assignments: pd.DataFrame,
    metrics: dict[str, Any],
    per_class: pd.DataFrame,
    per_cluster: pd.DataFrame,
    checkpoint: Any,
    history: pd.DataFrame,
    images: Any,
) -> tuple[Any, ...]:
    """Return the page and the figures of :data:`FIGURES`."""
    from lt_pipeline.evaluation.cluster_report import cluster_figures, contact_sheet, render_cluster_report

    figures = cluster_figures(per_class, per_cluster, history)
    sheet = contact_sheet(assignments[assignments["split"] == "train"], per_cluster, images)
    page = render_cluster_report(metrics, per_class, per_cluster, figures, run_facts(checkpoint, metrics), history, sheet)
    return page, *(figures[name] for name in FIGURES)


def cluster_facts(method: str, settings: Any, split: pd.DataFrame, images: Any, benchmark: BenchmarkConfig) -> DataFacts:
    """Return facts in which classes are clusters; nothing in them comes from labels but their number, where it is not given.

    Raises:
        LongTailError: if the number of clusters is neither given nor known.
    """
    from lt_pipeline.data.labels import has_labels
    from lt_pipeline.errors import LongTailError

    if settings.clusters is None and not settings.model.clusters and not has_labels(split):
        raise LongTailError(f"The images have no labels that say how many clusters to look for: set {method}.clusters.")
    known = settings.model.clusters[0] if settings.model.clusters else settings.clusters
    count = known or int(split["label"].max()) + 1
    stage: StageConfig = settings.clustering
    return DataFacts(
        class_names=tuple(f"cluster {number}" for number in range(count)),
        train_counts=(0,) * count,
        image_shape=images.shape,
        mean=stage.mean or benchmark.mean,
        std=stage.std or benchmark.std,
    )


def without_labels(images: Any, split: pd.DataFrame, part: str) -> Any:
    """Return one part of a split whose labels are all -1."""
    from lt_pipeline.data.split import image_set

    known = image_set(images, split, part)
    return replace(known, labels=np.full(len(known.labels), -1, np.int64))


def _positions_only(images: Any) -> Any:
    """Return a set of as many blank pixels, which costs nothing to draw from."""
    from lt_pipeline.data.images import PackedImages

    count = len(images.rows)
    return replace(images, images=PackedImages(np.zeros((count, 1, 1, 3), np.uint8)), rows=np.arange(count))
