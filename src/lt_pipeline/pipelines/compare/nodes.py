"""Nodes of the compare pipeline."""

import sys
from collections.abc import Callable
from typing import Any

import pandas as pd


def rank_runs(all_metrics: dict[str, Callable[[], dict[str, Any]]]) -> pd.DataFrame:
    """Return mean and spread over seeds of every benchmark, imbalance and method that has metrics, and show the table.

    Raises:
        LongTailError: if no run has finished yet.
    """
    from rich.console import Console

    from lt_pipeline.errors import LongTailError
    from lt_pipeline.evaluation.compare import leaderboard, leaderboard_table

    if not all_metrics:
        raise LongTailError("There is nothing to compare: no metrics.json under data/08_reporting. Run a method first.")
    board = leaderboard([load() for _, load in sorted(all_metrics.items())])
    Console(width=None if sys.stdout.isatty() else 120).print(leaderboard_table(board))
    return board
