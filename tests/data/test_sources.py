import gzip
import hashlib
import io
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torchvision.datasets
from pandera.errors import SchemaError, SchemaErrors
from PIL import Image

from lt_pipeline.data.config import BenchmarkConfig, SourceConfig
from lt_pipeline.data.images import EncodedImages, PackedImages
from lt_pipeline.data.manifest import Manifest
from lt_pipeline.data.sources import ingest
from lt_pipeline.data.sources.folder import unlabelled_images
from lt_pipeline.data.split import make_split, split_hash
from lt_pipeline.errors import LongTailError


def picture(side: int = 8, value: int = 0, height: int | None = None) -> Image.Image:
    return Image.fromarray(np.full((height or side, side, 3), value, np.uint8))


def png(value: int = 0, side: int = 8) -> bytes:
    buffer = io.BytesIO()
    picture(side, value).save(buffer, "PNG")
    return buffer.getvalue()


def tree(root: Path, classes: dict[str, int], side: int = 8) -> Path:
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            picture(side, number).save(root / name / f"{number}.png")
    return root


def read(**source: object) -> tuple[pd.DataFrame, PackedImages | EncodedImages]:
    manifest, images = ingest(SourceConfig.model_validate(source))
    assert len(images) == len(manifest)
    return Manifest.validate(manifest), images


def test_digits_have_a_balanced_train_part() -> None:
    manifest, images = read(kind="digits", image_size=16, test_fraction=0.3)
    assert images.shape == (16, 16, 3)
    assert manifest[manifest["split"] == "train"]["label"].value_counts().nunique() == 1
    assert manifest["digest"].nunique() > 1700


# ---- folders


def test_a_plain_class_tree_gets_a_test_part(tmp_path: Path) -> None:
    manifest, images = read(kind="folder", root=str(tree(tmp_path / "x", {"owl": 10, "ant": 5})), test_fraction=0.2)
    assert isinstance(images, PackedImages)
    assert manifest.groupby("class_name")["label"].first().to_dict() == {"ant": 0, "owl": 1}
    assert (manifest[manifest["split"] == "test"]["class_name"].value_counts().to_dict()) == {"owl": 2, "ant": 1}


