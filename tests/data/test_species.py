"""Subsets with many classes, images without labels, labels from elsewhere."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lt_pipeline.data.config import BenchmarkConfig, SourceConfig
from lt_pipeline.data.labels import has_labels, relabelled
from lt_pipeline.data.sources import ingest
from lt_pipeline.data.species import LEVELS, cut_per_class, keep_species, thinned_classes
from lt_pipeline.data.split import make_split
from lt_pipeline.errors import LongTailError
from lt_pipeline.parameters import imbalance_name


def test_each_level_is_thinned_out_of_the_one_before() -> None:
    counts = np.random.default_rng(0).permutation(8142) + 1
    order = np.argsort(-counts, kind="stable")
    expected = order[::4][:2000]
    assert thinned_classes(counts, 2000).tolist() == expected.tolist()
    assert thinned_classes(counts, 1000).tolist() == expected[::2][:1000].tolist()
    assert thinned_classes(counts, 8142).tolist() == order.tolist()
    assert len(thinned_classes(counts, 100)) == 100
    with pytest.raises(LongTailError, match="allowed are 8142, 2000, 1000, 500, 200, 100"):
        thinned_classes(counts, 300)
    with pytest.raises(LongTailError, match="source has 10"):
        thinned_classes(counts[:10], 100)


def test_species_are_renumbered_by_size_and_rows_keep_their_order() -> None:
    counts = np.ones(LEVELS[0], np.int64)
    counts[[7, 3]] = 5, 4
    labels = np.repeat(np.arange(LEVELS[0]), counts)
    manifest = pd.DataFrame({"split": "train", "label": labels, "row": np.arange(len(labels))})
    kept = keep_species(manifest, 100)
    assert kept["label"].nunique() == 100 and (kept.loc[kept["label"] == 0, "row"] == np.flatnonzero(labels == 7)).all()
    assert kept["row"].is_monotonic_increasing


def test_a_fixed_number_is_cut_off_each_class() -> None:
    rows = pd.DataFrame({"label": np.repeat([0, 1], [30, 25]), "class_name": np.repeat(["a", "b"], [30, 25])})
    stays, cut = cut_per_class(rows, 20, seed=0)
    assert cut["label"].value_counts().tolist() == [20, 20] and len(stays) == 15
    with pytest.raises(LongTailError, match="no training image of 'b', which has 25"):
        cut_per_class(rows, 25, seed=0)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    for number in range(12):
        path = root / ("train" if number < 9 else "test") / f"trip{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 20 * number, np.uint8)).save(path)
    return root


def test_a_folder_without_class_folders(pictures: Path) -> None:
    manifest, images = ingest(SourceConfig(kind="folder", root=str(pictures), label_column=None))
    assert len(manifest) == len(images) == 12 and not has_labels(manifest)
    assert (manifest["split"] == "test").sum() == 3
    flat, _ = ingest(SourceConfig(kind="folder", root=str(pictures / "train"), label_column=None, test_fraction=0.3))
    assert (flat["split"] == "test").sum() == 3 and len(flat) == 9
    assert has_labels(ingest(SourceConfig(kind="folder", root=str(pictures)))[0])


def test_tables_without_labels(pictures: Path) -> None:
    files = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.png"))
    pd.DataFrame({"image": files}).to_csv(pictures / "list.csv", index=False)
    manifest, _ = ingest(SourceConfig(kind="table", root=str(pictures), files=("list.csv",), label_column=None))
    assert len(manifest) == 12 and not has_labels(manifest)
    pd.DataFrame({"image": [(pictures / file).read_bytes() for file in files]}).to_parquet(pictures / "images.parquet")
    manifest, images = ingest(SourceConfig(kind="parquet", root=str(pictures), files=("images.parquet",), label_column=None))
    assert len(manifest) == len(images) == 12 and not has_labels(manifest)


def assigned() -> tuple[pd.DataFrame, pd.DataFrame]:
    manifest = pd.DataFrame(
        {
            "sample_id": list("abcdef"),
            "split": ["train"] * 4 + ["test"] * 2,
            "label": [0, 0, 1, 1, 0, 1],
            "class_name": ["x", "x", "y", "y", "x", "y"],
            "digest": "0" * 16,
        }
    )
    return manifest, pd.DataFrame({"sample_id": list("abcef"), "cluster": [7, 3, 7, 3, 9]})


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_table_gives_other_labels(tmp_path: Path, ending: str) -> None:
    manifest, table = assigned()
    path = tmp_path / f"assignments.{ending}"
    table.to_parquet(path) if ending == "parquet" else table.to_csv(path, index=False)
    benchmark = BenchmarkConfig(name="digits_lt", labels=str(path))
    split = make_split(manifest, benchmark, seed=0)  # d has no label, and no training image has that of f
    assert split["sample_id"].tolist() == ["a", "b", "c", "e"]
    assert split["label"].tolist() == [1, 0, 1, 0] and split["class_name"].tolist() == ["7", "3", "7", "3"]
    assert split["image"].tolist() == [0, 1, 2, 4]
    assert imbalance_name(benchmark, 0) != imbalance_name(BenchmarkConfig(name="digits_lt"), 0)


def test_a_table_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    manifest, table = assigned()
    path = tmp_path / "table.csv"
    table.to_csv(path, index=False)
    with pytest.raises(LongTailError, match=r"no column 'clusters'.*Did you mean 'cluster'"):
        relabelled(manifest, path, "clusters")
    with pytest.raises(LongTailError, match="cannot be read"):
        relabelled(manifest, tmp_path / "absent.csv", "cluster")
    with pytest.raises(LongTailError, match="knows none of the training images"):
        relabelled(manifest.assign(sample_id=list("uvwxyz")), path, "cluster")
    pd.concat([table, table]).to_csv(path, index=False)
    with pytest.raises(LongTailError, match="has the image 'a' twice"):
        relabelled(manifest, path, "cluster")
