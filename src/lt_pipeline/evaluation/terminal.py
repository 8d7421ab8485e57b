"""The result as a table for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from lt_pipeline.evaluation.accuracy import GROUPS

_PERCENT = {"accuracy/all": "all", **{f"accuracy/{group}": group for group in GROUPS}, "macro_accuracy": "macro", "top5": "top-5"}
_PLAIN = {"nll": "NLL", "brier": "Brier"}
_NAMES = {
    "ride": "RIDE",
    "mdcs": "MDCS",
    "shike": "SHIKE",
    "deit_lt": "DeiT-LT",
    "metaformer": "MetaFormer",
    "apa": "APA",
    "p2ot": "P²OT",
    "sp2ot": "SP²OT",
    "cross_entropy": "Cross-entropy",
    "ldam_drw": "LDAM-DRW",
    "balanced_softmax": "Balanced softmax",
    "logit_adjustment": "Logit adjustment",
    "digits_lt": "Digits-LT",
    "fashion_mnist_lt": "Fashion-MNIST-LT",
    "cifar10_lt": "CIFAR-10-LT",
    "cifar100_lt": "CIFAR-100-LT",
    "imagenet_lt": "ImageNet-LT",
    "places_lt": "Places-LT",
    "inaturalist18": "iNaturalist 2018",
    "ham10000": "HAM10000",
}


def display_name(name: object) -> str:
    """The name as papers write it, for the methods and benchmarks known here; any other name as it is."""
    return _NAMES.get(str(name), str(name))


def terminal_table(metrics: Mapping[str, Any]) -> Table:
    """One row for the model's answer, one for each other selection, the ensemble and each expert; accuracy in percent, then calibration.

    Columns of shot groups that the benchmark does not have are left out.
    """
    percent = {key: title for key, title in _PERCENT.items() if key in metrics}
    where = " on ".join(display_name(metrics[key]) for key in ("method", "benchmark") if metrics.get(key))
    table = Table(
        title=Text(where or "result", style="bold"), caption=Text(_caption(metrics)), caption_justify="left", title_justify="left"
    )
    table.add_column("accuracy %", no_wrap=True)
    for title in percent.values():
        table.add_column(title, justify="right", no_wrap=True, style="bold" if title == "all" else "")
    for title in (*_PLAIN.values(), "ECE %"):
        table.add_column(title, justify="right", no_wrap=True, style="cyan")
    for label, prefix in result_rows(metrics):
        numbers = [_number(metrics.get(prefix + key), 100, 1) for key in percent]
        numbers += [_number(metrics.get(prefix + key), 1, 3) for key in _PLAIN] + [_number(metrics.get(prefix + "ece"), 100, 1)]
        table.add_row(Text(label), *numbers, end_section=not prefix.startswith("expert_"))
    return table


def result_rows(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows of a result table as (label, key prefix): the answer, other selections, the answer to
    pixels alone, the ensemble if a router may stop before, each expert."""
    rows = [(str(metrics.get("protocol") or "result"), "")]
    rows += [(label, f"{label}/") for label in metrics.get("selections", [])[1:]]
    if "metadata/none/accuracy/all" in metrics:
        rows.append(("without metadata", "metadata/none/"))
    if "ensemble/accuracy/all" in metrics:
        experts = int(metrics["experts"])
        if "router/mean_experts" in metrics:  # without a router the mean of all is the answer itself
            rows.append((f"mean of {experts} experts", "ensemble/"))
        names = metrics.get("expert_names") or [f"expert {index + 1}" for index in range(experts)]
        rows += [(str(name), f"expert_{index}/") for index, name in enumerate(names)]
    return rows


def _caption(metrics: Mapping[str, Any]) -> str:
    parts = []
    if "accuracy/all/ci_low" in metrics:
        low, high = metrics["accuracy/all/ci_low"], metrics["accuracy/all/ci_high"]
        parts.append(f"all: {100 * low:.1f} to {100 * high:.1f} (95 %, {metrics['test_images']} test images)")
    if "ranked/tail" in metrics:
        parts.append("by rank: " + ", ".join(f"{name} {100 * metrics[f'ranked/{name}']:.1f}" for name in ("head", "mid", "tail")))
    if "router/mean_experts" in metrics:
        parts.append(f"{metrics['router/mean_experts']:.2f} experts per image")
    if "macs/mean" in metrics:
        parts.append(f"{metrics['macs/mean'] / 1e9:.4g} GMACs per image")
    parts += [
        f"{title} {metrics[key]}"
        for key, title in (("seed", "seed"), ("split_hash", "split"), ("precision", "precision"))
        if metrics.get(key) is not None
    ]
    return " · ".join(parts)


def _number(value: float | None, factor: float, digits: int) -> str:
    return "–" if value is None else f"{factor * value:.{digits}f}"