def test_a_full_tree_is_taken_as_it_is(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        tree(tmp_path / part, {"a": 2, "b": 2})
    tree(tmp_path / "train" / ".hidden", {"c": 1})
    manifest, _ = read(kind="folder", root=str(tmp_path))
    assert manifest["split"].value_counts().to_dict() == {"train": 4, "val": 4, "test": 4}
    tree(tmp_path / "test", {"new": 1})
    with pytest.raises(LongTailError, match="class 'new' has images outside train"):
        read(kind="folder", root=str(tmp_path))


def test_sizes_decide_how_images_are_kept(tmp_path: Path) -> None:
    root = tree(tmp_path / "x", {"a": 3, "b": 3})
    picture(9, height=20).save(root / "a" / "odd.png")
    manifest, images = read(kind="folder", root=str(root))
    assert isinstance(images, EncodedImages)
    odd = int(np.flatnonzero(manifest["file"] == "a/odd.png")[0])
    assert images.read(odd).shape == (20, 9, 3)
    assert read(kind="folder", root=str(root), image_size=6)[1].shape == (6, 6, 3)


def test_broken_images_stop_or_are_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tree(tmp_path / "x", {"a": 3, "b": 3})
    (root / "a" / "bad.png").write_bytes(b"no")
    (root / "b" / "empty.jpg").touch()
    with pytest.raises(LongTailError, match=r"a/bad\.png cannot be decoded.* 1 more images are broken"):
        read(kind="folder", root=str(root), split_seed=1)
    manifest, _ = read(kind="folder", root=str(root), on_bad_image="skip")
    assert len(manifest) == 6
    assert "2 of 8 images are broken" in caplog.text


@pytest.mark.parametrize(
    ("classes", "sentence"), [({}, "holds no image in class folders"), ({"a": 3, "b": 1}, "single image, the first is 'b'")]
)
def test_trees_that_cannot_be_used(tmp_path: Path, classes: dict[str, int], sentence: str) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(LongTailError, match=sentence):
        read(kind="folder", root=str(tree(tmp_path / "x", classes)))


def test_a_missing_root_is_said(tmp_path: Path) -> None:
    with pytest.raises(LongTailError, match=r"source\.root is not set"):
        read(kind="folder")
    with pytest.raises(LongTailError, match="is not a folder"):
        read(kind="folder", root=str(tmp_path / "nothing"))


def test_a_link_out_of_the_root_is_refused(tmp_path: Path) -> None:
    root = tree(tmp_path / "x", {"a": 2, "b": 2})
    picture().save(tmp_path / "outside.png")
    (root / "a" / "link.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(LongTailError, match="leaves the image root"):
        read(kind="folder", root=str(root))


def test_images_without_labels(tmp_path: Path) -> None:
    root = tree(tmp_path / "x", {"b": 1, "a": 2})
    images = unlabelled_images(root, SourceConfig(kind="folder", image_size=5))
    assert images.sample_ids == ["a/0.png", "a/1.png", "b/0.png"]
    assert images.labels.tolist() == [-1] * 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(LongTailError, match="holds no image"):
        unlabelled_images(tmp_path / "empty", SourceConfig())


# ---- list files


def test_list_files(tmp_path: Path) -> None:
    tree(tmp_path, {"n01": 3, "n02": 2})
    (tmp_path / "train.txt").write_text("n01/0.png 0\nn01/1.png 0\nn02/0.png 1\n\n")
    (tmp_path / "test.txt").write_text("n01/2.png 0\nn02/1.png 1\n")
    source = {"kind": "list_files", "root": str(tmp_path), "lists": {"train": "train.txt", "test": "test.txt"}}
    manifest, _ = read(**source)
    assert manifest[["split", "label"]].to_numpy().tolist() == [["train", 0], ["train", 0], ["train", 1], ["test", 0], ["test", 1]]
    for text, sentence in (
        ("n01/0.png 0\nn01/1.png\n", r"train\.txt line 2 is 'n01/1\.png'"),
        ("n01/0.png -1\n", "line 1"),
        ("../x.png 0\n", "leaves the image root"),
        ("n01/0.png 1\n", "no image of label 0"),
        ("n01/0.png 0\nn01/0.png 0\n", "ids occur twice"),
        ("n01/9.png 0\n", "Cannot read the image"),
    ):
        (tmp_path / "train.txt").write_text(text)
        with pytest.raises(LongTailError, match=sentence):
            read(**source)
    with pytest.raises(LongTailError, match=r"list file .*gone\.txt does not exist"):
        read(**source | {"lists": {"train": "gone.txt"}})


def test_a_changed_standard_list_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree(tmp_path, {"a": 4})
    (tmp_path / "Places_LT_train.txt").write_text("a/0.png 0\na/1.png 0\na/2.png 0\n")
    read(kind="list_files", root=str(tmp_path), lists={"train": "Places_LT_train.txt"})
    assert "differs from the list that published results use" in caplog.text


# ---- tables and Parquet


def test_a_csv_with_metadata(tmp_path: Path) -> None:
    tree(tmp_path, {"img": 6})
    table = pd.DataFrame({"image": [f"img/{n}.png" for n in range(6)], "diagnosis": list("aabbab"), "age": [30, 40, None, 50, 60, 70]})
    table.to_csv(tmp_path / "t.csv", index=False)
    source = {"kind": "table", "root": str(tmp_path), "files": ["t.csv"], "label_column": "diagnosis"}
    manifest, _ = read(**source)
    assert manifest["meta.age"].isna().sum() == 1
    assert manifest["label"].tolist() == [0, 0, 1, 1, 0, 1]
    with pytest.raises(LongTailError, match=r"no column 'diagnoses'.* Did you mean 'diagnosis'"):
        read(**source | {"label_column": "diagnoses"})
    table.assign(split=["train", "training", "test", "valid", "train", "train"]).to_parquet(tmp_path / "t.parquet")
    assert read(**source | {"files": ["t.parquet"]})[0]["split"].tolist() == ["train", "train", "test", "val", "train", "train"]
    for changes, sentence in (
        ({"diagnosis": ["a", None, "b", "b", "a", "a"]}, "row 2 has no label"),
        ({"diagnosis": [0.5] * 6}, "holds fractions"),
        ({"diagnosis": [-1, 0, 1, 1, 0, 0]}, "is negative"),
        ({"image": ["img/0.png"] * 6}, "ids occur twice"),
        ({"image": ["../x.png"] * 6}, "leaves the image root"),
        ({"split": ["somewhere"] * 6}, "holds 'somewhere'; allowed are train, val and test"),
    ):
        table.assign(**changes).to_csv(tmp_path / "t.csv", index=False)
        with pytest.raises(LongTailError, match=sentence):
            read(**source)


def test_parquet_with_bytes_or_structs(tmp_path: Path) -> None:
    cells = [{"bytes": png(value), "path": "x.png"} for value in range(8)]
    pd.DataFrame({"image": cells, "label": list("aabbccdd"), "site": range(8)}).to_parquet(tmp_path / "train-0.parquet")
    pd.DataFrame({"image": cells[:4], "label": list("abcd"), "site": range(4)}).to_parquet(tmp_path / "test-0.parquet")
    manifest, images = read(kind="parquet", root=str(tmp_path))
    assert manifest["split"].value_counts().to_dict() == {"train": 8, "test": 4}
    assert "meta.site" in manifest
    row = int(np.flatnonzero((manifest["file"] == "train-0.parquet") & (manifest["row"] == 5))[0])
    assert (images.read(row) == 5).all()
    with pytest.raises(LongTailError, match=r"has no column 'imag'.* Did you mean 'image'"):
        read(kind="parquet", root=str(tmp_path), image_column="imag")
    (tmp_path / "test-0.parquet").write_bytes(b"PAR1")
    with pytest.raises(LongTailError, match="not a readable Parquet file"):
        read(kind="parquet", root=str(tmp_path))


def test_hugging_face_cifar(tmp_path: Path) -> None:
    rows = {"img": [{"bytes": png(v, 32), "path": None} for v in range(4)], "fine_label": [1, 0, 1, 0], "coarse_label": [0] * 4}
    pd.DataFrame(rows).to_parquet(tmp_path / "train-00000.parquet")
    pd.DataFrame(rows).to_parquet(tmp_path / "test-00000.parquet")
    manifest, images = read(kind="cifar100", root=str(tmp_path))
    assert manifest["label"].tolist() == [1, 0, 1, 0] * 2
    assert images.shape == (32, 32, 3)


def test_a_real_medical_set(shared_data: Path, tmp_path: Path) -> None:
    frame = pd.read_parquet(shared_data / "ham10000_96x72.parquet").groupby(["split", "label"]).head(4)
    frame.to_parquet(tmp_path / "ham.parquet")
    manifest, images = read(kind="parquet", root=str(tmp_path), class_name_column="class_name", id_column="image_id", image_size=64)
    assert images.shape == (64, 64, 3)
    assert manifest["label"].nunique() == 7
    assert {"meta.age", "meta.sex", "meta.localization"} <= set(manifest)


def test_real_plants(shared_data: Path, tmp_path: Path) -> None:
    frame = pd.read_parquet(shared_data / "inat_plants_date_96.parquet").groupby(["split", "label"]).head(2)
    frame.to_parquet(tmp_path / "plants.parquet", index=False)
    manifest, images = read(kind="parquet", root=str(tmp_path), class_name_column="species", id_column="observation_id", image_size=64)
    assert images.shape == (64, 64, 3)
    assert manifest["class_name"].iloc[0] == frame["species"].iloc[0]
    assert manifest["meta.observed_on"].tolist() == frame["observed_on"].tolist()
    assert len(make_split(manifest, BenchmarkConfig(), 0)) == 204


# ---- the schema


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("split", "training"),
        ("label", -1),
        ("sample_id", "digits-00000"),
        ("digest", "xyz"),
        ("row", -2),
        ("class_name", None),
        ("extra", 1),
    ],
)
def test_the_schema_refuses_what_is_no_manifest(column: str, value: object) -> None:
    manifest, _ = read(kind="digits")
    Manifest.validate(manifest.assign(**{"meta.anything": None}))
    with pytest.raises((SchemaError, SchemaErrors)):
        Manifest.validate(manifest.assign(**{column: value}))
    with pytest.raises((SchemaError, SchemaErrors)):
        Manifest.validate(manifest.drop(columns="digest"))


