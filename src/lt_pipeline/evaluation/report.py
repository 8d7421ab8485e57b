"""The report: one HTML page that needs nothing but a browser."""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from lt_pipeline.evaluation.accuracy import GROUPS
from lt_pipeline.evaluation.terminal import display_name, result_rows

if TYPE_CHECKING:
    import plotly.graph_objects as go

_TOLD_FACTS = {"class_names", "train_counts", "timing", "settings"}  # in places of their own
_FIRST_FACTS = ("command", "method", "benchmark", "imbalance_factor", "seed", "split_hash", "protocol", "precision", "hardware", "versions")
_COLUMNS = {
    "accuracy/all": ("all", 100, 1),
    **{f"accuracy/{group}": (group, 100, 1) for group in GROUPS},
    "macro_accuracy": ("macro", 100, 1),
    "macro_f1": ("macro F1", 100, 1),
    "top5": ("top-5", 100, 1),
    "nll": ("NLL", 1, 3),
    "brier": ("Brier", 1, 3),
    "ece": ("ECE", 100, 1),
}


def render_report(
    metrics: Mapping[str, Any],
    per_class: pd.DataFrame,
    figures: Mapping[str, "go.Figure"],
    facts: Mapping[str, Any],
    history: pd.DataFrame | None = None,
    by_group: pd.DataFrame | None = None,
) -> str:
    """Render the report of one run.

    Args:
        metrics, per_class: results of :func:`~lt_pipeline.evaluation.metrics.evaluate`.
        figures: sections of the page in order; each figure brings its heading (title) and text (``layout.meta["caption"]``), see
            :func:`~lt_pipeline.evaluation.figures.build_figures`.
        facts: what a reader needs to repeat the run: command, versions, hardware, time; nested mappings are shown as such.
        history: one row an epoch; summed up by stage.
        by_group: result of :func:`~lt_pipeline.evaluation.metadata.group_table`.

    Returns:
        HTML with everything inside: no file, font or address outside the page is read, and the page forbids itself to.
    """
    return page(
        "report.html.j2",
        metrics=metrics,
        figures=figures,
        facts=facts,
        history=history,
        per_class=per_class,
        summary=_summary(metrics),
        tiles=list(_tiles(metrics)),
        protocol=list(_protocol(metrics)),
        results=_results(metrics),
        routing=_routing(metrics),
        by_group=_by_group(by_group),
    )


def page(
    template: str,
    *,
    metrics: Mapping[str, Any],
    figures: Mapping[str, "go.Figure"],
    facts: Mapping[str, Any],
    history: pd.DataFrame | None,
    per_class: pd.DataFrame,
    **parts: Any,
) -> str:
    """Render a template of this package with what every page has: title, figures, classes, stages, facts, all metrics.

    Args:
        template: name of the template.
        metrics: flat, with method and benchmark.
        figures: sections of the page in order.
        facts: what a reader needs to repeat the run.
        history: one row an epoch.
        per_class: one row a class; none without labels.
        parts: what the template asks for beside these.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("lt_pipeline.evaluation"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    settings = facts.get("settings")
    shown = [(key, _heading(figure), _caption(figure)) for key, figure in figures.items()]
    return environment.get_template(template).render(
        title=_title(metrics),
        metrics=metrics,
        figures=shown,
        figures_json=Markup(_script_json({key: _plain(figure) for key, figure in figures.items()})),
        plotly_js=Markup(get_plotlyjs()),
        stages=_stages(history, facts.get("timing", {})),
        classes=_classes(per_class) if len(per_class) else [],
        groups=[group for group in GROUPS if len(per_class) and (per_class["group"] == group).any()],
        facts=list(_facts(facts)),
        settings_yaml=yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=120) if settings else "",
        metrics_json=json.dumps(dict(metrics), indent=1, ensure_ascii=False, default=str),
        **parts,
    )


def _script_json(value: object) -> str:
    """JSON that may stand in a script element: no character of it can end the element or start a comment."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _plain(figure: "go.Figure") -> dict[str, Any]:
    value = json.loads(figure.to_json())
    value["layout"].pop("title", None)  # the page has its own headings
    return {"data": value["data"], "layout": value["layout"]}


def _heading(figure: "go.Figure") -> str:
    from html import unescape

    return unescape(figure.layout.title.text or "")  # escaped for plotly; the template escapes it again for the page


def _caption(figure: "go.Figure") -> str:
    return str((figure.layout.meta or {}).get("caption", ""))


def _title(metrics: Mapping[str, Any]) -> str:
    return " on ".join(display_name(metrics[key]) for key in ("method", "benchmark") if metrics.get(key)) or "A model along the tail"


def _summary(metrics: Mapping[str, Any]) -> str:
    sentence = f"{100 * metrics['accuracy/all']:.1f} % of {metrics['test_images']:,} test images are classified correctly"
    rarest = [group for group in GROUPS if f"accuracy/{group}" in metrics][-1:]
    if rarest and rarest != ["many"]:
        group = rarest[0]
        classes = _count(metrics[f"classes/{group}"], "rarest class", "rarest classes")
        sentence += f"; on the {classes} ({group}-shot) it is {100 * metrics[f'accuracy/{group}']:.1f} %"
    return sentence + "."


