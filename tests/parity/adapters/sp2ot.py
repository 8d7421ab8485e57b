"""SP2OT: what differs from P2OT; the solver's own components are beside."""

from typing import Any, cast

import torch
from torch import Tensor

from lt_pipeline.losses.self_labelling import cross_entropy_of_views, feature_drift
from lt_pipeline.methods.p2ot.config import LabelsConfig, SemanticConfig, Sp2ot
from lt_pipeline.methods.p2ot.labels import Labeller
from lt_pipeline.models.clustering import EquiangularHead
from lt_pipeline.transport import NeighbourGraph
from tests.parity.adapters.p2ot import Params, Tensors, clustering_metrics, loss_of, memory_bank, settings_of, trained
from tests.parity.adapters.sp2ot_transport import COMPONENTS as TRANSPORT


class GivenSimilarity:
    """A dense similarity in the place of a graph of neighbours."""

    def __init__(self, similarity: Tensor) -> None:
        self.similarity = similarity

    def among(self, positions: Tensor) -> Tensor:
        return self.similarity[positions][:, positions]


def labels_config(params: Params) -> LabelsConfig:
    common = {
        "mass_start": params["rho_base"],
        "mass_end": params["rho_upper"],
        "ramp": params.get("strategy", "sigmoid"),
        "epsilon": params["epsilon"],
        "gamma": params["gamma"],
        "algorithm": "scaling" if params["variant"] == "sppot" else "semidual",
    }
    if params["variant"] == "ppot_stable":
        return LabelsConfig(**common)
    return SemanticConfig(**common, semantic_weight=params["semantic_weight_base"], majorizations=params["mm_max_iterations"])


def labeller(config: LabelsConfig, tensors: Tensors) -> Labeller:
    semantic = isinstance(config, SemanticConfig)
    return Labeller(config, cast(NeighbourGraph, GivenSimilarity(tensors["in.similarity"])) if semantic else None)


def loss(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    config, batch = labels_config(params), len(tensors["in.logits.view0.head0"])
    settings = settings_of(params, config, batch)
    return loss_of(params, tensors, settings, labeller(config, tensors))


def train_epoch(params: Params, tensors: Tensors) -> dict[str, Any]:
    config, batch = labels_config(params), len(tensors["in.images.view0"][0])
    assert isinstance(config, SemanticConfig)
    drift = {"drift_weight": params["feature_weight"] or 0.0, "drift_follows_mass": not params["feature_weight_fixed"]}
    settings = settings_of(params, config, batch, Sp2ot, **drift)
    reference = tensors["in.reference"] if params["feature_weight"] else None
    return trained(params, tensors, settings, labeller(config, tensors), reference)


def feature_regularizer(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    views = torch.stack([tensors[f"in.features.view{view}"] for view in range(params["num_views"])]).requires_grad_()
    value = feature_drift(views, tensors["in.reference"][tensors["in.sample_index"]])
    value.backward()
    return {"loss": value, **{f"grad.features.view{view}": views.grad[view] for view in range(params["num_views"])}}


def supervised_loss(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    views = torch.stack([tensors[f"in.logits.view{view}.head0"] for view in range(params["num_views"])]).requires_grad_()
    value = cross_entropy_of_views(views, tensors["in.targets"].expand(len(views), -1))
    value.backward()
    return {"loss": value[None], **{f"grad.logits.view{view}.head0": views.grad[view] for view in range(params["num_views"])}}


def etf_head(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    features = tensors["in.features"]
    head = EquiangularHead(features.shape[1], tensors["state.orthogonal"].shape[1], params["scale"])
    head.orthogonal.copy_(tensors["state.orthogonal"])
    if params["expanded"]:
        with torch.no_grad():
            head.expand.weight.copy_(tensors["state.expand.weight"])
            head.expand.bias.copy_(tensors["state.expand.bias"])
    logits = head(features.requires_grad_())
    (logits * tensors["in.upstream"]).sum().backward()
    grads = {f"grad.expand.{name}": parameter.grad for name, parameter in head.expand.named_parameters()}
    return {"grad.features": features.grad, "frame": head.frame, "logits": logits, **grads}


COMPONENTS = {
    **TRANSPORT,
    "sp2ot.memory_bank": memory_bank,
    "sp2ot.loss": loss,
    "sp2ot.loss_bank": loss,
    "sp2ot.train_epoch": train_epoch,
    "sp2ot.feature_regularizer": feature_regularizer,
    "sp2ot.supervised_loss": supervised_loss,
    "sp2ot.etf_head": etf_head,
    "sp2ot.clustering_metrics": clustering_metrics,
}
NOT_IMPLEMENTED: dict[str, str] = {}
