"""Figures of what metadata bring, and for whom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from lt_pipeline.evaluation.accuracy import GROUPS
from lt_pipeline.evaluation.metadata import NONE, group_table
from lt_pipeline.evaluation.predictions import Predictions
from lt_pipeline.evaluation.style import COLOURS, SERIES, SYMBOLS, captioned, escaped, styled

if TYPE_CHECKING:
    import plotly.graph_objects as go


def metadata_figures(predictions: Predictions, metrics: Mapping[str, Any]) -> dict[str, go.Figure]:
    """Return the masking curve and the accuracy by group, as far as there are any."""
    figures = {}
    if predictions.with_part:
        figures["metadata"] = masking_figure(metrics, list(predictions.with_part))
    if predictions.groups:
        figures["by_group"] = group_figure(group_table(predictions))
    return figures


def masking_figure(metrics: Mapping[str, Any], parts: list[str]) -> go.Figure:
    """Accuracy with all metadata, with each part and with none, by shot group.

    Args:
        metrics: with :func:`metadata_scores`.
        parts: of the metadata, ``none`` among them.
    """
    rows = [("all", ""), *((part, f"metadata/{part}/") for part in [*(part for part in parts if part != NONE), NONE])]
    gain = 100 * (metrics["accuracy/all"] - metrics[f"metadata/{NONE}/accuracy/all"])
    figure = styled(f"The metadata {'bring' if gain >= 0 else 'cost'} {abs(gain):.1f} points")
    for key in ("all", *GROUPS):
        if f"accuracy/{key}" in metrics:
            figure.add_scatter(
                x=[100 * metrics[f"{prefix}accuracy/{key}"] if f"{prefix}accuracy/{key}" in metrics else None for _, prefix in rows][::-1],
                y=[label for label, _ in rows][::-1],
                mode="lines+markers",
                name=key,
                line={"color": COLOURS[key], "width": 1.5},
                marker={"color": COLOURS[key], "symbol": SYMBOLS[key], "size": 12},
                hovertemplate=f"metadata: %{{y}}<br>{key}: %{{x:.1f}} %<extra></extra>",
            )
    figure.update_xaxes(title="test accuracy, %")
    figure.update_yaxes(title="metadata shown", showgrid=True)
    figure.update_layout(height=190 + 42 * len(rows))
    return captioned(figure, "The same network on the same images, shown all, part and none of what is known beside the pixels.")


def group_figure(table: pd.DataFrame) -> go.Figure:
    """Accuracy by group of images with its interval; a hollow mark is without metadata.

    Args:
        table: of :func:`group_table`.
    """
    lowest = (table[table["value"] != "missing"] if (table["value"] != "missing").any() else table).nsmallest(1, "accuracy")
    figure = styled(f"Accuracy is lowest where {escaped(lowest['column'])[0]} is {escaped(lowest['value'])[0]}")
    labels = [f"{column}: {value}" for column, value in zip(escaped(table["column"]), escaped(table["value"]), strict=True)]
    figure.add_scatter(
        x=100 * table["accuracy"],
        y=labels,
        mode="markers",
        name="with metadata" if table["accuracy_without"].notna().any() else "accuracy",
        marker={"color": SERIES[0], "size": 11},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": 100 * (table["high"] - table["accuracy"]),
            "arrayminus": 100 * (table["accuracy"] - table["low"]),
            "color": COLOURS["all"],
        },
        customdata=table[["images", "macro_accuracy"]].to_numpy(),
        hovertemplate="%{y}<br>%{x:.1f} % of %{customdata[0]} images<br>mean of class recalls %{customdata[1]:.1%}<extra></extra>",
    )
    if table["accuracy_without"].notna().any():
        figure.add_scatter(
            x=100 * table["accuracy_without"],
            y=labels,
            mode="markers",
            name="without",
            marker={"color": SERIES[1], "size": 11, "symbol": "circle-open", "line": {"width": 2}},
            hovertemplate="%{y}<br>%{x:.1f} % without metadata<extra></extra>",
        )
    figure.update_xaxes(title="test accuracy, %")
    figure.update_yaxes(autorange="reversed", showgrid=True)
    figure.update_layout(height=150 + 30 * len(table))
    return captioned(
        figure, "Groups differ in their classes too: compare the marks of one row, and rows with care. Bars: 95 %, test images only."
    )
