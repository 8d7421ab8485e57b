"""What a clustering run tells: flat metrics, tables, figures, a contact sheet, one page.

Metric keys (fractions of 1): ``accuracy/all`` (after Hungarian matching), ``macro_accuracy`` (P2OT's "ACC"), ``macro_precision``, ``macro_f1``,
``nmi``, ``ami``, ``ari``, ``accuracy/{many,medium,few}`` (shot groups), ``accuracy/{head,middle,tail}`` (30, 40 and 30 % of the classes by size), all
on the test part; the same behind ``train/`` for the training part, behind ``k_means/`` and ``k_means/train/`` for k-means on the initial features.
Without labels there is only ``clusters``, ``clusters/empty``, ``clusters/entropy``, ``clusters/largest`` and ``collapse``, of the training part.
"""

import base64
import io
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.table import Table
from rich.text import Text

from lt_pipeline.data.images import to_square
from lt_pipeline.data.labels import has_labels
from lt_pipeline.data.shots import shot_masks
from lt_pipeline.evaluation.accuracy import GROUPS
from lt_pipeline.evaluation.clustering import ClusterScores, cluster_sizes, head_medium_tail, score_clusters
from lt_pipeline.evaluation.figures import learning_curves, sizes_of_clusters
from lt_pipeline.evaluation.terminal import display_name

if TYPE_CHECKING:
    import plotly.graph_objects as go

_COLUMNS = {
    "macro_accuracy": "macro",
    "accuracy/all": "all",
    **{f"accuracy/{group}": group for group in (*GROUPS, "head", "middle", "tail")},
    "macro_f1": "macro F1",
    "macro_precision": "precision",
    "nmi": "NMI",
    "ami": "AMI",
    "ari": "ARI",
}
_PAGE_ALONE = ("accuracy/head", "accuracy/middle", "accuracy/tail", "macro_precision")
"""Columns that a terminal has no room for."""
_ROWS = {"": "test", "train/": "train", "k_means/": "k-means, test", "k_means/train/": "k-means, train"}
_SHEET_CLUSTERS, _SHEET_IMAGES, _SHEET_SIDE = 100, 12, 56


def cluster_metrics(
    assignments: pd.DataFrame, k_means: pd.DataFrame, split: pd.DataFrame, clusters: int, facts: Mapping[str, Any]
) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
    """Score a clustering.

    Args:
        assignments: sample_id, split, cluster and probability of the training and test images.
        k_means: sample_id, split, cluster of the yardstick.
        split: with the labels.
        clusters: K.
        facts: context that goes into the metrics: method, benchmark, seed, split_hash, protocol, shot thresholds, ...

    Returns:
        Flat metrics, one row a class (empty without labels), one row a cluster.
    """
    train = assignments[assignments["split"] == "train"]
    spread = cluster_sizes(train["cluster"], clusters)
    metrics: dict[str, Any] = {
        **facts,
        "clusters": clusters,
        "labelled": has_labels(split),
        "train_images": len(train),
        "test_images": int((assignments["split"] == "test").sum()),
        "clusters/empty": spread.empty,
        "clusters/entropy": spread.entropy,
        "clusters/largest": float(spread.sizes.max() / spread.sizes.sum()),
        "collapse": spread.alarm(),
    }
    per_cluster = _per_cluster(assignments, split, clusters)
    if not metrics["labelled"]:
        return metrics, pd.DataFrame(), per_cluster
    classes = int(split["label"].max()) + 1
    counts = np.bincount(split.loc[split["split"] == "train", "label"], minlength=classes)
    masks = shot_masks(counts, str(facts["shot_convention"]), int(facts["shot_many"]), int(facts["shot_few"]))
    groups = {name: mask for name, mask in masks.items() if mask.any()}
    metrics |= {"classes": classes} | {f"classes/{name}": int(mask.sum()) for name, mask in groups.items()}
    scores: dict[str, ClusterScores] = {}
    for prefix, table in (("", assignments), ("k_means/", k_means)):
        for part in ("test", "train"):
            labels = split.set_index("sample_id")["label"]
            rows = table[table["split"] == part]
            found = score_clusters(rows["cluster"], labels[rows["sample_id"]], clusters, classes)
            where = prefix + ("train/" if part == "train" else "")
            scores[where] = found
            metrics |= {where + key: value for key, value in _flat(found, counts, groups).items()}
    return metrics, _per_class(scores, split, counts, groups), per_cluster


