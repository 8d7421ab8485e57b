"""The one stage of P2OT and SP2OT."""

from collections.abc import Mapping
from typing import Any

import torch

from lt_pipeline.augment.config import shape_of_view
from lt_pipeline.errors import LongTailError
from lt_pipeline.methods.facts import DataFacts
from lt_pipeline.methods.p2ot.config import P2ot, Sp2ot
from lt_pipeline.methods.p2ot.labels import Labeller
from lt_pipeline.methods.p2ot.task import SelfLabelling
from lt_pipeline.models.backbones import load_backbone
from lt_pipeline.models.clustering import ClusterNetwork, cluster_network
from lt_pipeline.training.features import Features


def build_network(settings: P2ot, stage: str, facts: DataFacts) -> ClusterNetwork:
    """Return the untrained network; ``facts.num_classes`` is the number of clusters."""
    return cluster_network(settings.model, facts.num_classes, shape_of_view(settings.clustering.views[0], facts.image_shape))


def initial_network(settings: P2ot, facts: DataFacts) -> ClusterNetwork:
    """Return the network with the weights its backbone starts from.

    Raises:
        LongTailError: if the weights cannot be read or do not fit.
    """
    network = build_network(settings, "clustering", facts)
    if settings.model.weights:
        load_backbone(network.backbone, settings.model.weights)
    return network


def build_task(
    settings: P2ot, stage: str, facts: DataFacts, previous: Mapping[str, Any], features: Features, neighbours: Any = None
) -> SelfLabelling:
    """Return the task.

    Args:
        settings: of the method.
        stage: ``clustering``.
        facts: classes are clusters here.
        previous: no earlier stage.
        features: initial features, with augmented views where the backbone is not trained.
        neighbours: similarity of the training images, for SP2OT.

    Raises:
        LongTailError: if there are more clusters than images, the memory does not fit the data, or the weights do not fit.
    """
    check_sizes(settings, len(features.train), facts.num_classes)
    network = initial_network(settings, facts)
    cached = None if features.views is None else torch.from_numpy(features.views)
    drifting = isinstance(settings, Sp2ot) and settings.drift_weight > 0 and settings.model.train != "heads"
    initial = torch.from_numpy(features.train) if drifting else None
    return SelfLabelling(network, settings, Labeller(settings.labels, neighbours), facts.num_classes, cached, initial)


def check_sizes(settings: P2ot, images: int, clusters: int) -> None:
    """Refuse what cannot be clustered.

    Raises:
        LongTailError: if there are more clusters than images, or a memory larger than the training set.
    """
    most = max((clusters, *settings.model.clusters))
    if most > images:
        raise LongTailError(f"{images} training images cannot make {most} clusters; lower the number of clusters.")
    rows = settings.bank.batches * settings.clustering.batch_size
    if rows > images:
        raise LongTailError(
            f"The memory of {settings.bank.batches} batches of {settings.clustering.batch_size} holds {rows} rows, more than the {images} "
            "training images; lower bank.batches or clustering.batch_size."
        )
