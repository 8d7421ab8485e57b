"""P2OT's solver."""

from typing import Any

import torch
from torch import Tensor

from lt_pipeline.transport import (
    SinkhornLabelAllocation,
    Transport,
    confident_selection,
    cost_of_logits,
    mass_schedule,
    progressive_transport,
)
from lt_pipeline.transport import ramp as ramp_at

Params = dict[str, Any]
Tensors = dict[str, Tensor]

NOT_IMPLEMENTED: dict[str, str] = {}


def ramp(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    values = [ramp_at(current, params["length"], params["kind"]) for current in tensors["in.current"].tolist()]
    return {"value": torch.tensor(values, dtype=torch.float64)}


def schedule(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    options = (params["total_iterations"], params["rho_base"], params["rho_upper"], params["strategy"])
    return {"rho": torch.tensor([mass_schedule(i, *options) for i in tensors["in.iteration"].tolist()], dtype=torch.float64)}


def solved(params: Params, cost: Tensor, **options: Any) -> Transport:
    columns = "hard" if params["variant"] == "pot" else "relaxed"
    return progressive_transport(cost, params["rho"], epsilon=params["epsilon"], gamma=params["gamma"], columns=columns, **options)


def scaling(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    found = solved(
        params,
        cost_of_logits(tensors["in.logits"]),
        algorithm="scaling",
        tolerance=params["stop_threshold"],
        max_iterations=params["max_iterations"],
        potential=tensors["in.column_scaling"].log() if params["warm_start"] else None,
        on_failure="warn",
    )
    return {
        "plan": found.plan,
        "column_scaling": found.potential.exp(),
        "column_mass": found.column_mass,
        "total_mass": found.mass,
    }


def solver(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    found = solved(params, cost_of_logits(tensors["in.logits"]))
    return {"plan": found.plan, "column_mass": found.column_mass, "row_mass": found.row_mass, "total_mass": found.mass}


def sla(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    allocation = SinkhornLabelAllocation(
        params["num_examples"], tensors["in.upper_bounds"], params["regularization"], params["tolerance"], max_iterations=100_000
    )
    batches = zip(tensors["in.logits"], tensors["in.indices"], params["allocation"], strict=True)
    labels = [allocation.update(logits, indices, mass) for logits, indices, mass in batches]
    assert allocation.converged
    return {
        "pseudo_label": torch.stack(labels),
        "column_potential": allocation.column_potential,
        "row_potential": allocation.row_potential,
    }


def selection(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    labels = tensors["in.pseudo_label"]
    predictions, selected = labels.argmax(1), confident_selection(labels, params["rho"])
    return {
        "predictions": predictions,
        "selected": selected,
        "selected_predictions": predictions[selected],
        "selected_targets": tensors["in.targets"][selected],
    }


COMPONENTS = {
    "p2ot.ramp": ramp,
    "p2ot.mass_schedule": schedule,
    "p2ot.scaling": scaling,
    "p2ot.solver": solver,
    "p2ot.sla": sla,
    "p2ot.confident_selection": selection,
}
