"""From a checkpoint to predictions."""

from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from lt_pipeline.data.split import ImageSet
from lt_pipeline.errors import LongTailError
from lt_pipeline.evaluation.predictions import Predictions
from lt_pipeline.evaluation.routing import route
from lt_pipeline.methods import get_method
from lt_pipeline.methods.facts import DataFacts
from lt_pipeline.models.complexity import macs_per_depth
from lt_pipeline.training.checkpoint import Checkpoint, State, load_into
from lt_pipeline.training.config import TrainerConfig
from lt_pipeline.training.inference import run_model

PROTOCOLS = {"last": "last epoch", "validation": "chosen on validation", "test": "best on test"}
"""How an epoch was selected, in the words of the tables."""


def build_network(checkpoint: Checkpoint, state: State | None = None) -> nn.Module:
    """Return the network of a checkpoint with its weights (the last epoch's unless another ``state`` is given).

    Raises:
        LongTailError: if the checkpoint's method or settings are unknown here, or the weights do not fit.
    """
    method = get_method(checkpoint.facts["method"])
    settings = method.settings_class().model_validate(checkpoint.facts["settings"])
    facts = DataFacts.model_validate(checkpoint.facts["data"])
    network: nn.Module = method.load().build_network(settings, checkpoint.facts["stage"], facts)
    load_into(network, state or checkpoint.state, f"The checkpoint of {method.name}")
    return network


def predictions_of(checkpoint: Checkpoint, images: ImageSet, trainer: TrainerConfig, facts: dict[str, Any]) -> dict[str, Predictions]:
    """Return what each selection of a checkpoint says about a set of images.

    Every expert is asked about every image, so that accuracy can be told against cost at any threshold; the final ``logits`` are routed at
    the configured threshold where there is a router.
    """
    return {
        selection: _predict(checkpoint, state, images, trainer, {**facts, "protocol": PROTOCOLS[selection]})
        for selection, state in checkpoint.selections.items()
    }


def routing_threshold(checkpoint: Checkpoint) -> float | None:
    """Return the threshold the checkpoint's router was configured with, None without a router."""
    router = checkpoint.facts["settings"].get("router")
    return None if router is None else float(router["threshold"])


def _predict(checkpoint: Checkpoint, state: State, images: ImageSet, trainer: TrainerConfig, facts: dict[str, Any]) -> Predictions:
    data = DataFacts.model_validate(checkpoint.facts["data"])
    method = get_method(checkpoint.facts["method"])
    settings = method.settings_class().model_validate(checkpoint.facts["settings"])
    view = getattr(settings, checkpoint.facts["stage"]).views[0]
    shape = getattr(images.images, "shape", None)
    if len(images.rows) == 0:
        raise LongTailError(f"There is no image to predict on in {facts.get('benchmark', 'the folder')}.")
    network = build_network(checkpoint, state)
    side = (shape[0], shape[1]) if view.kind == "pad_crop" else (view.size, view.size)
    macs = macs_per_depth(network, side)
    outputs = run_model(network, images, view, data.mean, data.std, trainer, title=f"{method.name}: predict")
    predictions = Predictions(
        sample_ids=np.asarray(images.sample_ids),
        labels=images.labels,
        logits=outputs["logits"],
        expert_logits=outputs["expert_logits"] if len(macs) > 1 else None,
        router_scores=outputs.get("router_scores"),
        macs_per_depth=macs,
        facts={
            "method": settings.loss.kind if method.name == "baseline" else method.name.removesuffix("_distilled"),
            "distilled": method.name.endswith("_distilled"),
            "backbone": settings.model.backbone,
            "seed": checkpoint.facts["seed"],
            "precision": trainer.precision,
            "class_names": list(data.class_names),
            "train_counts": list(data.train_counts),
            **facts,
        },
    )
    threshold = routing_threshold(checkpoint)
    if predictions.router_scores is None or threshold is None:
        return predictions
    logits, used = route(outputs["expert_logits"], outputs["router_scores"], threshold)
    return replace(predictions, logits=logits, experts_used=used, facts={**predictions.facts, "router_threshold": threshold})
