import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lt_pipeline.data.longtail import class_counts, descending_class_map, select
from lt_pipeline.data.shots import shot_masks
from lt_pipeline.errors import LongTailError


@pytest.mark.parametrize(
    ("classes", "total", "factor", "images", "largest", "smallest"),
    [
        (10, 50_000, 0.1, 20_431, 5000, 500),
        (10, 50_000, 0.02, 13_996, 5000, 100),
        (10, 50_000, 0.01, 12_406, 5000, 50),
        (10, 50_000, 0.005, 11_203, 5000, 25),
        (100, 50_000, 0.1, 19_573, 500, 50),
        (100, 50_000, 0.05, 15_907, 500, 25),
        (100, 50_000, 0.02, 12_608, 500, 10),
        (100, 50_000, 0.01, 10_847, 500, 5),
        (100, 50_000, 0.005, 9_502, 500, 2),
    ],
)
def test_the_published_totals(classes: int, total: int, factor: float, images: int, largest: int, smallest: int) -> None:
    counts = class_counts(classes, total, "exp", factor)
    assert (counts.sum(), counts[0], counts[-1]) == (images, largest, smallest)
    assert (class_counts(classes, total, "exp", factor, reverse=True) == counts[::-1]).all()


def test_step_and_balanced() -> None:
    assert class_counts(10, 50_000, "step", 0.01).sum() == class_counts(100, 50_000, "step", 0.01).sum() == 25_250
    assert (class_counts(10, 50_000, "balanced", 0.5) == 5000).all()
    with pytest.raises(LongTailError, match="even number"):
        class_counts(5, 100, "step", 0.1)


def test_a_class_may_vanish_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert class_counts(100, 50_000, "exp", 0.001)[-1] == 0
    assert "keep no image" in caplog.text


@given(st.integers(2, 40), st.integers(1, 500), st.floats(0.001, 1.0))
def test_counts_fall_and_stay_in_bounds(classes: int, per_class: int, factor: float) -> None:
    counts = class_counts(classes, classes * per_class, "exp", factor)
    assert (np.diff(counts) <= 0).all()
    assert counts[0] == per_class
    assert counts[-1] <= per_class * factor + 1e-9


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(0, 5), st.sampled_from(["shuffle", "first"]))
def test_a_selection_holds_what_was_asked_for(sizes: list[int], seed: int, rule: str) -> None:
    targets = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    wanted = np.array([size // 2 for size in sizes])
    kept = select(targets, wanted, rule, seed)
    assert len(np.unique(kept)) == len(kept) == wanted.sum()
    assert (targets[kept] == np.repeat(np.arange(len(sizes)), wanted)).all()
    if rule == "first":
        for label, count in enumerate(wanted):
            assert (kept[targets[kept] == label] == np.flatnonzero(targets == label)[:count]).all()


def test_the_published_stream_shuffles_whole_classes_in_order() -> None:
    targets = np.array([0, 1, 0, 1, 1, 0, 0, 1])
    generator = np.random.RandomState(3)
    first, second = np.flatnonzero(targets == 0), np.flatnonzero(targets == 1)
    generator.shuffle(first)
    generator.shuffle(second)
    assert select(targets, np.array([2, 3]), "shuffle", 3).tolist() == [*first[:2], *second[:3]]


def test_more_images_than_there_are_is_refused() -> None:
    with pytest.raises(LongTailError, match="Class 1 has 1 training images, but the profile asks for 2"):
        select(np.array([0, 0, 1]), np.array([1, 2]))


def test_shot_groups_in_both_conventions() -> None:
    counts = class_counts(100, 50_000, "exp", 0.01)
    sizes = {name: [int(mask.sum()) for mask in shot_masks(counts, name).values()] for name in ("strict", "inclusive")}
    assert sizes == {"strict": [35, 35, 30], "inclusive": [35, 34, 31]}
    edge = shot_masks([101, 100, 21, 20, 19], "strict")
    assert edge["medium"].tolist() == [False, True, True, True, False]
    edge = shot_masks([101, 100, 21, 20, 19], "inclusive")
    assert edge["medium"].tolist() == [False, False, True, False, False]


@given(st.lists(st.integers(0, 500), min_size=1), st.sampled_from(["strict", "inclusive"]), st.integers(1, 200), st.integers(1, 200))
def test_shot_groups_partition_the_classes(counts: list[int], convention: str, one: int, other: int) -> None:
    masks = shot_masks(counts, convention, max(one, other), min(one, other))
    assert (sum(mask.astype(int) for mask in masks.values()) == 1).all()


def test_classes_are_renumbered_by_count_and_ties_keep_their_order() -> None:
    assert descending_class_map(np.array([5, 9, 5, 20])).tolist() == [2, 1, 3, 0]
