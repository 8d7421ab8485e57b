"""Nodes of the compare pipeline."""

from collections.abc import Callable
from typing import Any

import pandas as pd


def rank_runs(all_metrics: dict[str, Callable[[], dict[str, Any]]]) -> pd.DataFrame:
    """Return mean and spread over seeds of every benchmark, imbalance and method that has metrics, and show the table.

    Raises:
        LongTailError: if no run has finished yet.
    """
    from rich.console import Console
    from rich.table import Table

    from lt_pipeline.errors import LongTailError
    from lt_pipeline.evaluation.compare import leaderboard

    if not all_metrics:
        raise LongTailError("There is nothing to compare: no metrics.json under data/08_reporting. Run a method first.")
    board = leaderboard([load() for _, load in sorted(all_metrics.items())])
    table = Table(*map(str, board.columns))
    for row in board.itertuples(index=False):
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row))
    Console().print(table)
    return board
