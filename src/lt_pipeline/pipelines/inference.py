"""From a checkpoint to predictions."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from lt_pipeline.augment.config import View, shape_of_view
from lt_pipeline.data.metadata import kept_numbers
from lt_pipeline.data.split import ImageSet
from lt_pipeline.evaluation.predictions import Predictions
from lt_pipeline.evaluation.routing import route
from lt_pipeline.methods import get_method
from lt_pipeline.methods.facts import DataFacts
from lt_pipeline.models.complexity import macs_per_depth
from lt_pipeline.models.router import RoutedExperts
from lt_pipeline.training.checkpoint import Checkpoint, State, load_into
from lt_pipeline.training.config import TrainerConfig
from lt_pipeline.training.inference import run_model

PROTOCOLS = {"last": "last epoch", "validation": "chosen on validation", "test": "best on test"}
"""How an epoch was selected, in the words of the tables."""


def answering(checkpoint: Checkpoint) -> str:
    """Return which of a checkpoint's weights answer: those that the method's settings select, the last epoch's if they select none."""
    wanted = checkpoint.facts["settings"].get("selection")
    return wanted if wanted in checkpoint.selections else "last"


def build_network(checkpoint: Checkpoint, state: State | None = None) -> nn.Module:
    """Return the network of a checkpoint with the weights that answer, or with ``state``.

    Raises:
        LongTailError: if the checkpoint's method or settings are unknown here, or the weights do not fit.
    """
    method = get_method(checkpoint.facts["method"])
    facts = DataFacts.model_validate(checkpoint.facts["data"])
    network: nn.Module = method.load().build_network(_settings(checkpoint), checkpoint.facts["stage"], facts)
    load_into(network, state or checkpoint.selections[answering(checkpoint)], f"The checkpoint of {method.name}")
    return network


def predictions_of(
    checkpoint: Checkpoint,
    images: ImageSet,
    trainer: TrainerConfig,
    facts: dict[str, Any],
    groups: Mapping[str, NDArray[np.str_]] | None = None,
) -> dict[str, Predictions]:
    """Return what each selection of a checkpoint says about a set of images.

    Every expert is asked about every image, so that accuracy can be told against cost at any threshold; the final ``logits`` are routed at
    the configured threshold where there is a router. A network that takes metadata answers with all of it, with none and with part.

    Args:
        checkpoint: of a final stage.
        images: what to predict, with the metadata of the checkpoint's groups.
        trainer: device, precision, batch size.
        facts: context that the predictions carry.
        groups: words for each image by which results are told apart.
    """
    return {
        selection: _predict(checkpoint, state, images, trainer, {**facts, "protocol": PROTOCOLS[selection]}, dict(groups or {}))
        for selection, state in checkpoint.selections.items()
    }


def classify(checkpoint: Checkpoint, images: ImageSet, trainer: TrainerConfig, threshold: float | None = None) -> pd.DataFrame:
    """Return one row an image: class, probability, the best five classes with theirs, experts asked and GMACs spent.

    Where there is a router, an expert runs only on the images that want it.

    Args:
        checkpoint: of a final stage.
        images: what to classify.
        trainer: device, precision, batch size.
        threshold: of the router; None takes the one of the checkpoint's settings.
    """
    data, view = DataFacts.model_validate(checkpoint.facts["data"]), _view(checkpoint)
    network = build_network(checkpoint)
    costs = macs_per_depth(network, _side(checkpoint, images))
    threshold = routing_threshold(checkpoint) if threshold is None else threshold
    model = _Routed(network, threshold) if isinstance(network, RoutedExperts) and threshold is not None else network
    outputs = run_model(model, images, view, data.mean, data.std, trainer, title="predict")
    probabilities = torch.from_numpy(outputs["logits"]).softmax(1)
    best = probabilities.topk(min(5, data.num_classes))
    names = np.array(data.class_names)
    used = outputs["experts_used"][:, 0].astype(np.int64) if "experts_used" in outputs else np.full(len(images.rows), len(costs))
    return pd.DataFrame(
        {
            "image": images.sample_ids,
            "class": names[best.indices[:, 0].numpy()],
            "probability": best.values[:, 0].numpy(),
            "top5": ["; ".join(row) for row in names[best.indices.numpy()]],
            "top5_probability": ["; ".join(f"{value:.4f}" for value in row) for row in best.values.tolist()],
            "experts_used": used,
            "gmacs": costs[used - 1] / 1e9,
        }
    )


def routing_threshold(checkpoint: Checkpoint) -> float | None:
    """Return the threshold the checkpoint's router was configured with, None without a router."""
    router = checkpoint.facts["settings"].get("router")
    return None if router is None else float(router["threshold"])


class _Routed(nn.Module):
    """Routed prediction in the shape of a network's output."""

    def __init__(self, network: RoutedExperts, threshold: float) -> None:
        super().__init__()
        self.network, self.threshold = network, threshold

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = self.network.predict(images, self.threshold)
        return {"logits": outputs["logits"], "experts_used": outputs["experts_used"][:, None]}


def _settings(checkpoint: Checkpoint) -> Any:
    return get_method(checkpoint.facts["method"]).settings_class().model_validate(checkpoint.facts["settings"])


def _view(checkpoint: Checkpoint) -> View:
    view: View = getattr(_settings(checkpoint), checkpoint.facts["stage"]).views[0]
    return view


def _side(checkpoint: Checkpoint, images: ImageSet) -> tuple[int, int]:
    """Return height and width of what the network sees."""
    shape = shape_of_view(_view(checkpoint), images.images.shape)
    return shape[:2] if shape else (0, 0)


def _predict(
    checkpoint: Checkpoint,
    state: State,
    images: ImageSet,
    trainer: TrainerConfig,
    facts: dict[str, Any],
    groups: dict[str, NDArray[np.str_]],
) -> Predictions:
    data, settings = DataFacts.model_validate(checkpoint.facts["data"]), _settings(checkpoint)
    method = checkpoint.facts["method"]
    network = build_network(checkpoint, state)
    macs = macs_per_depth(network, _side(checkpoint, images))
    kept = kept_numbers(data.metadata)
    outputs = run_model(network, images, _view(checkpoint), data.mean, data.std, trainer, title=f"{method}: predict", kept=kept)
    named = get_method(method).experts
    code = get_method(method).load()
    analysis = code.analyse(settings, network, images, _view(checkpoint), data, trainer) if hasattr(code, "analyse") else None
    block = getattr(settings, "model", None) or getattr(settings, checkpoint.facts["stage"]).model
    predictions = Predictions(
        sample_ids=np.asarray(images.sample_ids),
        labels=images.labels,
        logits=outputs["logits"],
        expert_logits=outputs["expert_logits"] if len(macs) > 1 else None,
        router_scores=outputs.get("router_scores"),
        macs_per_depth=macs,
        with_part={name: outputs[f"decisions/{name}"] for name in kept if f"decisions/{name}" in outputs},
        groups=groups,
        facts={
            "method": settings.loss.kind if method == "baseline" else method.removesuffix("_distilled"),
            "distilled": method.endswith("_distilled"),
            "backbone": block.backbone,
            **({"expert_names": list(named)} if named else {}),
            **({"analysis": analysis} if analysis else {}),
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
