import dataclasses
import io
import json

import numpy as np
import pytest
from rich.console import Console

from lt_pipeline.errors import LongTailError
from lt_pipeline.evaluation.metrics import evaluate, evaluate_many
from lt_pipeline.evaluation.predictions import Predictions
from lt_pipeline.evaluation.terminal import terminal_table

from .synthetic import ride_like


def plain(**facts) -> Predictions:
    logits = np.array([[4, 0, 0], [4, 0, 0], [0, 4, 0], [4, 0, 0]], np.float32)
    return Predictions(
        np.array(list("abcd")), np.array([0, 0, 1, 2]), logits, facts={"train_counts": [200, 50, 5], "seed": 7, "split_hash": "abc"} | facts
    )


def test_metrics_by_hand():
    metrics, per_class = evaluate(plain())
    assert metrics["accuracy/all"] == 0.75
    assert (metrics["accuracy/many"], metrics["accuracy/medium"], metrics["accuracy/few"]) == (1.0, 1.0, 0.0)
    assert metrics["macro_accuracy"] == pytest.approx(2 / 3) and "top5" not in metrics  # 3 classes
    p = np.exp(4) / (np.exp(4) + 2)
    assert metrics["nll"] == pytest.approx(-(3 * np.log(p) + np.log((1 - p) / 2)) / 4)
    assert metrics["ece"] == pytest.approx(abs(0.75 - p))
    assert per_class["accuracy"].tolist() == [1, 1, 0]


def test_metrics_are_flat_json_and_say_where_they_come_from(routed_result):
    metrics, _ = routed_result
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert not any(isinstance(value, dict | list) for value in metrics.values())
    assert (metrics["seed"], metrics["split_hash"], metrics["protocol"]) == (0, "3f9a0c17be55d201", "last epoch")
    assert {"expert_2/accuracy/few", "ensemble/ece", "router/percent_3", "macs/mean", "accuracy/few/ci_high"} <= set(metrics)
    assert metrics["accuracy/all/ci_low"] < metrics["accuracy/all"] < metrics["accuracy/all/ci_high"]


def test_every_method_has_the_same_keys_for_its_answer(routed_result):
    extra = ("expert_", "ensemble/", "router", "macs/")
    wanted = (
        {key for key in routed_result[0] if not key.startswith(extra)} - set(ride_like(20, 2).facts) - {"top5"}
    )  # plain() has 3 classes
    assert wanted <= set(evaluate(plain())[0])


def test_ensemble_is_the_mean_of_all_experts(routed, routed_result):
    alone, _ = evaluate(Predictions(routed.sample_ids, routed.labels, routed.expert_logits.mean(0), facts=routed.facts))
    for key in ("accuracy/all", "accuracy/few", "nll", "brier", "ece", "ece/many", "top5", "macro_f1"):
        assert routed_result[0][f"ensemble/{key}"] == alone[key]


def test_empty_group_is_absent():
    metrics, _ = evaluate(plain(train_counts=[500, 400, 300]))
    assert "accuracy/many" in metrics
    assert not any("few" in key.split("/") or "medium" in key.split("/") for key in metrics)


def test_class_without_test_image_does_not_count():
    p = plain()
    metrics, per_class = evaluate(Predictions(p.sample_ids[:3], p.labels[:3], p.logits[:3], facts=p.facts))
    assert metrics["macro_accuracy"] == 1.0 and "accuracy/few" not in metrics
    assert np.isnan(per_class["accuracy"][2])


def test_convention_and_thresholds_come_from_the_facts():
    facts = {"train_counts": [100, 50, 20]}
    assert "classes/many" not in evaluate(plain(**facts))[0]
    assert evaluate(plain(**facts, shot_convention="inclusive"))[0]["classes/few"] == 1
    assert evaluate(plain(**facts, shot_many=40, shot_few=30))[0]["classes/many"] == 2


def test_images_without_label_are_left_out_and_counted():
    p = plain()
    metrics, _ = evaluate(dataclasses.replace(p, labels=np.array([0, 0, -1, -1])))
    assert (metrics["unlabelled_images"], metrics["test_images"], metrics["accuracy/all"]) == (2, 2, 1.0)


def test_missing_counts_are_named():
    with pytest.raises(LongTailError, match="train_counts"):
        evaluate(dataclasses.replace(plain(), facts={}))


def test_same_predictions_same_metrics(routed, routed_result):
    assert evaluate(routed)[0] == routed_result[0]


def test_selections_stand_side_by_side():
    other = dataclasses.replace(plain(), logits=np.eye(3, dtype=np.float32)[[0, 0, 1, 2]])
    metrics, per_class = evaluate_many({"last epoch": plain(), "best on test": other})
    assert metrics["selections"] == ["last epoch", "best on test"]
    assert (metrics["accuracy/all"], metrics["best on test/accuracy/all"]) == (0.75, 1.0)
    assert per_class["accuracy"].tolist() == [1, 1, 0]
    with pytest.raises(LongTailError, match="split other"):
        evaluate_many({"last epoch": plain(), "best on test": plain(split_hash="other")})


def rendered(metrics) -> str:
    console = Console(width=110, record=True, file=io.StringIO())
    console.print(terminal_table(metrics))
    return console.export_text()


def test_terminal_table_shows_answer_experts_and_calibration(routed_result):
    text = rendered(routed_result[0])
    for word in ("all", "many", "medium", "few", "NLL", "ECE", "last epoch", "mean of 3 experts", "expert 3", "GMACs", "seed 0", "95 %"):
        assert word in text
    assert f"{100 * routed_result[0]['accuracy/all']:.1f}" in text


def test_terminal_table_leaves_out_empty_groups_and_takes_names_as_text():
    text = rendered(evaluate(plain(train_counts=[500, 400, 300], method="[bold]x[/nope]"))[0])
    assert "few" not in text and "[bold]x[/nope]" in text


def test_groups_by_rank_stand_beside_the_shot_groups() -> None:
    logits = np.eye(4, dtype=np.float32)[[0, 1, 2, 2]]
    facts = {"train_counts": [5, 90, 30, 1], "rank_groups": [1, 3]}
    metrics, _ = evaluate(Predictions(np.array(list("abcd")), np.arange(4), logits, np.stack([logits, logits]), facts=facts), draws=0)
    assert [metrics[f"ranked/{name}"] for name in ("head", "mid", "tail")] == [1.0, 1.0, 0.0]
    assert metrics["expert_1/ranked/tail"] == 0.0
    with pytest.raises(LongTailError, match="only 4 classes"):
        evaluate(Predictions(np.array(list("abcd")), np.arange(4), logits, facts={**facts, "rank_groups": [1, 4]}), draws=0)
