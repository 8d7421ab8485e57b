"""Progressive partial transport and its relatives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lt_pipeline.errors import LongTailError
from lt_pipeline.transport import ConvergenceWarning, Transport, cost_of_logits, labels_of, progressive_transport
from tests.transport.problems import by_root_finding, logits, published_loop

MASSES = st.sampled_from([0.02, 0.106, 0.5, 0.9, 0.99999, 1.0])


def check_optimal(found: Transport, cost: torch.Tensor, mass: float, epsilon: float, gamma: float = 1.0) -> None:
    """The conditions of the optimum, from the plan alone: column masses against their scaling, cost against both scalings."""
    plan, v, u = found.plan, found.potential[:-1], found.potential[-1]
    columns = plan.shape[1]
    torch.testing.assert_close(plan.mean(0), mass / columns * torch.exp(-v * epsilon / gamma), rtol=1e-7, atol=1e-15)
    expected = torch.softmax(torch.cat((v - cost / epsilon, u.expand(len(cost), 1)), 1), 1)[:, :-1]
    torch.testing.assert_close(plan, expected, rtol=0, atol=1e-11)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 60),
    columns=st.integers(1, 12),
    mass=MASSES,
    epsilon=st.sampled_from([1.0, 0.1, 0.01, 0.001]),
    scale=st.sampled_from([0.01, 1.0, 50.0, 1000.0]),
    seed=st.integers(0, 5),
)
def test_the_plan_is_optimal_whatever_the_logits(rows: int, columns: int, mass: float, epsilon: float, scale: float, seed: int) -> None:
    cost = cost_of_logits((2 * torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) - 1) * scale)
    found = progressive_transport(cost, mass, epsilon=epsilon)
    assert found.converged
    assert abs(float(found.mass) - mass) < 1e-9
    assert abs(float(found.plan.sum()) / rows - mass) < 1e-9
    assert float(found.plan.min()) >= 0
    assert float(found.row_mass.max()) <= 1 + 1e-12
    torch.testing.assert_close(found.plan.sum(1), found.row_mass, rtol=0, atol=1e-11)
    torch.testing.assert_close(found.plan.mean(0), found.column_mass, rtol=1e-9, atol=1e-15)
    check_optimal(found, cost, mass, epsilon)


@settings(max_examples=8, deadline=None)
@given(mass=MASSES, columns=st.sampled_from(["relaxed", "hard"]), seed=st.integers(0, 3))
def test_permuted_rows_and_columns_permute_the_plan(mass: float, columns: str, seed: int) -> None:
    cost = cost_of_logits(logits(50, 7, seed=seed))
    generator = torch.Generator().manual_seed(seed)
    rows, order = torch.randperm(50, generator=generator), torch.randperm(7, generator=generator)
    plain = progressive_transport(cost, mass, columns=columns, tolerance=1e-10, on_failure="warn")
    mixed = progressive_transport(cost[rows][:, order], mass, columns=columns, tolerance=1e-10, on_failure="warn")
    torch.testing.assert_close(mixed.plan, plain.plan[rows][:, order], rtol=0, atol=1e-8)


@pytest.mark.parametrize("mass", [0.106, 0.5, 0.95])
@pytest.mark.parametrize(("epsilon", "gamma"), [(0.1, 1.0), (0.3, 0.5)])
def test_relaxed_columns_agree_with_root_finding_by_pot(mass: float, epsilon: float, gamma: float) -> None:
    cost = cost_of_logits(logits(48, 6))
    found = progressive_transport(cost, mass, epsilon=epsilon, gamma=gamma, tolerance=1e-12)
    torch.testing.assert_close(found.plan, by_root_finding(cost, mass, epsilon, gamma), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("columns", "mass"), [("hard", 0.3), ("hard", 0.9), ("hard", 1.0), ("relaxed", 1.0)])
def test_pot_solves_the_relatives_alike(columns: str, mass: float) -> None:
    cost = cost_of_logits(logits(60, 8))
    ours = progressive_transport(cost, mass, columns=columns)
    theirs = progressive_transport(cost, mass, columns=columns, algorithm="pot")
    torch.testing.assert_close(ours.plan, theirs.plan, rtol=0, atol=1e-7)
    again = progressive_transport(cost, mass, columns=columns, potential=theirs.potential)
    assert int(again.iterations) <= int(ours.iterations)


def test_hard_columns_hold_equal_mass() -> None:
    found = progressive_transport(cost_of_logits(logits(80, 5)), 0.4, columns="hard")
    torch.testing.assert_close(found.column_mass, torch.full((5,), 0.08, dtype=torch.float64), rtol=1e-8, atol=0)


def test_a_prior_is_what_hard_columns_hold() -> None:
    prior = torch.tensor([0.5, 0.3, 0.2])
    found = progressive_transport(cost_of_logits(logits(80, 3)), 0.4, columns="hard", prior=prior)
    torch.testing.assert_close(found.column_mass, 0.4 * prior.double(), rtol=1e-6, atol=0)


def test_the_scaling_loop_is_the_published_one() -> None:
    cost = cost_of_logits(logits(200, 10))
    expected, repeats = published_loop(cost, 0.5)
    found = progressive_transport(cost, 0.5, algorithm="scaling")
    assert int(found.iterations) == repeats
    torch.testing.assert_close(found.plan, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.plan, progressive_transport(cost, 0.5).plan, rtol=0, atol=1e-6)


def test_the_published_loop_says_where_it_stopped_early() -> None:
    cost = cost_of_logits(logits(200, 10))
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        early = progressive_transport(cost, 0.106, algorithm="scaling", max_iterations=300, on_failure="warn")
    assert not early.converged
    assert float(early.row_error) > 1e-6
    torch.testing.assert_close(early.column_mass, early.plan.mean(0), rtol=1e-9, atol=0)
    with pytest.raises(LongTailError, match="did not converge"):
        progressive_transport(cost, 0.106, algorithm="scaling", max_iterations=300)


def test_a_solve_that_is_cut_short_is_no_silent_success() -> None:
    cost = cost_of_logits(logits(200, 10))
    with pytest.raises(LongTailError, match="did not converge"):
        progressive_transport(cost, 0.5, max_iterations=1)


def test_few_passes_cold_and_fewer_warm() -> None:
    cost = cost_of_logits(logits(2000, 50))
    for mass in (0.106, 0.5, 0.95):
        cold = progressive_transport(cost, mass)
        assert int(cold.iterations) <= 20
        changed = cost.clone()
        changed[:200] = cost_of_logits(logits(200, 50, seed=9))
        warm = progressive_transport(changed, min(1.0, 1.003 * mass), potential=cold.potential)
        assert int(warm.iterations) <= 10


def test_float32_is_near_float64() -> None:
    cost = cost_of_logits(logits(1000, 30, 2.0))
    exact, single = progressive_transport(cost, 0.3), progressive_transport(cost.float(), 0.3)
    assert single.plan.dtype == torch.float32
    assert float(single.column_error) <= 5e-6
    torch.testing.assert_close(single.plan.double(), exact.plan, rtol=0, atol=1e-5)


def test_heads_are_solved_apart() -> None:
    cost = torch.stack([cost_of_logits(logits(60, 6, seed=seed)) for seed in (1, 2, 3)])
    together = progressive_transport(cost, 0.5)
    assert together.plan.shape == (3, 60, 6)
    assert together.potential.shape == (3, 7)
    for head, alone in enumerate(cost):
        torch.testing.assert_close(together.plan[head], progressive_transport(alone, 0.5).plan)
    warm = progressive_transport(cost, 0.5, potential=together.potential)
    assert int(warm.iterations.max()) < int(together.iterations.max())


def test_numpy_in_numpy_out() -> None:
    cost = cost_of_logits(logits(40, 5).numpy())
    found = progressive_transport(cost, 0.5)
    assert type(cost).__module__ == type(found.plan).__module__ == type(found.converged).__module__ == "numpy"
    torch.testing.assert_close(torch.as_tensor(found.plan), progressive_transport(torch.as_tensor(cost), 0.5).plan)
    again = progressive_transport(cost, 0.5, potential=found.potential)
    assert again.iterations < found.iterations


def test_labels_of_rows_come_from_the_potential() -> None:
    cost = cost_of_logits(logits(100, 8))
    for mass in (0.3, 1.0):
        found = progressive_transport(cost, mass, keep_plan=False)
        assert found.plan is None
        torch.testing.assert_close(labels_of(cost[5:9], found.potential), progressive_transport(cost, mass).plan[5:9], rtol=0, atol=1e-8)


def test_an_empty_cluster_and_fewer_rows_than_clusters_are_fine() -> None:
    empty = logits(300, 8)
    empty[:, 5] -= 1000
    found = progressive_transport(cost_of_logits(empty), 0.5)
    assert torch.isfinite(found.plan).all()
    assert float(found.column_mass[5]) < 1e-100
    few = progressive_transport(cost_of_logits(logits(5, 20)), 0.5)
    assert abs(float(few.mass) - 0.5) < 1e-9


def test_no_gradient_flows_through_labels() -> None:
    values = logits(30, 4).requires_grad_()
    assert not progressive_transport(cost_of_logits(values), 0.5).plan.requires_grad


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"mass": 0.0}, "mass is 0.0"),
        ({"mass": 1.5}, "mass is 1.5"),
        ({"mass": float("nan")}, "mass is nan"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"gamma": 0.0}, "gamma"),
        ({"columns": "soft"}, "columns is 'soft'"),
        ({"algorithm": "newton"}, "algorithm must be"),
        ({"algorithm": "pot", "mass": 0.5}, "POT has no call"),
        ({"prior": torch.tensor([0.5, 0.5])}, "prior must be 4"),
        ({"potential": torch.zeros(4)}, "potential must have the shape"),
    ],
)
def test_bad_settings_are_said_in_a_sentence(options: dict, sentence: str) -> None:
    with pytest.raises(LongTailError, match=sentence):
        progressive_transport(cost_of_logits(logits(10, 4)), **options)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("algorithm", ["semidual", "scaling", "pot"])
def test_numbers_that_are_not_finite_are_refused(bad: float, algorithm: str) -> None:
    values = logits(10, 4)
    values[3, 2] = bad
    with pytest.raises(LongTailError, match="not finite"):
        cost_of_logits(values)
    with pytest.raises(LongTailError, match="not finite"):
        progressive_transport(values.double(), 1.0, algorithm=algorithm)


def test_an_empty_or_integer_cost_is_refused() -> None:
    for cost in (torch.zeros(0, 4), torch.zeros(3, 4, dtype=torch.int64), torch.zeros(4)):
        with pytest.raises(LongTailError, match="float32 or float64"):
            progressive_transport(cost, 0.5)