def cluster_table(metrics: Mapping[str, Any]) -> Table:
    """The scores for the terminal, in percent; the sizes alone where there are no labels."""
    where = " on ".join(display_name(metrics[key]) for key in ("method", "benchmark") if metrics.get(key))
    spread = (
        f"{metrics['clusters']} clusters, {metrics['clusters/empty']} of them empty; entropy of the sizes {metrics['clusters/entropy']:.2f}"
    )
    table = Table(title=Text(where, style="bold"), caption=Text(_caption(metrics, spread)), caption_justify="left", title_justify="left")
    table.add_column("%", no_wrap=True)
    columns = {key: title for key, title in _COLUMNS.items() if key in metrics and key not in _PAGE_ALONE}
    for title in columns.values():
        table.add_column(title, justify="right", no_wrap=True)
    for label, cells in result_cells(metrics, list(columns)):
        table.add_row(Text(label), *cells)
    return table


def result_cells(metrics: Mapping[str, Any], columns: list[str]) -> list[tuple[str, list[str]]]:
    """Return the rows of the result table: where, and the figures in percent."""
    rows = []
    for prefix, label in _ROWS.items():
        values = [metrics.get(prefix + key) for key in columns]
        if any(value is not None for value in values):
            rows.append((label, ["–" if value is None else f"{100 * value:.1f}" for value in values]))
    return rows


def cluster_figures(per_class: pd.DataFrame, per_cluster: pd.DataFrame, history: pd.DataFrame) -> dict[str, "go.Figure"]:
    """Return the figures of the page in order."""
    figures = {"sizes": sizes_of_clusters(per_cluster["train_images"].to_numpy(), per_class)}
    return figures | {"learning": learning_curves(history)}


