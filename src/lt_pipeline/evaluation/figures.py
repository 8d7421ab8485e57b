"""Figures that say what the reader learns. Each works alone (Kedro-Viz, a notebook) and as part of the report.

Every figure's title is its finding, ``layout.meta["caption"]`` a sentence on how to read it.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lt_pipeline.evaluation.accuracy import GROUPS, hardest_confusions
from lt_pipeline.evaluation.calibration import reliability_bins, row_scores
from lt_pipeline.evaluation.metadata_figures import metadata_figures
from lt_pipeline.evaluation.metrics import shot_groups
from lt_pipeline.evaluation.predictions import Predictions
from lt_pipeline.evaluation.routing import cost_curve
from lt_pipeline.evaluation.style import COLOURS, SERIES, SOFT, SYMBOLS, captioned, escaped, shortened, styled
from lt_pipeline.evaluation.terminal import result_rows
from lt_pipeline.evaluation.vit_figures import vit_figures

if TYPE_CHECKING:
    import plotly.graph_objects as go


def build_figures(
    predictions: Predictions, metrics: Mapping[str, Any], per_class: pd.DataFrame, history: pd.DataFrame | None = None
) -> dict[str, go.Figure]:
    """Make every figure that these predictions allow, in the order of the report.

    Args:
        predictions: what :func:`~lt_pipeline.evaluation.metrics.evaluate` scored.
        metrics, per_class: its results.
        history: one row an epoch, see :func:`learning_curves`; without it there are no learning curves.
    """
    p = predictions.labelled()
    decisions = p.logits.argmax(axis=1)
    correct = decisions == p.labels
    confidence = row_scores(p.logits, p.labels).confidence
    figures = {"profile": class_profile(per_class), "tail": tail_accuracy(per_class)}
    if "ensemble/accuracy/all" in metrics:
        figures["experts"] = expert_groups(metrics)
    if p.expert_logits is not None and p.router_scores is not None:
        curve = cost_curve(p.expert_logits, p.router_scores, p.labels, p.macs_per_depth, shot_groups(p))
        figures["cost"] = cost_figure(curve, p.facts.get("router_threshold"))
    figures["reliability"] = reliability(reliability_bins(confidence, correct), metrics["ece"])
    if p.with_part or p.groups:
        figures |= metadata_figures(p, metrics)
    if not correct.all():
        figures["confusions"] = confusions(hardest_confusions(p.labels, decisions, p.class_names))
    if "analysis" in p.facts:
        figures |= vit_figures(p.facts["analysis"], history)
    if history is not None and len(history):
        figures["learning"] = learning_curves(history)
    return figures


def class_profile(per_class: pd.DataFrame) -> go.Figure:
    """Training images per class, from the most to the least frequent, coloured by shot group.

    Args:
        per_class: columns name, train_count, group.
    """

    table = _by_count(per_class)
    counts = table["train_count"]
    ratio = counts.max() / max(int(counts.min()), 1)
    title = f"The largest class has {_times(ratio)} the training images of the smallest"
    figure = styled(title if ratio > 1 else "Every class has the same number of training images")
    for group, part in _parts(table):
        figure.add_bar(
            x=part["rank"],
            y=part["train_count"],
            name=_group_label(group, len(part)),
            marker_color=COLOURS[group],
            customdata=np.stack([escaped(part["name"]), part["test_count"]], axis=1),
            hovertemplate="<b>%{customdata[0]}</b><br>%{y} training images<br>%{customdata[1]} test images<extra></extra>",
        )
    figure.update_layout(bargap=0.15 if len(table) <= 40 else 0, barmode="overlay")
    figure.update_yaxes(title="training images")
    if counts.max() > 20 * max(counts.median(), 1):  # on a linear axis most classes would be invisible
        figure.update_yaxes(type="log", dtick=1, range=[np.log10(0.7), np.log10(1.3 * counts.max())])
    _class_axis(figure, table)
    extent = f"{counts.max():,} in the largest class, {counts.min():,} in the smallest"
    return captioned(figure, f"{len(table):,} classes, {counts.sum():,} training images: {extent}.")


def tail_accuracy(per_class: pd.DataFrame) -> go.Figure:
    """Accuracy of each class along the tail, the running mean, and each group's mean.

    Args:
        per_class: columns name, train_count, test_count, accuracy, precision, group.
    """

    table = _by_count(per_class)
    means = {group: 100 * part["accuracy"].mean() for group, part in _parts(table) if part["accuracy"].notna().any()}
    figure = styled(_tail_title(means))
    for group, part in _parts(table):
        figure.add_scatter(
            x=part["rank"],
            y=100 * part["accuracy"],
            mode="markers",
            name=_group_label(group, len(part)),
            marker={
                "color": COLOURS[group],
                "symbol": SYMBOLS[group],
                "size": 11 if len(table) <= 40 else 7 if len(table) <= 400 else 4,
                "opacity": 0.85,
            },
            customdata=np.stack([escaped(part["name"]), part["train_count"], part["test_count"], _percent(part["precision"])], axis=1),
            hovertemplate="<b>%{customdata[0]}</b><br>accuracy %{y:.1f} %<br>precision %{customdata[3]}<br>%{customdata[1]} training images, "
            "%{customdata[2]} test images<extra></extra>",
        )
        if group in means:
            figure.add_scatter(
                x=[part["rank"].min() - 0.4, part["rank"].max() + 0.4],
                y=[means[group]] * 2,
                mode="lines",
                line={"color": COLOURS[group], "width": 2, "dash": "dot"},
                showlegend=False,
                hovertemplate=f"mean of the {group}-shot classes: {means[group]:.1f} %<extra></extra>",
            )
    if len(table) >= 20:
        figure.add_scatter(
            x=table["rank"],
            y=_smoothed(100 * table["accuracy"].to_numpy(float), width=max(2.0, len(table) / 25)),
            mode="lines",
            name="running mean",
            line={"color": COLOURS["all"], "width": 3, "shape": "spline"},
            hoverinfo="skip",
        )
    figure.update_yaxes(title="test accuracy, %", range=[-3, 103])
    _class_axis(figure, table)
    return captioned(
        figure,
        "One mark a class, from the most to the least frequent in training; dotted: the mean of each group, which the tables report.",
    )


def expert_groups(metrics: Mapping[str, Any]) -> go.Figure:
    """Accuracy of each expert, of their mean and of the final answer, by shot group.

    Args:
        metrics: result of :func:`~lt_pipeline.evaluation.metrics.evaluate` for a model with experts.
    """
    rows = result_rows(metrics)
    keys = [key for key in ("all", *GROUPS) if f"accuracy/{key}" in metrics]
    best = max(metrics[f"expert_{index}/accuracy/all"] for index in range(int(metrics["experts"])))
    gain = 100 * (metrics["ensemble/accuracy/all"] - best)
    verdict = "beats the best expert by" if gain >= 0 else "falls behind the best expert by"
    figure = styled(f"The mean of the experts {verdict} {abs(gain):.1f} points")
    labels = [html.escape(label) for label, _ in rows][::-1]
    for key in keys:
        values = [100 * metrics[f"{prefix}accuracy/{key}"] if f"{prefix}accuracy/{key}" in metrics else None for _, prefix in rows][::-1]
        figure.add_scatter(
            x=values,
            y=labels,
            mode="markers",
            name=key,
            marker={"color": COLOURS[key], "symbol": SYMBOLS[key], "size": 13},
            hovertemplate=f"%{{y}}<br>{key}: %{{x:.1f}} %<extra></extra>",
        )
    figure.update_xaxes(title="test accuracy, %")
    figure.update_yaxes(showgrid=True)
    figure.update_layout(height=170 + 42 * len(rows))
    return captioned(
        figure, "Each row is one answer of the same model. The further apart the experts' mistakes, the more their mean gains."
    )


def cost_figure(curve: pd.DataFrame, threshold: float | None = None) -> go.Figure:
    """Accuracy against mean cost as the router's threshold moves.

    Args:
        curve: result of :func:`~lt_pipeline.evaluation.routing.cost_curve`.
        threshold: the operating point to mark.
    """
    in_macs = "mean_macs" in curve
    x = curve["mean_macs"] / 1e9 if in_macs else curve["mean_experts"]
    figure = styled(_cost_title(curve, x, threshold))
    for key in [key for key in ("all", *GROUPS) if key in curve]:
        figure.add_scatter(
            x=x,
            y=100 * curve[key],
            mode="lines",
            name=key,
            line={"color": COLOURS[key], "width": 4 if key == "all" else 2},
            customdata=np.stack([curve["threshold"], curve["mean_experts"]], axis=1),
            hovertemplate=f"{key}: %{{y:.1f}} %<br>threshold %{{customdata[0]:.3f}}, %{{customdata[1]:.2f}} experts per image<extra></extra>",
        )
        if threshold is not None:
            point = int((curve["threshold"] - threshold).abs().argmin())
            figure.add_scatter(
                x=[x[point]],
                y=[100 * curve[key][point]],
                mode="markers",
                name=f"threshold {threshold:g}",
                showlegend=key == "all",
                legendrank=2000,
                marker={"color": COLOURS[key], "symbol": "star", "size": 14, "line": {"color": "white", "width": 1}},
                hoverinfo="skip",
            )
    figure.update_xaxes(title="GMACs per image, mean" if in_macs else "experts per image, mean")
    figure.update_yaxes(title="test accuracy, %")
    return captioned(
        figure,
        "Left end: the first expert alone; right end: all experts for every image. Read off the test set, so not a way to choose a threshold.",
    )


def reliability(bins: pd.DataFrame, ece: float) -> go.Figure:
    """Reliability diagram: accuracy against confidence, and how often each confidence occurs.

    Args:
        bins: result of :func:`~lt_pipeline.evaluation.calibration.reliability_bins`.
        ece: expected calibration error as a fraction.
    """
    from plotly.subplots import make_subplots

    filled = bins[bins["count"] > 0]
    bias = float((filled["gap"] * filled["count"]).sum() / filled["count"].sum())
    verdict = "over-confident" if bias < -0.01 else "under-confident" if bias > 0.01 else "neither over- nor under-confident on the whole"
    figure = styled(
        f"The model is {verdict}: calibration error {100 * ece:.1f} %",
        make_subplots(rows=2, shared_xaxes=True, row_heights=[0.74, 0.26], vertical_spacing=0.04),
    )
    middle, width = 50 * (filled["low"] + filled["high"]), 94 * (filled["high"] - filled["low"])
    hover = "confidence %{customdata[0]:.1f} %<br>accuracy %{customdata[1]:.1f} %<br>%{customdata[2]:,} images<extra></extra>"
    data = np.stack([100 * filled["confidence"], 100 * filled["accuracy"], filled["count"]], axis=1)
    bar = {"x": middle, "width": width, "customdata": data, "hovertemplate": hover}
    both = 100 * filled[["accuracy", "confidence"]].min(axis=1)
    figure.add_bar(**bar, y=both, name="accuracy", marker_color=SERIES[0], row=1, col=1)
    parts = (
        ("right more often than it says", filled["gap"].clip(lower=0), SERIES[5]),
        ("right less often than it says", -filled["gap"].clip(upper=0), "rgba(213,94,0,0.45)"),
    )
    for name, part, colour in parts:
        figure.add_bar(**bar, y=100 * part, base=both, name=name, marker_color=colour, row=1, col=1)
    figure.add_scatter(
        x=[0, 100],
        y=[0, 100],
        mode="lines",
        name="perfect",
        line={"color": COLOURS["all"], "dash": "dash", "width": 2},
        hoverinfo="skip",
        row=1,
        col=1,
    )
    figure.add_bar(**bar, y=100 * filled["count"] / filled["count"].sum(), name="images", showlegend=False, marker_color=SOFT, row=2, col=1)
    figure.update_layout(barmode="overlay", height=470)
    figure.update_xaxes(range=[0, 100])
    figure.update_xaxes(title="confidence of the answer, %", row=2, col=1)
    figure.update_yaxes(title="accuracy, %", range=[0, 103], row=1, col=1)
    figure.update_yaxes(title="images, %", row=2, col=1)
    return captioned(
        figure,
        "A calibrated model that says 70 % is right 70 % of the time: its bars end at the dashed line. Below: how often each confidence occurs.",
    )


def confusions(pairs: pd.DataFrame) -> go.Figure:
    """The pairs of classes confused most often.

    Args:
        pairs: result of :func:`~lt_pipeline.evaluation.accuracy.hardest_confusions`.
    """
    table = pairs.iloc[::-1]
    first = pairs.iloc[0]
    figure = styled(
        f"“{shortened(first['true_name'])}” is taken for “{shortened(first['predicted_name'])}” in {100 * first['rate']:.0f} % of its images"
    )
    names = [
        f"{shortened(true)} → {shortened(predicted)}" for true, predicted in zip(table["true_name"], table["predicted_name"], strict=True)
    ]
    # Positions with names as labels: on an axis of names two pairs of one name would share a bar.
    places = np.arange(len(names))
    figure.add_bar(
        x=100 * table["rate"],
        y=places,
        orientation="h",
        marker_color=SERIES[0],
        customdata=np.stack([escaped(table["true_name"]), escaped(table["predicted_name"]), table["count"]], axis=1),
        hovertemplate="<b>%{customdata[0]}</b> taken for <b>%{customdata[1]}</b><br>%{x:.1f} % of its test images (%{customdata[2]})<extra></extra>",
    )
    figure.update_yaxes(tickvals=places, ticktext=names, showgrid=False)
    figure.update_xaxes(title="% of the true class", rangemode="tozero")
    figure.update_layout(height=130 + 24 * len(names), showlegend=False)
    return captioned(figure, "True class → what the model said; the hardest pairs first.")


def sizes_of_clusters(sizes: NDArray[np.int64], per_class: pd.DataFrame) -> go.Figure:
    """Training images in each cluster, from the largest to the smallest, beside those of the classes where they are known.

    Args:
        sizes: images in each cluster, int64 [K].
        per_class: with train_count; empty without labels.
    """
    ordered, total = np.sort(sizes)[::-1], max(int(sizes.sum()), 1)
    empty = int((sizes == 0).sum())
    title = f"The largest cluster holds {100 * ordered[0] / total:.0f} % of the images"
    figure = styled(title + (f", {_count(empty, 'cluster')} none" if empty else ""))
    hover = "%{y} images<extra></extra>"
    figure.add_bar(x=np.arange(1, len(ordered) + 1), y=ordered, name="clusters", marker_color=SERIES[0], hovertemplate=hover)
    if len(per_class):
        true = np.sort(per_class["train_count"].to_numpy())[::-1]
        line = {"color": SERIES[1], "width": 2.5, "shape": "hvh"}
        figure.add_scatter(x=np.arange(1, len(true) + 1), y=true, mode="lines", name="classes", line=line, hovertemplate=hover)
    figure.update_layout(bargap=0.15 if len(ordered) <= 40 else 0)
    figure.update_xaxes(title="from the largest to the smallest")
    figure.update_yaxes(title="training images")
    return captioned(
        figure, f"{_count(len(ordered), 'cluster')}, {total:,} training images. A clustering that has collapsed has a few large ones."
    )


def learning_curves(history: pd.DataFrame) -> go.Figure:
    """Loss terms, accuracy where it was watched, and learning rate by epoch; one column a stage.

    Args:
        history: one row an epoch. Columns stage, epoch, ``loss/<term>``, ``lr`` and, optionally, ``val/accuracy``, ``test/accuracy`` (fractions);
            others are ignored.
    """
    from plotly.subplots import make_subplots

    table = history if "stage" in history else history.assign(stage="training")
    stages = list(dict.fromkeys(table["stage"]))
    losses = [str(column) for column in table if str(column).startswith("loss/")]
    watched = [column for column in ("val/accuracy", "test/accuracy") if column in table and table[column].notna().any()]
    panels = ["loss", *(["accuracy, %"] if watched else []), *(["learning rate"] if "lr" in table else [])]
    heights = {"loss": 0.5, "accuracy, %": 0.35, "learning rate": 0.2}
    grid = make_subplots(
        rows=len(panels),
        cols=len(stages),
        shared_xaxes="columns",
        row_heights=[heights[panel] for panel in panels],
        vertical_spacing=0.05,
        horizontal_spacing=min(0.12, 0.5 / len(stages)),
    )
    epochs = [int((table["stage"] == stage).sum()) for stage in stages]
    figure = styled(f"Training took {_count(sum(epochs), 'epoch')}" + (f" in {len(stages)} stages" if len(stages) > 1 else ""), grid)
    colours = {column: SERIES[index % len(SERIES)] for index, column in enumerate([*losses, *watched])}
    named: set[str] = set()

    def line(part: pd.DataFrame, column: str, row: int, col: int, factor: float = 1.0, unit: str = "") -> None:
        values = part[part[column].notna()]
        if values.empty:
            return
        label = html.escape(column.removeprefix("loss/").replace("/accuracy", " accuracy"))
        figure.add_scatter(
            x=values["epoch"],
            y=factor * values[column],
            mode="lines+markers" if len(values) < 4 else "lines",
            name=label,
            legendgroup=column,
            showlegend=column != "lr" and column not in named,
            line={"color": colours.get(column, COLOURS["all"]), "width": 2.5},
            hovertemplate=f"epoch %{{x}}<br>{label}: %{{y:.4~g}}{unit}<extra></extra>",
            row=row,
            col=col,
        )
        named.add(column)

    for col, stage in enumerate(stages, 1):
        part = table[table["stage"] == stage]
        for column in losses:
            line(part, column, 1, col)
        for column in watched:
            line(part, column, 2, col, 100, " %")
        if "lr" in table:
            line(part, "lr", len(panels), col)
        figure.update_xaxes(title="epoch" if len(stages) == 1 else f"epoch ({html.escape(str(stage))})", row=len(panels), col=col)
    for row, panel in enumerate(panels, 1):
        figure.update_yaxes(title=panel, row=row, col=1)
    if "lr" in table and (table["lr"].dropna() > 0).all():
        figure.update_yaxes(type="log", row=len(panels), tickformat="~g", dtick=1)
    figure.update_layout(height=240 + 110 * len(panels))
    note = (
        " Accuracy on the test set was watched on request; it did not choose the model reported as the last epoch."
        if "test/accuracy" in watched
        else ""
    )
    return captioned(figure, "Means over each epoch's training images." + note)


def _by_count(per_class: pd.DataFrame) -> pd.DataFrame:
    table = per_class.sort_values(["train_count", "class"], ascending=[False, True], ignore_index=True)
    return table.assign(rank=np.arange(1, len(table) + 1))


def _parts(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(group, table[table["group"] == group]) for group in GROUPS if (table["group"] == group).any()]


def _class_axis(figure: go.Figure, table: pd.DataFrame) -> None:
    if len(table) <= 30:
        labels = [shortened(name, 14) for name in table["name"]]
        slanted = len(labels) > 12 or max(map(len, labels)) > 10
        figure.update_xaxes(tickvals=table["rank"], ticktext=labels, ticklabeloverflow="allow", tickangle=-40 if slanted else None)
    else:
        figure.update_xaxes(title="classes, from the most to the least frequent in training")
    figure.update_xaxes(range=[0.3, len(table) + 0.7])


def _smoothed(values: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Gaussian running mean over ranks (standard deviation ``width``), leaving out missing values."""
    known = np.isfinite(values)
    reach = int(3 * width) + 1
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    total = np.convolve(np.where(known, values, 0), kernel)[reach:-reach]
    weight = np.convolve(known.astype(float), kernel)[reach:-reach]
    return np.divide(total, weight, out=np.full(len(values), np.nan), where=weight > 0)