# ---- Fashion-MNIST


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.astype(np.uint8).tobytes()


def test_idx_files(tmp_path: Path) -> None:
    images, labels = np.random.default_rng(0).integers(0, 256, (12, 28, 28)), np.arange(12) % 10
    for prefix in ("train", "t10k"):
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels))
    manifest, store = read(kind="fashion_mnist", root=str(tmp_path))
    assert manifest["class_name"][0] == "T-shirt/top"
    assert (store.read(3)[..., 1] == images[3]).all()
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(labels)[:-1])
    with pytest.raises(LongTailError, match="truncated"):
        read(kind="fashion_mnist", root=str(tmp_path))
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(LongTailError, match="lacks t10k-labels-idx1-ubyte"):
        read(kind="fashion_mnist", root=str(tmp_path))


# ---- CIFAR


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny folder in the official layout whose checksums torchvision is made to expect."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)
    batch = {"data": pixels, "fine_labels": [1, 0, 1, 0]}
    for name, content in (("train", batch), ("test", batch), ("meta", {"fine_label_names": ["apple", "bear"]})):
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    expect(monkeypatch, folder)
    return tmp_path


def expect(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    md5 = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": md5["meta"]})


def test_official_cifar_files(official: Path) -> None:
    manifest, images = read(kind="cifar100", root=str(official))
    assert manifest["class_name"].tolist() == ["bear", "apple", "bear", "apple"] * 2
    raw = pickle.loads((official / "cifar-100-python" / "train").read_bytes())["data"]
    assert (images.read(1) == raw[1].reshape(3, 32, 32).transpose(1, 2, 0)).all()


def test_a_changed_cifar_file_is_not_opened(official: Path) -> None:
    path = official / "cifar-100-python" / "train"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(LongTailError, match="MD5 differs"):
        read(kind="cifar100", root=str(official))


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("never",)


def test_a_pickle_with_anything_but_arrays_is_refused(
    official: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder = official / "cifar-100-python"
    (folder / "train").write_bytes(pickle.dumps({"data": Evil()}))
    expect(monkeypatch, folder)
    with pytest.raises(LongTailError, match="has no place in a CIFAR file"):
        read(kind="cifar100", root=str(official))
    assert "never" not in capsys.readouterr().out


def test_a_root_without_cifar_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(LongTailError, match="neither cifar-10-batches-py/"):
        read(kind="cifar10", root=str(tmp_path))


@pytest.fixture(scope="module")
def cifar100(shared_data: Path) -> tuple[pd.DataFrame, PackedImages | EncodedImages]:
    return ingest(SourceConfig(kind="cifar100", root=str(shared_data)))


def chosen(manifest: pd.DataFrame, **benchmark: object) -> pd.DataFrame:
    split = make_split(manifest, BenchmarkConfig.model_validate({"profile": "exp", "imbalance_factor": 100} | benchmark), 0)
    return manifest.iloc[split[split["split"] == "train"]["image"]]


def test_the_published_subset_row_for_row(cifar100: tuple[pd.DataFrame, PackedImages], shared_data: Path) -> None:
    manifest = Manifest.validate(cifar100[0])
    table = pd.read_parquet(shared_data / "cifar100_train_lt50.parquet", columns=["label", "lt_rank", "index"])
    counts = {label: int(500 * 0.01 ** (label / 99)) for label in range(100)}
    expected = table[table["lt_rank"] < table["label"].map(counts)].sort_values(["label", "lt_rank"])
    ours = chosen(manifest)
    assert len(ours) == 10_847
    assert ours["meta.index"].tolist() == expected["index"].tolist()
    assert len(chosen(manifest, imbalance_factor=50)) == 12_608
    assert len(chosen(manifest, imbalance_factor=200)) == 9_502


def test_the_first_images_rule(cifar100: tuple[pd.DataFrame, PackedImages], shared_data: Path) -> None:
    ours = chosen(cifar100[0], selection="first")
    assert len(ours) == 10_847
    names = ("cifar100_train_lt50", "cifar100_train_first100_extra")
    both = pd.concat([pd.read_parquet(shared_data / f"{name}.parquet", columns=["label", "index"]) for name in names]).sort_values("index")
    counts = both["label"].map({label: int(500 * 0.01 ** (label / 99)) for label in range(100)})
    assert ours["meta.index"].tolist() == both[both.groupby("label").cumcount() < counts].sort_values(["label", "index"])["index"].tolist()
    assert (ours.groupby("label")["meta.index"].diff().dropna() > 0).all()
    assert set(ours["meta.index"]) != set(chosen(cifar100[0])["meta.index"])


def test_pixels_belong_to_their_rows(cifar100: tuple[pd.DataFrame, PackedImages], shared_data: Path) -> None:
    manifest, images = cifar100
    assert images.shape == (32, 32, 3)
    cells = pd.read_parquet(shared_data / "cifar100_train_lt50.parquet", columns=["image", "label"])
    here = manifest[manifest["file"] == "cifar100_train_lt50.parquet"]
    for row, place, label in list(zip(here.index, here["row"], here["label"], strict=True))[::2500]:
        assert label == cells["label"][place]
        assert (images.read(row) == np.asarray(Image.open(io.BytesIO(cells["image"][place])).convert("RGB"))).all()


def test_a_real_validation_cut_is_stratified_and_fixed_by_the_seed(cifar100: tuple[pd.DataFrame, PackedImages]) -> None:
    benchmark = BenchmarkConfig(profile="exp", imbalance_factor=100, validation_fraction=0.1)
    one, again, other = (make_split(cifar100[0], benchmark, seed) for seed in (0, 0, 1))
    held = one[one["split"] == "val"]["label"].value_counts().sort_index()
    assert held.index.tolist() == list(range(100))
    assert (held[0], held[99]) == (50, 1)
    assert split_hash(one) == split_hash(again) != split_hash(other)
    assert (one["split"] == "test").sum() == 10_000


def test_cifar10_of_imbalance_100_and_no_other(shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "cifar10_train_lt100.parquet").symlink_to(shared_data / "cifar10_train_lt100.parquet")
    with pytest.raises(LongTailError, match="leaves the image root"):
        read(kind="cifar10", root=str(tmp_path))
    columns = ["split", "index", "label", "class_name", "lt_rank", "image"]
    train = pd.read_parquet(shared_data / "cifar10_train_lt100.parquet", columns=columns)
    cell = png(0, 32)  # the choice of rows is what counts here; decoding them all would take seconds
    (tmp_path / "cifar10_train_lt100.parquet").unlink()
    train.assign(image=[cell] * len(train)).to_parquet(tmp_path / "cifar10_train_lt100.parquet")
    test = pd.read_parquet(shared_data / "cifar10_test.parquet", columns=columns).groupby("label").head(5)
    test.to_parquet(tmp_path / "cifar10_test.parquet")
    manifest, images = read(kind="cifar10", root=str(tmp_path))
    assert images.shape == (32, 32, 3)
    ours = chosen(manifest)
    assert ours["class_name"].drop_duplicates().tolist() == [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]
    assert ours["meta.index"].tolist() == train.sort_values(["label", "lt_rank"])["index"].tolist()
    for changes in ({"imbalance_factor": 50}, {"selection": "first"}, {"profile": "step"}):
        with pytest.raises(LongTailError, match="lacks training images that this split needs"):
            chosen(manifest, **changes)


@pytest.mark.parametrize("benchmark", [{"imbalance_factor": 20}, {"imbalance_factor": 50, "selection": "first"}])
def test_a_subset_the_files_cannot_give_is_refused(cifar100: tuple[pd.DataFrame, PackedImages], benchmark: dict[str, object]) -> None:
    with pytest.raises(LongTailError, match="lacks training images that this split needs"):
        chosen(cifar100[0], **benchmark)
    with pytest.raises(LongTailError, match="subsample_seed 0 only"):
        chosen(cifar100[0], subsample_seed=1)
