"""What users really have on disk: every mistake ends in one sentence that names the place, never in a traceback or a silent guess."""

import gzip
import io
import os
import random
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFile

from lt_pipeline.data.config import BenchmarkConfig, SourceConfig
from lt_pipeline.data.images import EncodedImages, PackedImages, decode, inside, load_images, save_images
from lt_pipeline.data.sources.folder import unlabelled_images
from lt_pipeline.data.split import class_statistics, make_split
from lt_pipeline.errors import LongTailError

from .test_images import encoded
from .test_sources import idx, picture, png, read, tree

NATURAL = BenchmarkConfig(profile="natural")


def table_of(root: Path, **columns: object) -> dict[str, object]:
    """Six images, a CSV that names them and has ``columns``, and the source that reads it."""
    if not (root / "img").exists():
        tree(root, {"img": 6})
    frame = pd.DataFrame({"image": [f"img/{n}.png" for n in range(6)], "label": list("aabbab")} | columns)
    frame.to_csv(root / "t.csv", index=False)
    return {"kind": "table", "root": str(root), "files": ["t.csv"]}


# ---- pixels


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "P"), ("GIF", "P"), ("TIFF", "RGB"), ("JPEG", "RGB"), ("WEBP", "RGB"), ("BMP", "RGB")])
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_are_an_image_or_a_named_error(kind: str, mode: str) -> None:
    base = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)).convert(mode)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    content = encoded(base, kind, **({} if kind in ("GIF", "BMP") else {"exif": exif}))
    generator = random.Random(0)
    for _ in range(400):
        damaged = bytearray(content)
        for _ in range(generator.randint(1, 6)):
            damaged[generator.randrange(min(len(damaged), 400))] = generator.randrange(256)
        try:
            pixels = decode(bytes(damaged[: generator.randrange(len(damaged))] if generator.random() < 0.3 else damaged), "x.png", 10_000)
        except LongTailError as error:
            assert "x.png" in str(error)
        else:
            assert (pixels.shape[2], pixels.dtype) == (3, np.uint8)


@pytest.mark.parametrize(
    "trouble", [TypeError("an IFDRational is no integer"), KeyError(7), OverflowError(), Image.DecompressionBombError()]
)
def test_whatever_the_decoder_trips_over_names_the_image(monkeypatch: pytest.MonkeyPatch, trouble: Exception) -> None:
    def trip(*_: object) -> None:
        raise trouble

    monkeypatch.setattr(ImageFile.ImageFile, "load", trip)
    with pytest.raises(LongTailError, match=r"photo\.png cannot be decoded"):
        decode(png(), "photo.png", 1000)


def test_formats_that_run_programs_are_not_images() -> None:
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n"
    with pytest.raises(LongTailError, match=r"x\.jpg cannot be decoded .*cannot identify"):
        decode(postscript, "x.jpg", 1000)


def test_sixteen_bit_images_are_scaled_alike_dark_or_bright() -> None:
    for value in (200, 300, 65_535):
        assert (decode(encoded(Image.fromarray(np.full((3, 3), value, np.uint16))), "x", 100) == value >> 8).all()


@pytest.mark.filterwarnings("error")
def test_transparency_and_animations() -> None:
    palette = picture(4, 9).convert("P")
    assert decode(encoded(palette, transparency=bytes([0, 128])), "x", 100).shape == (4, 4, 3)
    assert (decode(encoded(Image.new("RGBA", (4, 4), (9, 8, 7, 0))), "x", 100) == [9, 8, 7]).all()
    film = encoded(Image.new("P", (5, 4), 0), "GIF", save_all=True, append_images=[Image.new("P", (5, 4), 1)])
    assert decode(film, "x", 100).shape == (4, 5, 3)


@pytest.mark.parametrize("side", [1, 3, 47])
def test_odd_sizes_are_kept(side: int) -> None:
    assert decode(encoded(Image.new("L", (side, 2 * side + 1))), "x", 10_000).shape == (2 * side + 1, side, 3)


def test_max_pixels_cannot_exceed_what_the_decoder_allows() -> None:
    with pytest.raises(ValueError, match="max_pixels"):
        SourceConfig(max_pixels=1 << 40)


# ---- stores


def test_a_view_of_a_mapped_array_travels_as_itself(tmp_path: Path) -> None:
    import pickle

    save_images(PackedImages(np.arange(12, dtype=np.uint8).reshape(4, 1, 1, 3)), tmp_path / "s")
    whole = load_images(tmp_path / "s")
    assert isinstance(whole, PackedImages)
    part = pickle.loads(pickle.dumps(PackedImages(whole.array[2:])))
    assert len(part) == 2
    assert part.read(0).tolist() == [[[6, 7, 8]]]


