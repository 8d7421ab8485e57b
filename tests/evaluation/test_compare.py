import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy.stats import ttest_ind

from lt_pipeline.errors import LongTailError
from lt_pipeline.evaluation.compare import _published, leaderboard, leaderboard_table, published_figure, welch_interval


def run(method: str, seed: int, accuracy: float, **facts) -> dict:
    return {
        "method": method,
        "benchmark": "cifar100_lt",
        "imbalance_factor": 100,
        "protocol": "last epoch",
        "seed": seed,
        "experts": 3,
        "accuracy/all": accuracy,
    } | facts


RUNS = [
    run("ride", 0, 0.48),
    run("ride", 1, 0.49),
    run("ride", 2, 0.485),
    *[run("cross_entropy", seed, value, experts=1) for seed, value in enumerate((0.39, 0.40, 0.38))],
]


def test_mean_spread_and_verdict_by_hand():
    board = leaderboard(RUNS).set_index("method")
    assert list(board.index) == ["ride", "cross_entropy"]
    assert board.loc["ride", "all"] == pytest.approx(48.5) and board.loc["ride", "all_std"] == pytest.approx(0.5)
    assert board.loc["ride", "seeds"] == 3 and board.loc["ride", "verdict"] == "best"
    assert board.loc["cross_entropy", "difference"] == pytest.approx(-9.5)
    assert board.loc["cross_entropy", "verdict"] == "lower"
    assert np.isnan(board.loc["ride", "few"])


def test_close_methods_are_within_noise_and_one_seed_is_unknown():
    close = [run("near", seed, value) for seed, value in enumerate((0.478, 0.492, 0.482))]
    board = leaderboard([*RUNS, *close, run("single", 0, 0.2)]).set_index("method")
    assert board.loc["near", "verdict"] == "within noise"
    assert board.loc["single", "verdict"].startswith("unknown") and np.isnan(board.loc["single", "all_std"])


def test_benchmarks_and_protocols_are_not_mixed():
    board = leaderboard(
        [
            *RUNS,
            run("ride", 0, 0.9, benchmark="digits_lt"),
            run("ride", 0, 0.5, protocol="best on test"),
            run("ride", 0, 0.6, imbalance_factor=None),
        ]
    )
    assert len(board) == 5 and (board["verdict"] == "best").sum() == 4


def test_order_of_runs_does_not_matter():
    pd.testing.assert_frame_equal(leaderboard(RUNS), leaderboard(RUNS[::-1]))


def test_published_figures_stand_beside():
    board = leaderboard(RUNS).set_index("method")
    assert board.loc["ride", ["published_all", "published_many", "published_medium", "published_few"]].tolist() == [48.6, 67.0, 49.9, 25.7]
    assert board.loc["cross_entropy", "published_all"] == 39.1
    assert board.loc["ride", "source"] == "official README"


def test_published_entry_must_fit_what_is_known():
    assert published_figure(run("ride", 0, 0.4, experts=4, distilled=True))["all"] == 49.4
    assert published_figure(run("ride", 0, 0.4, distilled=True))["all"] == 49.0
    assert published_figure(run("ride", 0, 0.4, experts=5)) is None
    assert published_figure(run("ride", 0, 0.4, imbalance_factor=50)) is None
    assert published_figure({"experts": 3}) is None
    assert all({"where", "label", "source", "all"} <= set(entry) for entry in _published())


def test_the_same_seed_twice_is_refused():
    with pytest.raises(LongTailError, match="Two results of ride on cifar100_lt have the seed 0"):
        leaderboard([*RUNS, RUNS[0]])
    with pytest.raises(LongTailError, match="no finished runs"):
        leaderboard([])


def test_welch_interval_against_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, 5), rng.normal(0, 3, 8)
    reference = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    difference, low, high = welch_interval(a, b)
    assert (difference, low, high) == pytest.approx((a.mean() - b.mean(), reference.low, reference.high))
    assert welch_interval([1, 1], [2, 2]) == (-1, -1, -1)
    assert np.isnan(welch_interval([1], [2, 3])[1])


def test_leaderboard_prints(capsys):
    Console(width=140).print(leaderboard_table(leaderboard(RUNS)))
    text = capsys.readouterr().out
    assert "48.5 ± 0.5" in text and "48.6" in text and "-9.5 (lower)" in text and "CIFAR-100-LT 100" in text
