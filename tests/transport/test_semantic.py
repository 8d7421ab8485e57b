"""Majorisation-minimisation, the sparse similarity under it, and the smaller parts."""

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from lt_pipeline.errors import LongTailError
from lt_pipeline.transport import (
    ConvergenceWarning,
    NeighbourGraph,
    Neighbours,
    SinkhornLabelAllocation,
    assign_prior,
    cluster_prior,
    confident_selection,
    cost_of_logits,
    gamma_schedule,
    mass_schedule,
    neighbour_graph,
    progressive_transport,
    ramp,
    semantic_transport,
    semantic_weight,
)
from lt_pipeline.transport.problem import transport_problem
from lt_pipeline.transport.semantic import full_objective, semantic_term
from lt_pipeline.transport.similarity import kernel_block
from tests.transport.problems import by_root_finding, logits

N, K = 64, 5


def similarity(seed: int = 0, share: float = 0.1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(N, N, generator=generator) < share
    return (torch.rand(N, N, generator=generator) * kept).fill_diagonal_(0)


def test_the_product_is_with_s_and_its_transpose() -> None:
    dense, plan = similarity(), torch.rand(N, K, dtype=torch.float64)
    neighbours = Neighbours.of(dense)
    torch.testing.assert_close(neighbours.product(plan), (dense + dense.T).double() @ plan)
    torch.testing.assert_close(semantic_term(neighbours, plan), (dense.double() * (plan @ plan.T)).sum())


def test_a_step_is_the_transport_of_the_linearised_cost() -> None:
    cost, dense = cost_of_logits(logits(N, K)), similarity()
    found = semantic_transport(cost, dense, 0.5, semantic_weight=3.0, max_steps=1, on_failure="warn")
    pull = (dense + dense.T).double() @ torch.full((N, K), 0.5 / (N * K), dtype=torch.float64)
    torch.testing.assert_close(found.first_plan, by_root_finding(cost - 3 * pull, 0.5, 0.1, 1.0), rtol=0, atol=1e-6)


def test_a_settled_plan_solves_the_problem_it_makes() -> None:
    cost, dense = cost_of_logits(logits(N, K)), similarity()
    found = semantic_transport(cost, dense, 0.6, semantic_weight=5.0, stop_tolerance=1e-12)
    assert found.converged and not found.cycle and found.steps < 100
    pull = (dense + dense.T).double() @ (found.plan / N)
    torch.testing.assert_close(progressive_transport(cost - 5 * pull, 0.6).plan, found.plan, rtol=0, atol=1e-4)
    assert abs(float(found.plan.sum()) / N - 0.6) < 1e-9


def test_without_a_weight_it_is_progressive_transport() -> None:
    cost = cost_of_logits(logits(N, K))
    found = semantic_transport(cost, similarity(), 0.5, semantic_weight=0.0)
    assert found.steps == 1
    torch.testing.assert_close(found.plan, progressive_transport(cost, 0.5).plan)


def test_averaging_lowers_the_whole_objective_step_by_step_where_plain_steps_alternate() -> None:
    """Two halves that like only each other, and a strong weight: the linear term overshoots."""
    dense = torch.zeros(N, N)
    dense[: N // 2, N // 2 :] = 1.0
    cost = cost_of_logits(0.01 * logits(N, 2))
    cost[: N // 2, 0] += 0.3
    cost[N // 2 :, 1] += 0.3
    problem = transport_problem(2, 0.5)
    options = {"semantic_weight": 2.0, "stop": "full", "on_failure": "warn"}
    with pytest.warns(ConvergenceWarning, match="alternates"):
        plain = semantic_transport(cost, dense, 0.5, **options)
    averaged = semantic_transport(cost, dense, 0.5, ema=0.5, **options)
    assert plain.cycle and not plain.converged
    assert averaged.converged and all(b <= a + 1e-7 for a, b in zip(averaged.objective, averaged.objective[1:], strict=False))
    neighbours = Neighbours.of(dense)
    values = [
        float(full_objective(cost, found.plan / N, semantic_term(neighbours, found.plan / N), 2.0, problem)) for found in (plain, averaged)
    ]
    assert values[1] <= values[0] + 1e-6
    with pytest.raises(LongTailError, match="alternates"):
        semantic_transport(cost, dense, 0.5, **options | {"on_failure": "error"})


def test_semantic_numpy_and_bad_input() -> None:
    cost, dense = cost_of_logits(logits(N, K)), similarity()
    found = semantic_transport(cost.numpy(), dense.numpy(), 0.6, semantic_weight=2.0)
    assert isinstance(found.plan, np.ndarray) and isinstance(found.potential, np.ndarray)
    torch.testing.assert_close(torch.as_tensor(found.plan), semantic_transport(cost, dense, 0.6, semantic_weight=2.0).plan)
    for bad in ({"ema": 0.0}, {"semantic_weight": -1.0}, {"max_steps": 0}, {"stop": "never"}):
        with pytest.raises(LongTailError, match="semantic_weight must be"):
            semantic_transport(cost, dense, 0.6, **bad)
    with pytest.raises(LongTailError, match="64 rows, the cost of 10"):
        semantic_transport(cost[:10], dense, 0.6)


@pytest.mark.parametrize("kernel", ["gauss", "laplace"])
@pytest.mark.parametrize("block", [7, 1000])
def test_the_graph_is_that_of_exact_neighbours(kernel: str, block: int) -> None:
    features = torch.randn(60, 8, generator=torch.Generator().manual_seed(1))
    graph = neighbour_graph(features, 5, kernel, 0.7, block=block)
    distance, indices = NearestNeighbors(n_neighbors=6, algorithm="brute").fit(features.numpy()).kneighbors(features.numpy())
    assert torch.equal(graph.indices.sort(1).values, torch.as_tensor(indices[:, 1:]).sort(1).values)
    away = torch.as_tensor(distance[:, 1:]).float()
    expected = torch.exp(-(away**2) / (2 * 0.7**2 * 8)) if kernel == "gauss" else torch.exp(-away / (0.7 * 8))
    torch.testing.assert_close(graph.weights, expected, rtol=1e-4, atol=1e-6)


def test_rows_in_play_see_one_another_only_and_copies_not_at_all() -> None:
    features = torch.randn(40, 6, generator=torch.Generator().manual_seed(2))
    graph = neighbour_graph(features, 6)
    whole = torch.zeros(40, 40).scatter_(1, graph.indices, graph.weights)
    positions = torch.tensor([3, 17, 3, 39, 0, 8, 21, 17, 5, 30])
    inside = whole[positions][:, positions]
    plan = torch.rand(10, 3, dtype=torch.float64)
    torch.testing.assert_close(graph.among(positions).product(plan), (inside + inside.T).double() @ plan)
    assert inside[0, 2] == 0
    with pytest.raises(LongTailError, match="positions from 0 to 39"):
        graph.among(torch.tensor([40]))
    copy = NeighbourGraph(**graph.state())
    assert torch.equal(copy.indices, graph.indices)


def test_mutual_neighbours_only() -> None:
    features = torch.randn(50, 4, generator=torch.Generator().manual_seed(3))
    one_way = torch.zeros(50, 50).scatter_(1, *[getattr(neighbour_graph(features, 4), name) for name in ("indices", "weights")])
    both = neighbour_graph(features, 4, mutual=True)
    dense = torch.zeros(50, 50).scatter_(1, both.indices, both.weights)
    torch.testing.assert_close(dense, torch.where(one_way.T.abs() >= 1e-5, one_way, 0.0))


def test_abel_divides_and_the_published_form_multiplies() -> None:
    features = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    assert float(kernel_block(features, 0, 1, "abel", 2.0)[0, 1]) == pytest.approx(math.exp(-3 / 4))
    assert float(kernel_block(features, 0, 1, "abel", 2.0, published=True)[0, 1]) == pytest.approx(math.exp(-3 / 2 * 2))
    for bad in ({"kernel": "cubic"}, {"scale": 0.0}):
        with pytest.raises(LongTailError, match=r"unknown|positive"):
            neighbour_graph(features, 1, **bad)
    with pytest.raises(LongTailError, match="finite"):
        neighbour_graph(features / 0)


def test_schedules_begin_and_end_where_they_should() -> None:
    assert mass_schedule(0, 100) == pytest.approx(0.1 + 0.9 * math.exp(-5))
    assert mass_schedule(100, 100) == mass_schedule(170, 100) == 1.0
    assert mass_schedule(7, 100, strategy="fixed") == 0.1
    assert mass_schedule(50, 100, strategy="linear") == pytest.approx(0.55)
    assert ramp(3, 0) == 1.0 and ramp(3, 0, "cosine_down") == pytest.approx(0.0)
    assert semantic_weight(0.25) == 750 and semantic_weight(0.25, fixed=True) == 1000
    assert gamma_schedule(5, 10, 1.0, 0.0) == 0.5 and gamma_schedule(5, 10) == 1.0
    for wrong in ({"mass_base": 0.0}, {"mass_base": 0.5, "mass_upper": 0.4}, {"strategy": "cubic"}):
        with pytest.raises(LongTailError):
            mass_schedule(1, 10, **wrong)
    with pytest.raises(LongTailError):
        ramp(1, -1)


def test_a_prior_goes_to_the_columns_that_are_predicted_most() -> None:
    prior = cluster_prior(torch.tensor([2, 2, 2, 1, 1, 0]), 3)
    torch.testing.assert_close(prior, torch.tensor([3.0, 2.0, 1.0]) / 6)
    cost = torch.tensor([[3.0, 0.1, 1.0], [3.0, 0.1, 1.0]])
    torch.testing.assert_close(assign_prior(prior, cost), prior[[2, 0, 1]])
    torch.testing.assert_close(assign_prior(prior, cost, order="cost"), prior[[0, 2, 1]])
    with pytest.raises(LongTailError, match="1 of 4 clusters are empty"):
        cluster_prior(torch.tensor([2, 2, 3, 1]), 4)


def test_the_most_certain_rows() -> None:
    labels = torch.tensor([[0.1, 0.1], [0.9, 0.0], [0.2, 0.3], [0.0, 0.7]])
    assert confident_selection(labels, 0.5).tolist() == [1, 3]


def test_label_allocation_stops_at_its_cap_and_says_so() -> None:
    allocation = SinkhornLabelAllocation(64, torch.full((5,), 0.2), max_iterations=2, tolerance=1e-9)
    labels = allocation.update(logits(16, 5), torch.arange(16), 0.3)
    assert labels.shape == (16, 5) and not allocation.converged
    again = SinkhornLabelAllocation(64, torch.full((5,), 0.2))
    again.load_state_dict(allocation.state_dict())
    assert torch.equal(again.cost, allocation.cost)
    with pytest.raises(LongTailError, match="mass"):
        allocation.update(logits(16, 5), torch.arange(16), 0.0)
    with pytest.raises(LongTailError, match="positive upper bound"):
        SinkhornLabelAllocation(64, torch.zeros(5))