def test_a_mapped_store_reaches_a_spawned_process(tmp_path: Path) -> None:
    import multiprocessing

    save_images(PackedImages(np.full((2, 2, 2, 3), 5, np.uint8)), tmp_path / "s")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert (pool.apply(load_images(tmp_path / "s").read, (1,)) == 5).all()


@pytest.mark.parametrize(("name", "content"), [("images.npy", b"\x93NUMPY\x01"), ("images.npy", b""), ("images.json", b'{"root": 3}')])
def test_a_broken_store_is_said(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LongTailError, match="run the data pipeline"):
        load_images(tmp_path)


def test_a_truncated_array_is_said(tmp_path: Path) -> None:
    save_images(PackedImages(np.zeros((9, 9, 9, 3), np.uint8)), tmp_path / "s")
    path = tmp_path / "s" / "images.npy"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(LongTailError, match="run the data pipeline"):
        load_images(tmp_path / "s")


def test_parquet_that_moved_or_shrank_after_ingestion(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pd.DataFrame({"image": [png(1), png(2)]}).to_parquet(path)
    store = EncodedImages(tmp_path, ["x.parquet"] * 2, [0, 1], "image", 1000)
    assert (store.read(1) == 2).all()
    pd.DataFrame({"image": [png(3)]}).to_parquet(path)
    os.utime(path, ns=(1, 1))
    assert (store.read(0) == 3).all()
    with pytest.raises(LongTailError, match=r"x\.parquet row 1"):
        store.read(1)
    path.unlink()
    with pytest.raises(LongTailError, match=r"x\.parquet"):
        store.read(0)


def test_a_parquet_file_is_read_once_for_all_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lt_pipeline.data.sources import common

    reads, original = [], pq.read_table
    pd.DataFrame({"image": [png(v) for v in range(60)], "label": [0, 1] * 30}).to_parquet(tmp_path / "x.parquet")
    monkeypatch.setattr(common, "_THREADS", 8)
    monkeypatch.setattr(pq, "read_table", lambda *args, **kwargs: (reads.append(kwargs.get("columns")), original(*args, **kwargs))[1])
    read(kind="parquet", root=str(tmp_path))
    assert reads.count(["image"]) == 1


@pytest.mark.parametrize("path", ["a\0b.png", "loop/x.png"])
def test_paths_no_file_system_knows(tmp_path: Path, path: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(LongTailError):
        EncodedImages(tmp_path, [path], [-1], "", 100).read(0)


def test_an_absolute_path_inside_the_root_is_refused_too(tmp_path: Path) -> None:
    with pytest.raises(LongTailError, match="leaves the image root"):
        inside(tmp_path, str(tmp_path / "x.png"))


# ---- labels, names, parts


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"label": [1, 1, 2, 2, 1, 2]}, "no image of label 0"),
        ({"label": [0, 0, 10**7, 10**7, 0, 0]}, "no image of label 1"),
        ({"image": [None, *[f"img/{n}.png" for n in range(1, 6)]]}, "row 1 has no value in column 'image'"),
        ({"image": ["img/9.png", *[f"img/{n}.png" for n in range(1, 6)]]}, r"Cannot read the image .*9\.png"),
        ({"image": ["img", *[f"img/{n}.png" for n in range(1, 6)]]}, r"Cannot read the image .*directory"),
        ({"split": ["train", None, "train", "test", "test", "test"]}, "allowed are train, val and test"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, columns: dict[str, object], sentence: str) -> None:
    with pytest.raises(LongTailError, match=sentence):
        read(**table_of(tmp_path, **columns))


def test_class_names_and_ids_of_a_table(tmp_path: Path) -> None:
    source = table_of(tmp_path, label=[0, 0, 1, 1, 0, 1], name=list("aabbab"), id=range(6))
    named = source | {"class_name_column": "name", "id_column": "id"}
    manifest, _ = read(**named)
    assert manifest["sample_id"].tolist() == list("012345")
    assert manifest["class_name"].tolist() == list("aabbab")
    assert not [name for name in manifest if name.startswith("meta.")]
    table_of(tmp_path, label=[0, 0, 1, 1, 0, 1], name=list("aabbac"), id=range(6))
    with pytest.raises(LongTailError, match="label 1 has two class names, 'b' and 'c'"):
        read(**named)
    for column in ("name", "id"):
        table_of(tmp_path, **({"label": [0, 0, 1, 1, 0, 1], "name": list("aabbab"), "id": list("abcdef")} | {column: [*"aabb", None, "b"]}))
        with pytest.raises(LongTailError, match=f"row 5 has no value in column '{column}'"):
            read(**named)


