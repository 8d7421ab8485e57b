"""Scores of clusterings, against scikit-learn and scipy, and where classes or clusters are missing."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from lt_pipeline.errors import LongTailError
from lt_pipeline.evaluation.cluster_report import cluster_metrics, cluster_table, contact_sheet
from lt_pipeline.evaluation.clustering import cluster_sizes, head_medium_tail, match_clusters, score_clusters, spherical_k_means, votes

FACTS = {
    "method": "p2ot",
    "benchmark": "digits_lt",
    "seed": 0,
    "split_hash": "0" * 16,
    "shot_convention": "strict",
    "shot_many": 20,
    "shot_few": 5,
}


def sample(seed: int = 0, size: int = 200, classes: int = 6, clusters: int = 6) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, size)
    found = np.where(generator.random(size) < 0.6, (labels + 2) % clusters, generator.integers(0, clusters, size))
    return found, labels


@given(seed=st.integers(0, 1000), classes=st.integers(2, 5))
@settings(max_examples=15, deadline=None)
def test_the_matching_is_the_best_of_all(seed: int, classes: int) -> None:
    found, labels = sample(seed, 60, classes, classes)
    table = votes(found, labels, classes, classes)
    best = max(sum(table[k, order[k]] for k in range(classes)) for order in itertools.permutations(range(classes)))
    scores = score_clusters(found, labels, classes, classes)
    assert scores.accuracy == pytest.approx(best / 60)
    assert table.sum() == 60 and (table >= 0).all()


@given(seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_names_of_clusters_do_not_matter(seed: int) -> None:
    found, labels = sample(seed)
    renamed = np.random.default_rng(seed).permutation(6)[found]
    one, other = score_clusters(found, labels, 6, 6), score_clusters(renamed, labels, 6, 6)
    for name in ("accuracy", "nmi", "ami", "ari"):
        assert getattr(one, name) == pytest.approx(getattr(other, name))


def test_scikit_learn_says_the_same_of_the_matched_answer() -> None:
    found, labels = sample()
    scores = score_clusters(found, labels, 6, 6)
    answers = scores.class_of_cluster[found]
    assert scores.macro_accuracy == pytest.approx(sk.balanced_accuracy_score(labels, answers))
    assert scores.macro_f1 == pytest.approx(sk.f1_score(labels, answers, average="macro"))
    assert scores.macro_precision == pytest.approx(sk.precision_score(labels, answers, average="macro", zero_division=0))
    assert scores.nmi == pytest.approx(sk.normalized_mutual_info_score(labels, found))
    np.testing.assert_allclose(scores.recall, sk.recall_score(labels, answers, average=None))


def test_absent_classes_and_empty_clusters_are_left_out_and_unmatched_clusters_are_wrong() -> None:
    labels = np.array([0, 0, 1, 1, 3, 3])
    found = np.array([4, 4, 0, 0, 2, 1])
    scores = score_clusters(found, labels, 6, 4)
    assert np.isnan(scores.recall[2])
    assert scores.macro_accuracy == pytest.approx((1 + 1 + 0.5) / 3)
    assert (scores.class_of_cluster >= 0).sum() == 4
    assert scores.accuracy == pytest.approx(5 / 6)
    official = score_clusters(found, labels, 6, 4, unmatched_class=0)
    assert official.precision[0] <= scores.precision[0]


def test_more_classes_than_clusters() -> None:
    found, labels = sample(classes=8, clusters=3)
    scores = score_clusters(found, labels, 3, 8)
    assert sorted(match_clusters(votes(found, labels, 3, 8))) == sorted(set(scores.class_of_cluster))
    assert (scores.recall == 0).sum() == 5


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(LongTailError, match="cluster numbers run from 0 to 5; allowed are 0 to 2"):
        votes([0, 5], [0, 1], 3, 2)
    with pytest.raises(LongTailError, match="at least one"):
        votes([], [], 3, 2)


def test_groups_are_taken_by_the_size_of_the_classes() -> None:
    recall = np.arange(10) / 10
    assert head_medium_tail(recall, np.arange(10)) == pytest.approx((0.8, 0.45, 0.1))
    assert head_medium_tail(recall, np.arange(10)[::-1]) == pytest.approx((0.1, 0.45, 0.8))
    assert head_medium_tail(recall[:3], np.arange(3)) is None


def test_collapse_raises_the_alarm() -> None:
    even = cluster_sizes(np.arange(100) % 10, 10)
    assert (even.empty, even.entropy, even.alarm()) == (0, pytest.approx(1), None)
    one = cluster_sizes(np.zeros(100), 10)
    assert one.entropy == 0 and "9 of 10 clusters are empty" in str(one.alarm())
    tailed = cluster_sizes(np.repeat(np.arange(100), [int(500 * 0.01 ** (k / 99)) for k in range(100)]), 100)
    assert tailed.alarm() is None


def test_k_means_finds_directions_and_refuses_too_many_clusters() -> None:
    generator = np.random.default_rng(0)
    directions = np.eye(3, 8)
    labels = np.arange(90) % 3
    features = (directions[labels] + 0.05 * generator.normal(size=(90, 8))) * generator.uniform(0.5, 20, (90, 1))
    train, (test,) = spherical_k_means(features[:60].astype(np.float32), [features[60:].astype(np.float32)], 3, seed=0)
    assert score_clusters(train, labels[:60], 3, 3).accuracy == 1
    assert score_clusters(test, labels[60:], 3, 3).accuracy == 1
    with pytest.raises(LongTailError, match="cannot make 4 clusters"):
        spherical_k_means(features[:3].astype(np.float32), [], 4, seed=0)


def tables(labelled: bool) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    found, labels = sample()
    ids = [f"image-{number}" for number in range(200)]
    part = np.where(np.arange(200) < 150, "train", "test")
    names = np.char.add("class ", labels.astype(str)) if labelled else np.full(200, "unlabelled")
    split = pd.DataFrame({"sample_id": ids, "split": part, "label": labels if labelled else 0, "class_name": names})
    assignments = pd.DataFrame({"sample_id": ids, "split": part, "image": range(200), "cluster": found, "probability": 0.5})
    return assignments, assignments[["sample_id", "split", "cluster"]], split


def test_the_metrics_of_a_labelled_run() -> None:
    assignments, k_means, split = tables(labelled=True)
    metrics, per_class, per_cluster = cluster_metrics(assignments.sample(frac=1, random_state=0), k_means, split, 7, FACTS)
    test = split["split"] == "test"
    expected = score_clusters(assignments["cluster"][test], split["label"][test], 7, 6)
    assert metrics["macro_accuracy"] == pytest.approx(expected.macro_accuracy) == pytest.approx(metrics["k_means/macro_accuracy"])
    assert {"train/nmi", "k_means/train/ari", "accuracy/many", "accuracy/head", "clusters/entropy"} <= metrics.keys()
    assert metrics["clusters/empty"] == 1 and list(per_cluster["train_images"]).count(0) == 1
    assert len(per_class) == 6 and per_class["train_count"].sum() == 150
    assert cluster_table(metrics).row_count == 4


def test_without_labels_there_are_sizes_and_no_scores() -> None:
    assignments, k_means, split = tables(labelled=False)
    metrics, per_class, per_cluster = cluster_metrics(assignments, k_means, split, 6, FACTS)
    assert not metrics["labelled"] and "macro_accuracy" not in metrics and per_class.empty
    assert "majority" not in per_cluster
    assert cluster_table(metrics).row_count == 0


def test_the_contact_sheet_shows_each_cluster_that_has_images() -> None:
    class Store:
        def read(self, row: int) -> np.ndarray:
            return np.full((20, 30, 3), row, np.uint8)

    assignments, k_means, split = tables(labelled=True)
    _, _, per_cluster = cluster_metrics(assignments, k_means, split, 7, FACTS)
    sheet = contact_sheet(assignments[assignments["split"] == "train"], per_cluster, Store())
    assert len(sheet) == 6 and all(row["picture"].startswith("data:image/jpeg;base64,") for row in sheet)
