"""Many runs side by side: mean and spread over seeds, what is noise, and what the papers print.

Differences are judged by Welch's t interval (Welch, Biometrika 34, 1947), which needs two seeds on either side: one seed says nothing about
the next. On CIFAR-100-LT two seeds of one method differ by about half a point.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table
from rich.text import Text

from lt_pipeline.errors import LongTailError
from lt_pipeline.evaluation.accuracy import GROUPS
from lt_pipeline.evaluation.terminal import display_name

BENCH = ["benchmark", "imbalance_factor", "protocol"]
KEYS = [*BENCH, "method", "experts"]
_ACCURACIES = {"all": "accuracy/all", **{group: f"accuracy/{group}" for group in GROUPS}, "macro": "macro_accuracy"}


def leaderboard(runs: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Sum up runs by benchmark, imbalance factor, protocol, method and number of experts.

    Args:
        runs: metrics of :func:`~lt_pipeline.evaluation.metrics.evaluate`, one a run, in any order.

    Returns:
        Best first within each benchmark. Columns: ``KEYS``; ``seeds`` (how many); ``all many medium few macro`` in percent, each with ``_std``
        (between seeds, missing for one seed); ``nll``, ``ece`` (percent), ``gmacs``; ``difference`` of ``all`` to the best method of the same
        benchmark and protocol, with ``difference_low`` and ``difference_high`` (95 %); ``verdict`` (best, lower, within noise, unknown);
        ``published_all`` ... ``published_few``, ``published`` (what exactly), ``source``.

    Raises:
        LongTailError: if there are no runs, or two of one method, size and benchmark have the same seed.
    """
    if not runs:
        raise LongTailError("There are no finished runs to compare; run a pipeline first, for instance: kedro run --pipeline=ride.")
    table = pd.DataFrame([_record(run) for run in runs])
    _refuse_twins(table)
    rows = []
    for keys, part in table.groupby(KEYS, dropna=False, sort=False):
        row: dict[str, Any] = dict(zip(KEYS, keys, strict=True)) | {"seeds": len(part)}
        for column in _ACCURACIES:
            row |= {column: part[column].mean(), f"{column}_std": part[column].std(ddof=1)}
        row |= {column: part[column].mean() for column in ("nll", "ece", "gmacs")}
        rows.append(row | {"_values": part["all"].to_numpy(float)} | _beside(part["_run"].iloc[0]))
    board = pd.DataFrame(rows)
    judged = [_judged(part) for _, part in board.groupby(BENCH, dropna=False, sort=True)]
    return pd.concat(judged, ignore_index=True).drop(columns="_values")


def welch_interval(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Difference of means a - b with its confidence interval, not assuming equal variances.

    Returns:
        (difference, low, high); low and high are NaN where either side has fewer than two values.
    """
    from scipy.stats import t

    x, y = np.asarray(a, float), np.asarray(b, float)
    difference = float(x.mean() - y.mean())
    if min(len(x), len(y)) < 2:
        return difference, float("nan"), float("nan")
    u, v = x.var(ddof=1) / len(x), y.var(ddof=1) / len(y)
    if u + v == 0:
        return difference, difference, difference
    freedom = (u + v) ** 2 / (u**2 / (len(x) - 1) + v**2 / (len(y) - 1))
    reach = float(t.ppf((1 + level) / 2, freedom) * np.sqrt(u + v))
    return difference, difference - reach, difference + reach


def published_figure(run: Mapping[str, Any]) -> dict[str, Any] | None:
    """The published entry that a run is to be held against, or None; see ``published.yml`` for the rule."""

    def known(entry: Mapping[str, Any]) -> list[bool]:
        return [run[key] == value for key, value in entry["where"].items() if run.get(key) is not None]

    fitting = [entry for entry in _published() if run.get("method") and run.get("benchmark") and all(known(entry))]
    return max(fitting, key=lambda entry: len(known(entry)), default=None)


def leaderboard_table(board: pd.DataFrame) -> Table:
    """The leaderboard for the terminal: mean ± spread in percent, the verdict, the published overall figure."""
    groups = [column for column in ("all", *GROUPS) if board[column].notna().any()]
    table = Table(title=Text("leaderboard, % (mean ± spread between seeds)", style="bold"), title_justify="left")
    for title in ("benchmark", "method", "experts", "seeds", *groups, "published", "difference"):
        table.add_column(title, justify="left" if title in ("benchmark", "method") else "right")
    for row in board.to_dict("records"):
        factor = "" if pd.isna(row["imbalance_factor"]) else f" {row['imbalance_factor']:g}"
        cells = [_mean_and_spread(row[group], row[f"{group}_std"]) for group in groups]
        published = "–" if pd.isna(row["published_all"]) else f"{row['published_all']:.1f}"
        verdict = "best" if row["verdict"] == "best" else f"{row['difference']:+.1f} ({row['verdict']})"
        experts = "–" if pd.isna(row["experts"]) else f"{row['experts']:g}"
        names = Text(display_name(row["benchmark"]) + factor), Text(display_name(row["method"]))
        table.add_row(*names, experts, str(row["seeds"]), *cells, published, verdict)
    return table


def _record(run: Mapping[str, Any]) -> dict[str, Any]:
    record = {key: run.get(key) for key in KEYS} | {"seed": run.get("seed"), "_run": run}
    record |= {column: 100 * run[key] if key in run else np.nan for column, key in _ACCURACIES.items()}
    return record | {"nll": run.get("nll", np.nan), "ece": 100 * run.get("ece", np.nan), "gmacs": run.get("macs/mean", np.nan) / 1e9}


def _refuse_twins(table: pd.DataFrame) -> None:
    twins = table[table["seed"].notna() & table.duplicated([*KEYS, "seed"])]
    if len(twins):
        first = twins.iloc[0]
        raise LongTailError(
            f"Two results of {first['method']} on {first['benchmark']} have the seed {first['seed']}; keep one, or the spread would look too small."
        )


def _judged(part: pd.DataFrame) -> pd.DataFrame:
    part = part.sort_values("all", ascending=False)
    best = part["_values"].iloc[0]
    intervals = [welch_interval(values, best) for values in part["_values"]]
    verdicts = [
        "best",
        *("unknown, one seed" if np.isnan(high) else "lower" if high < 0 else "within noise" for _, _, high in intervals[1:]),
    ]
    columns = zip(*intervals, strict=True)
    return part.assign(**dict(zip(("difference", "difference_low", "difference_high"), columns, strict=True)), verdict=verdicts)


def _beside(run: Mapping[str, Any]) -> dict[str, Any]:
    entry = published_figure(run) or {}
    figures = {f"published_{group}": entry.get(group, np.nan) for group in ("all", *GROUPS)}
    return figures | {"published": entry.get("label"), "source": entry.get("source")}


@cache
def _published() -> list[dict[str, Any]]:
    import yaml

    return yaml.safe_load((resources.files("lt_pipeline.evaluation") / "published.yml").read_text(encoding="utf-8"))


def _mean_and_spread(mean: float, spread: float) -> str:
    if pd.isna(mean):
        return "–"
    return f"{mean:.1f}" if pd.isna(spread) else f"{mean:.1f} ± {spread:.1f}"
