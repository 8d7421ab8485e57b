"""What metadata bring: accuracy with all of them, with part and with none, and for whom (Diao et al., arXiv 2203.02751, report all and none).

A gain is only good news if it is one for everybody. Accuracy is therefore told apart by age, sex, place or whatever column is asked for, with
the metadata and without: a gain in one group that costs another, or one that no knowledge of the subject explains, is a leak.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lt_pipeline.evaluation.accuracy import GROUPS, class_recalls, masked_mean
from lt_pipeline.evaluation.predictions import Predictions

if TYPE_CHECKING:
    import plotly.graph_objects as go

NONE = "none"
"""The part of the metadata that is none of it."""


def metadata_scores(predictions: Predictions, shots: Mapping[str, NDArray[np.bool_]]) -> dict[str, float]:
    """Return flat metrics: ``metadata/<part>/accuracy/{all,many,medium,few}``, ``metadata/<part>/macro_accuracy`` for each part of the metadata that
    the model was shown, and ``by/<column>/<value>/{images,accuracy,macro_accuracy,accuracy_without}`` for each group of images.

    Args:
        predictions: labelled.
        shots: class masks [C] of the shot groups.
    """
    p, scores = predictions, dict[str, float]()
    for part, decisions in p.with_part.items():
        recalls = class_recalls(p.labels, decisions == p.labels, p.num_classes)
        scores[f"metadata/{part}/accuracy/all"] = float((decisions == p.labels).mean())
        scores |= {f"metadata/{part}/accuracy/{name}": masked_mean(recalls, mask) for name, mask in shots.items()}
        scores[f"metadata/{part}/macro_accuracy"] = float(np.nanmean(recalls))
    for row in group_table(p).to_dict("records"):
        place = f"by/{row['column']}/{row['value']}"
        scores |= {f"{place}/{key}": row[key] for key in ("images", "accuracy", "macro_accuracy", "accuracy_without")}
    return {key: value for key, value in scores.items() if np.isfinite(value)}


def group_table(predictions: Predictions) -> pd.DataFrame:
    """Return one row for each value of each column that images are told apart by.

    Columns: column, value, images; accuracy (pooled), low and high (its 95 % Wilson interval), macro_accuracy (mean recall of the classes that
    the group has), accuracy_without (metadata; NaN for a model that takes none). Empty where nothing was asked for.
    """
    from scipy.stats import binomtest

    p, rows = predictions, []
    correct = p.logits.argmax(1) == p.labels
    without = p.with_part[NONE] == p.labels if NONE in p.with_part else None
    for column, words in p.groups.items():
        for value in sorted(np.unique(words).tolist(), key=_order):
            chosen = words == value
            interval = binomtest(int(correct[chosen].sum()), int(chosen.sum())).proportion_ci(method="wilson")
            rows.append(
                {
                    "column": column,
                    "value": value,
                    "images": int(chosen.sum()),
                    "accuracy": float(correct[chosen].mean()),
                    "low": float(interval.low),
                    "high": float(interval.high),
                    "macro_accuracy": float(np.nanmean(class_recalls(p.labels[chosen], correct[chosen], p.num_classes))),
                    "accuracy_without": float("nan") if without is None else float(without[chosen].mean()),
                }
            )
    return pd.DataFrame(rows, columns=["column", "value", "images", "accuracy", "low", "high", "macro_accuracy", "accuracy_without"])


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
    from lt_pipeline.evaluation.figures import COLOURS, SYMBOLS, captioned, styled

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
    from lt_pipeline.evaluation.figures import COLOURS, SERIES, captioned, escaped, styled

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


def _order(value: str) -> tuple[bool, float, str]:
    """Sort words, ranges of numbers by where they start, and what is missing last."""
    if value.startswith("< "):
        return False, -np.inf, value
    try:
        return value == "missing", float(value.removeprefix(">= ").split(" to ")[0]), value
    except ValueError:
        return value == "missing", np.inf, value
