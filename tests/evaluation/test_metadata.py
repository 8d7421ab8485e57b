"""Accuracy with all, part and none of the metadata, and by group of images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lt_pipeline.errors import LongTailError
from lt_pipeline.evaluation.figures import build_figures
from lt_pipeline.evaluation.metadata import group_table
from lt_pipeline.evaluation.metrics import evaluate
from lt_pipeline.evaluation.predictions import Predictions
from lt_pipeline.evaluation.report import render_report
from lt_pipeline.evaluation.terminal import result_rows

from .synthetic import ride_like


@pytest.fixture(scope="module")
def predictions() -> Predictions:
    """A model that is always right with all metadata, on every second image without any, and never with the date alone; young and old."""
    plain = ride_like(classes=10, per_class=20)
    right = plain.labels
    logits = np.eye(10, dtype=np.float32)[right]
    without = np.where(np.arange(len(right)) % 2, right, (right + 1) % 10)
    ages = np.where(np.arange(len(right)) < 50, "< 40", np.where(np.arange(len(right)) % 2, ">= 60", "40 to 60")).astype(object)
    ages[-1] = "missing"
    return Predictions(
        plain.sample_ids,
        right,
        logits,
        facts=plain.facts,
        with_part={"none": without, "only date": (right + 1) % 10, "only place": right},
        groups={"age": ages, "sex & <more>": np.where(right < 5, "f", "m")},
    )


def test_they_survive_the_file(tmp_path: Path, predictions: Predictions) -> None:
    predictions.to_parquet(tmp_path / "last.parquet")
    again = Predictions.from_parquet(tmp_path / "last.parquet")
    assert list(again.with_part) == ["none", "only date", "only place"]
    assert all(np.array_equal(again.with_part[name], classes) for name, classes in predictions.with_part.items())
    assert all(np.array_equal(again.groups[name], words) for name, words in predictions.groups.items())
    with pytest.raises(LongTailError, match=r"with_part\['none'\] has the shape \(3,\)"):
        replace(predictions, with_part={"none": np.zeros(3)})


def test_scores_of_each_part_and_of_each_group(predictions: Predictions) -> None:
    metrics, _ = evaluate(predictions, draws=0)
    assert metrics["accuracy/all"] == 1.0
    assert metrics["metadata/none/accuracy/all"] == metrics["metadata/none/macro_accuracy"] == 0.5
    assert metrics["metadata/only date/accuracy/all"] == 0.0
    assert {key for key in metrics if key.startswith("metadata/none/accuracy/")} == {
        key.replace("accuracy/", "metadata/none/accuracy/", 1) for key in metrics if key.startswith("accuracy/")
    }
    assert (metrics["by/age/< 40/images"], metrics["by/age/< 40/accuracy"], metrics["by/age/< 40/accuracy_without"]) == (50, 1.0, 0.5)
    assert metrics["by/age/>= 60/accuracy_without"] == 1.0 and metrics["by/age/40 to 60/accuracy_without"] == 0.0
    assert ("without metadata", "metadata/none/") in result_rows(metrics)


def test_the_table_counts_by_hand_and_orders_ranges(predictions: Predictions) -> None:
    wrong = predictions.logits.copy()
    wrong[:10] = np.roll(wrong[:10], 1, axis=1)
    table = group_table(replace(predictions, logits=wrong)).set_index(["column", "value"])
    assert table.loc["age"].index.tolist() == ["< 40", "40 to 60", ">= 60", "missing"]
    young = table.loc[("age", "< 40")]
    assert (young["images"], young["accuracy"]) == (50, 0.8)
    assert young["macro_accuracy"] == pytest.approx((0.5 + 1 + 1) / 3)  # of the three classes that the group has
    assert young["low"] < 0.8 < young["high"]
    assert table["images"].groupby("column").sum().tolist() == [200, 200]


def test_unlabelled_images_are_left_out_of_everything(predictions: Predictions) -> None:
    labels = predictions.labels.copy()
    labels[50:] = -1
    metrics, _ = evaluate(replace(predictions, labels=labels), draws=0)
    assert metrics["by/age/< 40/images"] == 50 and "by/age/>= 60/images" not in metrics
    assert metrics["metadata/none/accuracy/all"] == 0.5


def report(predictions: Predictions) -> tuple[str, list[str]]:
    metrics, per_class = evaluate(predictions, draws=0)
    figures = build_figures(predictions, metrics, per_class)
    return render_report(metrics, per_class, figures, {"method": "m"}, by_group=group_table(predictions)), list(figures)


def test_the_report_shows_them_and_only_where_there_are_any(predictions: Predictions) -> None:
    page, figures = report(predictions)
    assert {"metadata", "by_group"} <= set(figures)
    assert "The metadata bring 50.0 points" in page and "For whom" in page and "+50.0" in page
    assert "sex &amp; &lt;more&gt;" in page and "<more>" not in page.split("<script")[0]
    page, figures = report(replace(predictions, with_part={}, groups={}))
    assert not {"metadata", "by_group"} & set(figures)
    assert "For whom" not in page and "without metadata" not in page
    page, figures = report(replace(predictions, with_part={}))  # groups of any model that looks at pixels alone
    assert "by_group" in figures and "For whom" in page and "no metadata" not in page


def test_a_model_of_ones_own_may_bring_them_with_pandas(tmp_path: Path, predictions: Predictions) -> None:
    frame = pd.DataFrame(
        {
            "sample_id": predictions.sample_ids,
            "label": predictions.labels,
            "logits": list(predictions.logits),
            "with/none": predictions.with_part["none"],
            "group/age": predictions.groups["age"],
        }
    )
    frame.attrs = {"train_counts": predictions.facts["train_counts"]}
    frame.to_parquet(tmp_path / "mine.parquet")
    metrics, _ = evaluate(Predictions.from_parquet(tmp_path / "mine.parquet"), draws=0)
    assert metrics["metadata/none/accuracy/all"] == 0.5 and metrics["by/age/missing/images"] == 1
