import json

import numpy as np
import pandas as pd
import pytest

from lt_pipeline.evaluation import figures
from lt_pipeline.evaluation.metrics import evaluate
from lt_pipeline.evaluation.predictions import Predictions

from .synthetic import history, ride_like


@pytest.fixture(scope="module")
def built(routed, routed_result):
    return figures.build_figures(routed, *routed_result, history(20, 3))


def test_all_figures_in_reading_order(built):
    assert list(built) == ["profile", "tail", "experts", "cost", "reliability", "confusions", "learning"]
    for figure in built.values():
        assert figure.layout.title.text and figure.layout.meta["caption"].endswith(".")
        json.loads(figure.to_json())


def test_a_plain_model_gets_the_figures_it_has_data_for(routed):
    plain = Predictions(routed.sample_ids, routed.labels, routed.logits, facts=routed.facts)
    assert list(figures.build_figures(plain, *evaluate(plain))) == ["profile", "tail", "reliability", "confusions"]


def test_a_perfect_model_has_no_confusions():
    logits = 9 * np.eye(3, dtype=np.float32)
    perfect = Predictions(np.array(list("abc")), np.arange(3), logits, facts={"train_counts": [500, 50, 5]})
    assert "confusions" not in figures.build_figures(perfect, *evaluate(perfect))


def test_profile_shows_every_class_once(routed_result):
    figure = figures.class_profile(routed_result[1])
    heights = np.concatenate([np.asarray(bar.y) for bar in figure.data])
    assert sorted(heights) == sorted(routed_result[1]["train_count"])
    assert "100 times" in figure.layout.title.text
    assert [bar.name for bar in figure.data] == ["many (7 classes)", "medium (7 classes)", "few (6 classes)"]


def test_tail_title_is_the_difference_of_the_groups(routed_result):
    metrics, per_class = routed_result
    gap = 100 * (metrics["accuracy/many"] - metrics["accuracy/few"])
    assert f"{gap:.1f} points below" in figures.tail_accuracy(per_class).layout.title.text


def test_running_mean_keeps_constants_and_skips_missing_values():
    values = np.full(50, 3.0)
    values[10:14] = np.nan
    np.testing.assert_allclose(figures._smoothed(values, 2.0), 3.0)


def test_names_are_escaped_for_plotly():
    p = ride_like(classes=5, per_class=20, names=["<script>x</script>", "<a href='javascript:1'>b</a>", "c", "d", "e"])
    for figure in figures.build_figures(p, *evaluate(p)).values():
        text = json.dumps(json.loads(figure.to_json()))
        assert "<script" not in text and "<a href" not in text


def test_two_classes_of_one_name_keep_their_bars():
    pairs = pd.DataFrame({"true_name": ["a", "a"], "predicted_name": ["b", "b"], "count": [3, 2], "rate": [0.3, 0.2]})
    bar = figures.confusions(pairs).data[0]
    assert len(set(bar.y)) == 2


def test_learning_curves_by_stage_and_watched_test_accuracy():
    table = history(10, 3).assign(**{"test/accuracy": 0.5})
    figure = figures.learning_curves(table)
    assert "13 epochs in 2 stages" in figure.layout.title.text
    assert {"classification", "diversity", "routing", "test accuracy"} <= {trace.name for trace in figure.data}
    assert "on request" in figure.layout.meta["caption"]
    minimal = figures.learning_curves(pd.DataFrame({"epoch": [1], "loss/total": [2.0]}))
    assert "1 epoch" in minimal.layout.title.text


def test_reliability_says_which_way_it_errs():
    def title(accuracy: float) -> str:
        from lt_pipeline.evaluation.calibration import reliability_bins

        bins = reliability_bins(np.full(100, 0.7), np.arange(100) < 100 * accuracy)
        return figures.reliability(bins, abs(accuracy - 0.7)).layout.title.text

    assert "over-confident: calibration error 20.0 %" in title(0.5)
    assert "under-confident" in title(0.9)
    assert "neither" in title(0.7)
