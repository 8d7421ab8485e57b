import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lt_pipeline.data.config import BenchmarkConfig
from lt_pipeline.data.images import PackedImages
from lt_pipeline.data.manifest import Split
from lt_pipeline.data.split import class_statistics, image_set, make_split, split_hash, stratified_cut
from lt_pipeline.errors import LongTailError


def make_manifest(train: list[int], test: list[int]) -> pd.DataFrame:
    rows = [
        (part, label) for part, counts in (("train", train), ("test", test)) for label, count in enumerate(counts) for _ in range(count)
    ]
    frame = pd.DataFrame(rows, columns=["split", "label"])
    frame["sample_id"] = [f"s{row}" for row in range(len(frame))]
    frame["class_name"] = "class " + frame["label"].astype(str)
    frame["digest"] = [f"{row:016x}" for row in range(len(frame))]
    return frame.astype({"label": "int64"})


def test_an_exponential_split_keeps_the_class_order_and_all_of_test() -> None:
    split = Split.validate(make_split(make_manifest([20] * 4, [3] * 4), BenchmarkConfig(profile="exp", imbalance_factor=10), 0))
    statistics = class_statistics(split)
    assert statistics.counts.tolist() == [20, 9, 4, 2]
    assert statistics.names == ("class 0", "class 1", "class 2", "class 3")
    assert (split["split"] == "test").sum() == 12


def test_natural_keeps_everything_and_other_seeds_other_images() -> None:
    manifest = make_manifest([20] * 4, [3] * 4)
    assert len(make_split(manifest, BenchmarkConfig(profile="natural"), 0)) == len(manifest)
    hashes = {
        split_hash(make_split(manifest, BenchmarkConfig(profile="exp", imbalance_factor=10, **changes), 0))
        for changes in ({}, {"subsample_seed": 1}, {"selection": "first"}, {"max_per_class": 10})
    }
    assert len(hashes) == 4


def test_the_hash_sees_order_labels_and_contents() -> None:
    split = make_split(make_manifest([5, 5], [2, 2]), BenchmarkConfig(), 0)
    swapped = split.iloc[[1, 0, *range(2, len(split))]]
    relabelled = split.assign(label=split["label"].where(split.index != 3, 1))
    altered = split.assign(digest=split["digest"].where(split.index != 3, "f" * 16))
    assert len({split_hash(one) for one in (split, swapped, relabelled, altered)}) == 4
    assert split_hash(split) == split_hash(split.copy())


def test_validation_is_cut_from_train_and_depends_on_the_seed_alone() -> None:
    manifest, benchmark = make_manifest([40, 10, 2, 1], [2] * 4), BenchmarkConfig(validation_fraction=0.2)
    split = make_split(manifest, benchmark, 0)
    assert np.bincount(split.loc[split["split"] == "val", "label"], minlength=4).tolist() == [8, 2, 1, 0]
    assert split["sample_id"].is_unique
    assert split_hash(split) == split_hash(make_split(manifest, benchmark, 0)) != split_hash(make_split(manifest, benchmark, 1))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.floats(0.01, 0.99), st.integers(0, 3))
def test_a_cut_leaves_every_class_something(counts: list[int], fraction: float, seed: int) -> None:
    rows = pd.DataFrame({"label": np.repeat(np.arange(len(counts)), counts)})
    stays, cut = stratified_cut(rows, fraction, seed)
    assert sorted([*stays.index, *cut.index]) == list(rows.index)
    assert set(stays["label"]) == set(rows["label"])
    assert set(cut["label"]) == {label for label, count in enumerate(counts) if count > 1}


@pytest.mark.parametrize(
    ("train", "test", "sentence"),
    [([], [2], "no train image"), ([2], [], "no test image"), ([2, 0], [1, 1], "no training image, the first is 'class 1'")],
)
def test_what_cannot_be_a_split_is_said(train: list[int], test: list[int], sentence: str) -> None:
    with pytest.raises(LongTailError, match=sentence):
        make_split(make_manifest(train, test), BenchmarkConfig(), 0)


def test_a_part_points_at_its_images() -> None:
    manifest = make_manifest([3, 2], [1, 1])
    images = PackedImages(np.arange(7, dtype=np.uint8)[:, None, None, None].repeat(3, 3))
    part = image_set(images, make_split(manifest, BenchmarkConfig(), 0), "test")
    assert [int(images.read(row)[0, 0, 0]) for row in part.rows] == [5, 6]
    assert part.labels.tolist() == [0, 1]
    assert part.sample_ids == ["s5", "s6"]


def test_labels_can_be_renumbered_by_training_images_in_every_part() -> None:
    manifest = make_manifest([2, 7, 4], [1, 2, 3])
    split = make_split(manifest, BenchmarkConfig(profile="natural", class_order="descending"), 0)
    statistics = class_statistics(split)
    assert statistics.counts.tolist() == [7, 4, 2]
    assert statistics.names == ("class 1", "class 2", "class 0")
    assert np.bincount(split.loc[split["split"] == "test", "label"]).tolist() == [2, 3, 1]