def _tiles(metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    shots = {name: _shots(metrics)[name] for name in GROUPS}
    for key in ("all", *GROUPS):
        if f"accuracy/{key}" in metrics:
            low, high = metrics.get(f"accuracy/{key}/ci_low"), metrics.get(f"accuracy/{key}/ci_high")
            classes = metrics["classes"] if key == "all" else metrics[f"classes/{key}"]
            yield {
                "key": key,
                "label": "all classes" if key == "all" else f"{key}-shot",
                "value": f"{100 * metrics[f'accuracy/{key}']:.1f}",
                "width": f"{100 * metrics[f'accuracy/{key}']:.1f}",
                "interval": None if low is None or high is None else f"95 %: {100 * low:.1f} to {100 * high:.1f}",
                "note": _count(classes, "class", "classes") + ("" if key == "all" else f", {shots[key]} images"),
            }


def _shots(metrics: Mapping[str, Any]) -> dict[str, str]:
    many, few = metrics["shot_many"], metrics["shot_few"]
    if str(metrics["shot_convention"]).startswith("strict"):
        return {"many": f"> {many}", "medium": f"{few} to {many}", "few": f"< {few}"}
    return {"many": f"≥ {many}", "medium": f"{few + 1} to {many - 1}", "few": f"≤ {few}"}


def _protocol(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "protocol", str(metrics["protocol"])
    for key, label in (("seed", "seed"), ("split_hash", "split"), ("imbalance_factor", "imbalance"), ("precision", "precision")):
        if metrics.get(key) is not None:
            yield label, str(metrics[key])
    yield "shot groups", f"{metrics['shot_convention']}: " + ", ".join(f"{name} {rule}" for name, rule in _shots(metrics).items())
    if metrics.get("unlabelled_images"):
        yield "left out", f"{metrics['unlabelled_images']:,} images without a label"


def _results(metrics: Mapping[str, Any]) -> dict[str, Any]:
    columns = {key: column for key, column in _COLUMNS.items() if key in metrics}
    rows = []
    for label, prefix in result_rows(metrics):
        cells = [
            f"{factor * metrics[prefix + key]:.{digits}f}" if prefix + key in metrics else "–"
            for key, (_, factor, digits) in columns.items()
        ]
        rows.append((label, prefix == "", cells))
    return {"columns": [title for title, _, _ in columns.values()], "rows": rows}


def _routing(metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    if "router/mean_experts" not in metrics:
        return None
    depths = range(1, int(metrics["experts"]) + 1)
    text = f"On average an image uses {metrics['router/mean_experts']:.2f} of {metrics['experts']} experts"
    if "macs/mean" in metrics:
        full = metrics[f"macs/depth_{metrics['experts']}"]
        text += f": {metrics['macs/mean'] / 1e9:.4g} GMACs, {100 * metrics['macs/mean'] / full:.0f} % of what all experts cost"
    return {"text": text + ".", "shares": [(depth, f"{metrics[f'router/percent_{depth}']:.1f}") for depth in depths]}


def _by_group(table: pd.DataFrame | None) -> list[dict[str, Any]]:
    if table is None:
        return []
    return [
        {
            **{key: row[key] for key in ("column", "value", "images")},
            **{key: f"{100 * row[key]:.1f}" for key in ("accuracy", "low", "high", "macro_accuracy")},
            "without": None if pd.isna(row["accuracy_without"]) else f"{100 * row['accuracy_without']:.1f}",
            "gain": None if pd.isna(row["accuracy_without"]) else f"{100 * (row['accuracy'] - row['accuracy_without']):+.1f}",
        }
        for row in table.to_dict("records")
    ]


def _stages(history: pd.DataFrame | None, timing: Mapping[str, Mapping[str, float]]) -> list[dict[str, str]]:
    if history is None or history.empty:
        return []
    table = history if "stage" in history else history.assign(stage="training")
    rows = []
    for stage, part in table.groupby("stage", sort=False):
        spent = timing.get(str(stage))
        rows.append(
            {
                "stage": str(stage),
                "epochs": f"{len(part):,}",
                "time": _duration(spent["seconds"]) if spent else "–",
                "speed": f"{spent['images_per_second']:,.0f}" if spent else "–",
            }
        )
    return rows


def _classes(per_class: pd.DataFrame) -> list[dict[str, Any]]:
    table = per_class.sort_values(["train_count", "class"], ascending=[False, True])
    return [
        {
            **{key: row[key] for key in ("class", "name", "group", "train_count", "test_count")},
            **{key: None if pd.isna(row[key]) else f"{100 * row[key]:.1f}" for key in ("accuracy", "precision", "f1")},
        }
        for row in table.to_dict("records")
    ]


def _facts(facts: Mapping[str, Any]) -> Iterator[tuple[str, str | list[tuple[str, str]]]]:
    keys = [key for key in _FIRST_FACTS if key in facts] + [key for key in facts if key not in _FIRST_FACTS and key not in _TOLD_FACTS]
    for key in keys:
        value = facts[key]
        if isinstance(value, Mapping):
            yield _label(key), [(_label(name), _text(inner)) for name, inner in value.items()]
        elif value is not None:
            yield _label(key), _text(value)


def _label(key: object) -> str:
    return str(key).replace("_", " ")


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    return str(value)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _count(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"