def contact_sheet(train: pd.DataFrame, per_cluster: pd.DataFrame, images: Any) -> list[dict[str, Any]]:
    """Return the surest images of each cluster as one picture a cluster, from the largest cluster to the smallest.

    Of more than a hundred clusters the larger and the smaller fifty are shown; empty ones are not.

    Args:
        train: image (row in the store), cluster and probability of the training images.
        per_cluster: one row a cluster, see :func:`cluster_metrics`.
        images: the store, ``read(row) -> uint8 [H, W, 3]``.
    """
    shown = per_cluster[per_cluster["train_images"] > 0].sort_values(["train_images", "cluster"], ascending=[False, True])
    if len(shown) > _SHEET_CLUSTERS:
        shown = pd.concat([shown[: _SHEET_CLUSTERS // 2], shown[-(_SHEET_CLUSTERS // 2) :]])
    sheet = []
    for row in shown.to_dict("records"):
        members = train[train["cluster"] == row["cluster"]].nlargest(_SHEET_IMAGES, "probability")
        note = f"{row['train_images']:,} training images"
        if "majority" in row:
            note += f", {100 * row['purity']:.0f} % {row['majority']}"
        sheet.append({"cluster": row["cluster"], "note": note, "picture": _strip([images.read(int(image)) for image in members["image"]])})
    return sheet


def render_cluster_report(
    metrics: Mapping[str, Any],
    per_class: pd.DataFrame,
    per_cluster: pd.DataFrame,
    figures: Mapping[str, "go.Figure"],
    facts: Mapping[str, Any],
    history: pd.DataFrame,
    sheet: list[dict[str, Any]],
) -> str:
    """Return the page: HTML with everything inside, see :func:`~lt_pipeline.evaluation.report.render_report`."""
    from lt_pipeline.evaluation.report import page

    columns = {key: title for key, title in _COLUMNS.items() if key in metrics}
    rows = result_cells(metrics, list(columns))
    return page(
        "clusters.html.j2",
        metrics=metrics,
        figures=figures,
        facts=facts,
        history=history,
        per_class=per_class,
        summary=_summary(metrics),
        tiles=_tiles(metrics),
        protocol=[(label, str(metrics[key])) for key, label in _PROTOCOL.items() if metrics.get(key) is not None],
        results={"columns": list(columns.values()), "rows": [(label, label == "test", cells) for label, cells in rows]},
        clusters=[
            {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
            for row in per_cluster.sort_values(["train_images", "cluster"], ascending=[False, True]).to_dict("records")
        ],
        sheet=sheet,
    )


_PROTOCOL = {
    "protocol": "assigned by",
    "seed": "seed",
    "split_hash": "split",
    "imbalance_factor": "imbalance",
    "backbone": "backbone",
    "precision": "precision",
}


def _flat(scores: ClusterScores, counts: np.ndarray, groups: Mapping[str, np.ndarray]) -> dict[str, float]:
    flat = {"accuracy/all": scores.accuracy}
    flat |= {name: getattr(scores, name) for name in ("macro_accuracy", "macro_precision", "macro_f1", "nmi", "ami", "ari")}
    for name, mask in groups.items():
        if np.isfinite(scores.recall[mask]).any():
            flat[f"accuracy/{name}"] = float(np.nanmean(scores.recall[mask]))
    thirds = head_medium_tail(scores.recall, counts)
    if thirds is not None:
        flat |= {f"accuracy/{name}": value for name, value in zip(("head", "middle", "tail"), thirds, strict=True)}
    return {key: value for key, value in flat.items() if math.isfinite(value)}


def _per_class(
    scores: Mapping[str, ClusterScores], split: pd.DataFrame, counts: np.ndarray, groups: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    names = split.drop_duplicates("label").set_index("label")["class_name"]
    test, train = scores[""], scores["train/"]
    cluster_of = {int(label): cluster for cluster, label in enumerate(test.class_of_cluster) if label >= 0}
    return pd.DataFrame(
        {
            "class": np.arange(len(counts)),
            "name": [names.get(label, str(label)) for label in range(len(counts))],
            "train_count": counts,
            "test_count": np.bincount(split.loc[split["split"] == "test", "label"], minlength=len(counts)),
            "accuracy": test.recall,
            "group": np.select(list(groups.values()), list(groups), default=""),
            "precision": test.precision,
            "f1": test.f1,
            "train_accuracy": train.recall,
            "cluster": [cluster_of.get(label, -1) for label in range(len(counts))],
        }
    )


def _per_cluster(assignments: pd.DataFrame, split: pd.DataFrame, clusters: int) -> pd.DataFrame:
    table = pd.DataFrame({"cluster": np.arange(clusters)})
    parts = {part: assignments[assignments["split"] == part] for part in ("train", "test")}
    for part, rows in parts.items():
        table[f"{part}_images"] = np.bincount(rows["cluster"], minlength=clusters)
    table["probability"] = parts["train"].groupby("cluster")["probability"].mean().reindex(table["cluster"]).to_numpy()
    if has_labels(split):
        named = parts["train"].assign(name=split.set_index("sample_id")["class_name"][parts["train"]["sample_id"]].to_numpy())
        shares = named.groupby("cluster")["name"].value_counts(normalize=True).groupby(level=0).head(1).reset_index(level=1)
        table["majority"] = shares["name"].reindex(table["cluster"]).fillna("").to_numpy()
        table["purity"] = shares["proportion"].reindex(table["cluster"]).to_numpy()
    return table


def _strip(pictures: list[np.ndarray]) -> str:
    from PIL import Image

    side = _SHEET_SIDE
    canvas = Image.new("RGB", (len(pictures) * (side + 2) - 2, side), "white")
    for number, pixels in enumerate(pictures):
        canvas.paste(Image.fromarray(to_square(pixels, side)), (number * (side + 2), 0))
    buffer = io.BytesIO()
    canvas.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _summary(metrics: Mapping[str, Any]) -> str:
    text = f"{metrics['train_images']:,} training images without labels make {metrics['clusters'] - metrics['clusters/empty']} clusters"
    if metrics["labelled"]:
        text += f"; matched with the {metrics['classes']} classes they put {100 * metrics['macro_accuracy']:.1f} % of a class's test images right"
        difference = 100 * (metrics["macro_accuracy"] - metrics["k_means/macro_accuracy"])
        text += f", {abs(difference):.1f} points {'more' if difference >= 0 else 'less'} than k-means on the initial features"
    alarm = f" Alarm: {metrics['collapse']}." if metrics["collapse"] else ""
    return text + "." + alarm


def _tiles(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    shown = (
        {"macro_accuracy": ("all", "class-averaged accuracy"), "nmi": ("all", "NMI")}
        | {f"accuracy/{group}": (group, f"{group}-shot classes") for group in GROUPS}
        if metrics["labelled"]
        else {"clusters/entropy": ("all", "entropy of the sizes"), "clusters/largest": ("all", "images in the largest cluster")}
    )
    tiles = []
    for key, (colour, label) in shown.items():
        if key in metrics:
            value = f"{100 * metrics[key]:.1f}"
            yardstick = metrics.get(f"k_means/{key}")
            note = f"k-means: {100 * yardstick:.1f}" if yardstick is not None else ""
            tiles.append({"key": colour, "label": label, "value": value, "width": value, "note": note, "interval": None})
    return tiles


def _caption(metrics: Mapping[str, Any], spread: str) -> str:
    named = {"seed": "seed", "split_hash": "split", "precision": "precision"}
    known = [f"{title} {metrics[key]}" for key, title in named.items() if metrics.get(key) is not None]
    return " · ".join([spread, *known, *([f"ALARM: {metrics['collapse']}"] if metrics["collapse"] else [])])