def _tail_title(means: Mapping[str, float]) -> str:
    if len(means) < 2:
        return "Accuracy of each class"
    first, *_, last = means
    difference = means[first] - means[last]
    relation = "below" if difference >= 0 else "above"
    return f"{last.capitalize()}-shot classes lie {abs(difference):.1f} points {relation} {first}-shot ones"


def _cost_title(curve: pd.DataFrame, x: pd.Series, threshold: float | None) -> str:
    if threshold is None:
        return "What each further expert buys"
    point = int((curve["threshold"] - threshold).abs().argmin())
    saved, change = 100 * (1 - x[point] / x.max()), 100 * (curve["all"][point] - curve["all"].iloc[-1])
    price = f"costs {-change:.1f} points" if change <= -0.05 else f"gains {change:.1f} points" if change >= 0.05 else "costs no accuracy"
    return f"Routing saves {saved:.0f} % of the work and {price}"


def _group_label(group: str, classes: int) -> str:
    return f"{group} ({_count(classes, 'class', 'classes')})"


def _count(number: int, one: str, several: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def _times(ratio: float) -> str:
    return f"{ratio:.0f} times" if ratio >= 9.5 else f"{ratio:.1f} times"


def _percent(values: pd.Series) -> list[str]:
    return ["none predicted" if pd.isna(value) else f"{100 * value:.1f} %" for value in values]
