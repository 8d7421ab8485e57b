"""Figures of a distilled ViT: what each token's features span, how far its heads look, how the tokens differ (DeiT-LT, section 5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lt_pipeline.evaluation.style import COLOURS, SERIES, captioned, styled

if TYPE_CHECKING:
    import plotly.graph_objects as go


def vit_figures(analysis: Mapping[str, Any], history: pd.DataFrame | None = None) -> dict[str, go.Figure]:
    """Return the figures of an analysis.

    Args:
        analysis: as the predictions' facts hold it: ``rank`` and ``effective_rank`` (token -> [blocks]), ``attention_distance``
            ([blocks][heads], pixels), ``similarity``, ``disagreement``, ``images``, ``variance``.
        history: one row an epoch.
    """
    return {"diversity": diversity_figure(analysis, history), "rank": rank_figure(analysis), "attention": attention_figure(analysis)}


def rank_figure(analysis: Mapping[str, Any]) -> go.Figure:
    """Rank of each token's features after each block."""
    last = {name: ranks[-1] for name, ranks in analysis["rank"].items()}
    lowest = min(last, key=lambda name: last[name])
    highest = max(last, key=lambda name: last[name])
    title = (
        f"After the last block {lowest} needs {last[lowest]} directions, {highest} {last[highest]}"
        if last[lowest] != last[highest]
        else f"After the last block both tokens need {last[lowest]} directions"
    )
    figure = styled(title)
    for number, name in enumerate(analysis["rank"]):
        blocks = np.arange(1, len(analysis["rank"][name]) + 1)
        for key, dash, label in (("rank", "solid", "directions"), ("effective_rank", "dot", "effective rank")):
            figure.add_scatter(
                x=blocks,
                y=analysis[key][name],
                mode="lines+markers",
                name=f"{name}, {label}",
                line={"color": SERIES[number], "dash": dash, "width": 2.5},
                hovertemplate=f"block %{{x}}<br>{name}, {label}: %{{y:.4~g}}<extra></extra>",
            )
    figure.update_xaxes(title="block", dtick=1)
    figure.update_yaxes(title="rank", rangemode="tozero")
    return captioned(
        figure,
        f"Principal directions that hold {100 * analysis['variance']:g} % of the variance of a token over {analysis['images']} test images, and "
        "exp of the entropy of the singular values. The teacher's flat minimum is meant to make the distilled token's features low-rank.",
    )


def attention_figure(analysis: Mapping[str, Any]) -> go.Figure:
    """Mean attention distance of each head, block by block."""
    distances = [sorted(heads) for heads in analysis["attention_distance"]]
    means = [float(np.mean(heads)) for heads in distances]
    figure = styled(f"Heads look {means[0]:.0f} pixels far in the first block, {means[-1]:.0f} in the last")
    for block, heads in enumerate(distances, 1):
        figure.add_scatter(
            x=[block] * len(heads),
            y=heads,
            mode="markers",
            name="a head",
            legendgroup="heads",
            showlegend=block == 1,
            marker={"color": SERIES[0], "size": 9, "opacity": 0.6},
            hovertemplate="block %{x}<br>%{y:.1f} pixels<extra></extra>",
        )
    figure.add_scatter(
        x=np.arange(1, len(means) + 1),
        y=means,
        mode="lines",
        name="mean of the block",
        line={"color": COLOURS["all"], "width": 2.5},
        hovertemplate="block %{x}: %{y:.1f} pixels<extra></extra>",
    )
    figure.update_xaxes(title="block", dtick=1)
    figure.update_yaxes(title="mean attention distance, pixels", rangemode="tozero")
    return captioned(
        figure,
        "Distance from a patch to the patches it attends to, weighted by the attention. Small distances in the first blocks are the locality that "
        "a convolutional teacher hands on.",
    )


def diversity_figure(analysis: Mapping[str, Any], history: pd.DataFrame | None) -> go.Figure:
    """How alike the two tokens were while they learned, and how often the teacher named the image's own class.

    Args:
        analysis: see :func:`vit_figures`.
        history: columns epoch, ``token_similarity`` and, with a teacher, ``teacher_accuracy``; other stages have none.
    """
    share = 100 * analysis["disagreement"]
    figure = styled(f"The two heads disagree on {share:.0f} % of the images; their tokens' cosine is {analysis['similarity']:.2f}")
    lines = {"token_similarity": "cosine of the tokens", "teacher_accuracy": "teacher right, share of the images as trained on"}
    for number, (column, name) in enumerate(lines.items()):
        if history is not None and column in history and history[column].notna().any():
            part = history[history[column].notna()]
            figure.add_scatter(
                x=part["epoch"],
                y=part[column],
                mode="lines+markers" if len(part) < 4 else "lines",
                name=name,
                line={"color": SERIES[number], "width": 2.5},
                hovertemplate=f"epoch %{{x}}<br>{name}: %{{y:.3f}}<extra></extra>",
            )
    figure.update_xaxes(title="epoch")
    figure.update_yaxes(title="share or cosine")
    return captioned(
        figure,
        "On mixed and strongly augmented images the teacher is often wrong; what it says there keeps the tokens apart, one the expert of "
        "frequent classes, one of rare ones.",
    )
