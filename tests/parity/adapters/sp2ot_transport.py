"""SP2OT's solver and similarity."""

from typing import Any

import torch
from torch import Tensor

from lt_pipeline.transport import (
    NeighbourGraph,
    assign_prior,
    cluster_prior,
    cost_of_logits,
    gamma_schedule,
    mass_schedule,
    neighbour_graph,
    progressive_transport,
    semantic_transport,
    semantic_weight,
)
from lt_pipeline.transport.semantic import linearised_cost, semantic_term, watched_objective
from lt_pipeline.transport.similarity import Neighbours, kept, kernel_block, raised, same_class, without_self
from lt_pipeline.transport.similarity import clipped as clipped_block

Params = dict[str, Any]
Tensors = dict[str, Tensor]

NOT_IMPLEMENTED: dict[str, str] = {}
KERNELS = {"cos": "cosine"}


def transported(params: Params, cost: Tensor, **options: Any) -> dict[str, Tensor]:
    columns = "hard" if params["hard_columns"] else "relaxed"
    found = progressive_transport(
        cost.double(), params["rho"], epsilon=params["epsilon"], gamma=params["gamma"], columns=columns, **options
    )
    return {"plan": found.plan, "column_mass": found.column_mass, "total_mass": found.mass}


def scaling(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    cost, prior = tensors["in.cost"], tensors.get("in.prior")
    return transported(
        params,
        cost,
        algorithm="scaling",
        tolerance=params["stop_threshold"],
        max_iterations=params["max_iterations"],
        prior=None if prior is None else assign_prior(prior, cost, order="cost"),
        on_failure="warn",
    )


def solver(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    return transported(params, tensors["in.cost"])


def mm(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    options = {
        "naive": {"algorithm": "scaling", "tolerance": params["stop_threshold"], "max_iterations": params["max_iterations"]},
        "stable": {},
    }
    found = semantic_transport(
        cost_of_logits(tensors["in.logits"]),
        tensors["in.similarity"],
        params["rho"],
        semantic_weight=params["semantic_weight"],
        epsilon=params["epsilon"],
        gamma=params["gamma"],
        ema=params["ema"],
        max_steps=params["mm_max_iterations"],
        stop_tolerance=params["mm_stop_threshold"],
        on_failure="warn",
        **options[params["inner"]],
    )
    return {"plan": found.plan, "first_inner_plan": found.first_plan, "total_mass": found.plan.double().sum() / len(found.plan)}


def mm_objective(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    cost, plan, neighbours = tensors["in.cost"], tensors["in.plan"], Neighbours.of(tensors["in.similarity"])
    semantic = semantic_term(neighbours, plan.double())
    return {
        "linearised_cost": linearised_cost(cost, neighbours, plan, params["semantic_weight"]),
        "semantic_term": semantic,
        "objective": watched_objective(cost, plan, semantic, params["semantic_weight"], params["epsilon"]),
    }


def schedule(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    iterations, total = tensors["in.iteration"].tolist(), params["total_iterations"]
    masses = [mass_schedule(i, total, params["rho_base"], params["rho_upper"], params["strategy"]) for i in iterations]
    weights = [semantic_weight(mass, params["semantic_weight_base"], params["semantic_weight_fixed"]) for mass in masses]
    gammas = [gamma_schedule(i, total, params["gamma_start"], params["gamma_end"]) for i in iterations]
    return {
        name: torch.tensor(values, dtype=torch.float64)
        for name, values in {"rho": masses, "semantic_weight": weights, "gamma": gammas}.items()
    }


def dense(graph: NeighbourGraph) -> Tensor:
    size = len(graph.indices)
    return torch.zeros(size, size).scatter_(1, graph.indices, graph.weights)


def similarity(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    """The sparse graph where it holds the answer, else the operations on one block of all rows."""
    features, operations = tensors["in.features"], set(params["operations"])
    kernel = (KERNELS.get(params["kernel"], params["kernel"]), params["kernel_param"])
    if {"rmDiag", "knn"} <= operations <= {"rmDiag", "knn", "consistency"}:
        matrix = dense(neighbour_graph(features, params["topk"], *kernel, mutual="consistency" in operations, block=7))
    elif "oracle" in operations:
        matrix = same_class(tensors["in.targets"])
    else:
        matrix = dense_operations(params, kernel_block(features, 0, len(features), *kernel, published=True))
    query = tensors["in.query"]
    return {"similarity": matrix, "submatrix": matrix[query][:, query]}


def dense_operations(params: Params, matrix: Tensor) -> Tensor:
    operations, count = params["operations"], params["topk"] + ("rmDiag" not in params["operations"])
    if "clip" in operations:
        matrix = clipped_block(matrix, low=params["threshold"])
    if "affine" in operations:
        matrix = (matrix + params["offset"]) * params["scale"]
    if "rmDiag" in operations:
        matrix = without_self(matrix, 0)
    if "topk" in operations:
        matrix = raised(matrix, count)
    return kept(matrix, count) if "knn" in operations else matrix


def prior(params: Params, tensors: Tensors) -> dict[str, Tensor]:
    return {"prior": cluster_prior(tensors["in.predictions"], params["num_clusters"])}


COMPONENTS = {
    "sp2ot.scaling": scaling,
    "sp2ot.scaling_stable": solver,
    "sp2ot.solver": solver,
    "sp2ot.mm": mm,
    "sp2ot.mm_objective": mm_objective,
    "sp2ot.schedule": schedule,
    "sp2ot.similarity": similarity,
    "sp2ot.prior": prior,
}