def test_two_classes_may_share_a_name(tmp_path: Path) -> None:
    source = table_of(tmp_path, label=[0, 0, 1, 1, 0, 1], name=["crane"] * 6) | {"class_name_column": "name"}
    manifest, _ = read(**source, test_fraction=0.4)
    assert manifest[manifest["split"] == "test"]["label"].nunique() == 2


def test_a_misspelt_split_column_is_not_a_missing_one(tmp_path: Path) -> None:
    source = table_of(tmp_path, part=["train"] * 4 + ["test"] * 2)
    assert "meta.part" in read(**source)[0]
    assert read(**source, split_column="part")[0]["split"].tolist() == ["train"] * 4 + ["test"] * 2
    with pytest.raises(LongTailError, match=r"no column 'prat'.* Did you mean 'part'"):
        read(**source, split_column="prat")
    pd.DataFrame({"image": [png()], "label": [0], "part": ["train"]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(LongTailError, match=r"no column 'prat'.* Did you mean 'part'"):
        read(kind="parquet", root=str(tmp_path), split_column="prat")


def test_an_index_in_parquet_is_a_column_like_any_other(tmp_path: Path) -> None:
    frame = pd.DataFrame({"image": [png(v) for v in range(4)], "label": list("abab"), "id": list("wxyz")}).set_index("id")
    frame.to_parquet(tmp_path / "x.parquet")
    assert read(kind="parquet", root=str(tmp_path), id_column="id")[0]["sample_id"].tolist() == list("wxyz")
    frame.set_index("label").iloc[::-1].to_parquet(tmp_path / "x.parquet")
    assert read(kind="parquet", root=str(tmp_path))[0]["class_name"].tolist() == list("baba")
    tree(tmp_path, {"img": 4})
    pd.DataFrame({"image": [f"img/{n}.png" for n in range(4)], "label": list("abab")}).set_index("label").to_parquet(tmp_path / "t.parquet")
    assert len(read(kind="table", root=str(tmp_path), files=["t.parquet"])[0]) == 4


def test_parquet_labels(tmp_path: Path) -> None:
    def one(labels: object, **source: object) -> pd.DataFrame:
        pq.write_table(pa.table({"image": [png(v) for v in range(4)], "label": labels, "split": ["train"] * 2 + ["test"] * 2}), path)
        return read(kind="parquet", root=str(tmp_path), **source)[0]

    path = tmp_path / "x.parquet"
    assert one([0, 1, 0, 1])["class_name"].tolist() == list("0101")
    assert one(["cat", "ant", "ant", "cat"])["label"].tolist() == [1, 0, 0, 1]
    assert one(pa.array([2, 10, 10, 2]).dictionary_encode().cast(pa.dictionary(pa.int32(), pa.string())))["label"].nunique() == 2
    assert one(pa.array([0, 1, 0, 1], pa.uint8()))["label"].tolist() == [0, 1, 0, 1]
    for labels, sentence in (
        ([0, None, 0, 1], "1 rows of .* have no label"),
        ([0.5, 1, 1, 0], "holds fractions"),
        ([0, 2, 0, 2], "no image of label 1"),
        ([0, -1, 0, 0], "is negative"),
    ):
        with pytest.raises(LongTailError, match=sentence):
            one(labels)


@pytest.mark.parametrize(
    ("words", "parts"),
    [(["training", "valid", "testing"], ["train", "val", "test"]), (["Train", "validation", "TEST"], ["train", "val", "test"])],
)
def test_words_for_parts(tmp_path: Path, words: list[str], parts: list[str]) -> None:
    frame = pd.DataFrame({"image": [png(v) for v in range(3)], "label": [0] * 3, "split": words})
    frame.to_parquet(tmp_path / "x.parquet")
    assert read(kind="parquet", root=str(tmp_path))[0]["split"].tolist() == parts


def test_parquet_files_of_one_name_in_two_folders(tmp_path: Path) -> None:
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
        pd.DataFrame({"image": [png(v) for v in range(4)], "label": [0, 0, 1, 1]}).to_parquet(tmp_path / part / "x.parquet")
    manifest, _ = read(kind="parquet", root=str(tmp_path), files=["a/x.parquet", "b/x.parquet"])
    assert manifest["sample_id"].tolist() == [f"{part}/x-{row}" for part in "ab" for row in range(4)]
    with pytest.raises(LongTailError, match="leaves the image root"):
        read(kind="parquet", root=str(tmp_path / "a"), files=["../b/x.parquet"])
    with pytest.raises(LongTailError, match="holds no Parquet file"):
        read(kind="parquet", root=str(tmp_path))


def test_an_empty_cell_is_named_by_its_row(tmp_path: Path) -> None:
    pd.DataFrame({"image": [png(), None, png(), png()], "label": [0, 0, 1, 1]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(LongTailError, match=r"x\.parquet row 1 is empty"):
        read(kind="parquet", root=str(tmp_path))


# ---- lists and trees


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "train list is empty"),
        ("x/0.png 0\nx/1.png 10000000\n", "no image of label 1"),
        (f"x/0.png {10**30}\n", "line 1"),
        ("x/0.png\t0\n", "line 1"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path: Path, text: str, sentence: str) -> None:
    tree(tmp_path, {"x": 2})
    (tmp_path / "train.txt").write_text(text)
    tracemalloc.start()
    with pytest.raises(LongTailError, match=sentence):
        read(kind="list_files", root=str(tmp_path), lists={"train": "train.txt"})
    assert tracemalloc.get_traced_memory()[1] < 50e6  # a large label is not a large array
    tracemalloc.stop()


def test_lists_as_other_systems_write_them(tmp_path: Path) -> None:
    tree(tmp_path, {"a b": 2, "c": 2})
    (tmp_path / "train.txt").write_bytes("\ufeffa b/0.png 00\r\na b/1.png 0\r\nc/0.png 1\r\nc/1.png 01\r\n".encode())
    manifest, _ = read(kind="list_files", root=str(tmp_path), lists={"train": str(tmp_path / "train.txt")})
    assert manifest["file"].tolist() == ["a b/0.png", "a b/1.png", "c/0.png", "c/1.png"]
    assert manifest["class_name"].tolist() == ["0", "0", "1", "1"]


def test_hidden_files_and_folders_are_no_images(tmp_path: Path) -> None:
    root = tree(tmp_path / "x", {"a": 3, "b": 3, "a/.thumbnails": 2, "a/inner": 1})
    (root / "b" / "._0.png").write_bytes(b"what a Mac leaves behind")
    manifest, _ = read(kind="folder", root=str(root))
    assert len(manifest) == 7
    assert "a/inner/0.png" in set(manifest["file"])
    assert len(unlabelled_images(root, SourceConfig()).rows) == 7


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_tree_with_parts_but_without_train(tmp_path: Path, part: str) -> None:
    tree(tmp_path / part, {"a": 2, "b": 2})
    with pytest.raises(LongTailError, match=f"has {part}/ but no train/"):
        read(kind="folder", root=str(tmp_path))


def test_a_tree_whose_validation_part_is_called_valid(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        tree(tmp_path / part, {"a": 5, "b": 5})
    assert read(kind="folder", root=str(tmp_path))[0]["split"].value_counts().to_dict() == {"train": 8, "val": 10, "test": 2}


def test_the_test_part_is_cut_from_good_images_only(tmp_path: Path) -> None:
    root = tree(tmp_path / "x", {"a": 3, "b": 5})
    for name in ("a/0.png", "b/1.png"):
        (root / name).write_bytes(b"broken")
    for seed in range(4):
        manifest, _ = read(kind="folder", root=str(root), on_bad_image="skip", split_seed=seed, test_fraction=0.25)
        assert manifest.groupby(["split", "class_name"]).size().to_dict() == {
            ("test", "a"): 1, ("test", "b"): 1, ("train", "a"): 1, ("train", "b"): 3
        }  # fmt: skip


def test_a_class_that_loses_every_image_is_said(tmp_path: Path) -> None:
    root = tree(tmp_path / "x", {"a": 3, "b": 2, "c": 3})
    for number in range(2):
        (root / "b" / f"{number}.png").write_bytes(b"broken")
    with pytest.raises(LongTailError, match="class 'b' has no image left"):
        read(kind="folder", root=str(root), on_bad_image="skip")


def test_too_much_to_pack_is_said_before_anything_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lt_pipeline.data.sources import common

    monkeypatch.setattr(common, "_PACKED_BYTES", 1000)
    root = tree(tmp_path / "x", {"a": 3, "b": 3})
    assert isinstance(read(kind="folder", root=str(root))[1], EncodedImages)
    monkeypatch.setattr(common, "decode", None)
    with pytest.raises(LongTailError, match=r"6 images of 8 x 8 .* source\.image_size"):
        read(kind="folder", root=str(root), image_size=8)


# ---- splits


def manifest_of(**rows: list[int]) -> pd.DataFrame:
    frame = pd.DataFrame([(part, label) for part, labels in rows.items() for label in labels], columns=["split", "label"])
    return frame.assign(
        sample_id=[str(n) for n in range(len(frame))],
        class_name=frame["label"].astype(str),
        digest=[f"{n:016x}" for n in range(len(frame))],
    )


def test_every_class_needs_a_training_image() -> None:
    with pytest.raises(LongTailError, match="no training image, the first is '1'"):
        make_split(manifest_of(train=[0, 0], val=[1], test=[0]), NATURAL, 0)
    with pytest.raises(LongTailError, match="1 classes of the test part have no training image, the first is 'crane'"):
        make_split(manifest_of(train=[0, 2], test=[0, 1]).assign(class_name="crane"), NATURAL, 0)


def test_a_class_may_vanish_from_train_by_the_profile_alone(caplog: pytest.LogCaptureFixture) -> None:
    split = make_split(manifest_of(train=[0] * 5 + [1] * 5, test=[0, 1]), BenchmarkConfig(profile="exp", imbalance_factor=10), 0)
    assert class_statistics(split).counts.tolist() == [5, 0]
    assert "keep no image" in caplog.text


def test_a_cut_validation_part_takes_the_place_of_a_given_one(caplog: pytest.LogCaptureFixture) -> None:
    manifest = manifest_of(train=[0] * 8, val=[0] * 3, test=[0])
    assert (make_split(manifest, NATURAL, 0)["split"] == "val").sum() == 3
    split = make_split(manifest, BenchmarkConfig(validation_fraction=0.25), 0)
    assert split["split"].value_counts().to_dict() == {"train": 6, "val": 2, "test": 1}
    assert "3 validation images of the source are not used" in caplog.text


def test_a_step_split() -> None:
    manifest = manifest_of(train=[0, 1, 2, 3] * 10, test=[0, 1, 2, 3])
    split = make_split(manifest, BenchmarkConfig(profile="step", imbalance_factor=5), 0)
    assert class_statistics(split).counts.tolist() == [10, 10, 2, 2]
    with pytest.raises(LongTailError, match=r"lower benchmark\.max_per_class"):
        make_split(manifest, BenchmarkConfig(profile="exp", max_per_class=11), 0)


# ---- IDX


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("train-images-idx3-ubyte", b"\0\0\x0d\3" + idx(np.zeros((2, 28, 28)))[4:], "not an IDX file"),
        ("train-images-idx3-ubyte", b"\0\0\x08\3" + np.array([-1, -28, 0], ">i4").tobytes(), "not an IDX file"),
        ("train-images-idx3-ubyte", b"", "not an IDX file"),
        ("train-images-idx3-ubyte.gz", gzip.compress(idx(np.zeros((2, 28, 28))), mtime=0)[:-9], "cannot be unpacked"),
        ("train-images-idx3-ubyte.gz", gzip.compress(bytes(range(256)), mtime=0)[:20] + b"\xff" * 40, "cannot be unpacked"),
        ("train-images-idx3-ubyte.gz", b"plain text", "cannot be unpacked"),
        ("train-labels-idx1-ubyte", idx(np.array([0, 10])), "label 10"),
        ("train-labels-idx1-ubyte", idx(np.array([0, 1, 2])), "2 images, .* 3 labels"),
    ],
)
def test_idx_files_that_cannot_be_used(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    for prefix in ("train", "t10k"):
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(idx(np.zeros((2, 28, 28))))
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(np.array([0, 1])))
    (tmp_path / name.removesuffix(".gz")).unlink()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LongTailError, match=sentence):
        read(kind="fashion_mnist", root=str(tmp_path))


def test_images_keep_their_bytes_in_parquet(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    picture(6, 77).save(buffer, "WEBP", lossless=True)
    pd.DataFrame({"image": [buffer.getvalue()] * 2, "label": [0, 0]}).to_parquet(tmp_path / "x.parquet")
    manifest, images = read(kind="parquet", root=str(tmp_path))
    assert (images.read(0) == 77).all()
    assert manifest["digest"].nunique() == 1
