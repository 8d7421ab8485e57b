"""Data sets in the layout in which their authors publish them, with tiny images."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from lt_pipeline.data.config import SourceConfig
from lt_pipeline.data.manifest import Manifest
from lt_pipeline.data.sources import ingest
from lt_pipeline.errors import LongTailError


def pictures(root: Path, *files: str) -> None:
    for value, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 3 * value, np.uint8)).save(root / file)


def read(kind: str, root: Path, **rest: object):
    manifest, images = ingest(SourceConfig.model_validate({"kind": kind, "root": str(root), **rest}))
    assert len(images) == len(manifest)
    return Manifest.validate(manifest)


def write(root: Path, **files: object) -> None:
    for name, content in files.items():
        root.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content)
        (root / f"{name}.{'txt' if isinstance(content, str) else 'json'}").write_text(text)


def inat21(root: Path) -> None:
    categories = [{"id": 7, "name": " Rosa A "}, {"id": 3, "name": "rosa b"}]
    for part, ids in (("train", [1, 2, 3]), ("val", [11, 12])):
        files = [f"{part}/{number}.png" for number in ids]
        pictures(root, *files)
        images = [
            {
                "id": number,
                "file_name": file,
                "date": "2020-05-01 10:00:00+00:00",
                "latitude": 1.0 * number,
                "longitude": None if number == 2 else 2.0,
            }
            for number, file in zip(ids, files, strict=True)
        ]
        labels = [{"id": number, "image_id": number, "category_id": 3 if number % 2 else 7} for number in ids]
        write(root, **{part: {"images": images, "annotations": labels, "categories": categories if part == "val" else categories[::-1]}})


def test_inaturalist_2021_has_place_and_date(tmp_path: Path) -> None:
    inat21(tmp_path)
    manifest = read("inaturalist", tmp_path)
    assert manifest["split"].tolist() == ["train"] * 3 + ["test"] * 2
    assert manifest["label"].tolist() == [1, 0, 1, 1, 0]  # the order of val.json
    assert manifest["class_name"].tolist() == ["rosa b", "rosa a", "rosa b", "rosa b", "rosa a"]
    assert manifest["meta.latitude"].tolist() == [1.0, 2.0, 3.0, 11.0, 12.0]
    assert np.isnan(manifest["meta.longitude"][1]) and manifest["meta.date"][0].startswith("2020-05-01")


def inat18(root: Path) -> None:
    write(root, categories=[{"id": 1, "name": "Aves B"}, {"id": 0, "name": "Aves A"}])
    for part, ids in (("train", [0, 1, 2]), ("val", [10, 11])):
        files = [f"train_val2018/Aves/{number}.png" for number in ids]
        pictures(root, *files)
        content = {
            "images": [{"id": number, "file_name": file} for number, file in zip(ids, files, strict=True)],
            "annotations": [{"image_id": number, "category_id": number % 2} for number in ids],
            "categories": [{"id": 0, "name": "0"}, {"id": 1, "name": "1"}],
        }
        places = [{"id": number, "date": "2018-02-03 01:00:00", "lat": float(number), "lon": None} for number in reversed(ids)]
        write(root, **{f"{part}2018": content, f"{part}2018_locations": places})


def test_inaturalist_2018_joins_locations_and_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    inat18(tmp_path)
    manifest = read("inaturalist", tmp_path)
    assert manifest["label"].tolist() == [1, 0, 1, 1, 0]  # categories.json has the class of id 1 first
    assert manifest["class_name"].tolist() == ["aves a", "aves b", "aves a", "aves a", "aves b"]
    assert manifest["meta.latitude"].tolist() == [0.0, 1.0, 2.0, 10.0, 11.0]
    assert manifest["meta.longitude"].isna().all()
    (tmp_path / "val2018_locations.json").unlink()
    assert read("inaturalist", tmp_path)["meta.date"].isna().tolist() == [False] * 3 + [True] * 2
    assert "val2018_locations.json does not exist" in caplog.text


def test_inaturalist_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(LongTailError, match=r"must hold one of train.json, train2017.json, train2018.json, it holds 0"):
        read("inaturalist", tmp_path)
    inat18(tmp_path)
    content = json.loads((tmp_path / "train2018.json").read_text())
    content["annotations"].reverse()
    write(tmp_path, train2018=content)
    with pytest.raises(LongTailError, match=r"train2018.json: images and annotations are not in the same order"):
        read("inaturalist", tmp_path)
    (tmp_path / "train2018.json").write_text("{")
    with pytest.raises(LongTailError, match=r"train2018.json cannot be read"):
        read("inaturalist", tmp_path)
    with pytest.raises(LongTailError, match="needs a train and a test list"):
        read("inaturalist", tmp_path, lists={"train": "train2018.json"})


def birds(root: Path, names: str = "001.Auk 002.Emu") -> Path:
    first, second = names.split()
    files = [f"{first}/a.png", f"{first}/b.png", f"{second}/c.png", f"{second}/d.png"]
    pictures(root / "images", *files)
    write(
        root,
        images="".join(f"{number} {file}\n" for number, file in enumerate(files, 1)),
        image_class_labels="1 1\n2 1\n3 2\n4 2\n",
        train_test_split="1 1\n2 0\n3 1\n4 0\n",
        classes=f"1 {first}\n2 {second}\n",
    )
    return root


def test_cub_and_its_attributes(tmp_path: Path) -> None:
    folder = birds(tmp_path / "CUB_200_2011")
    (folder / "attributes").mkdir()
    (folder / "attributes" / "image_attribute_labels.txt").write_text("1 1 1 3 2.5\n2 312 1 3 0 1.5\n4 2 0 1 1.0\n")
    manifest = read("cub200", tmp_path)
    assert manifest["split"].tolist() == ["train", "test", "train", "test"]
    assert manifest["label"].tolist() == [0, 0, 1, 1]
    assert manifest["class_name"].unique().tolist() == ["001.Auk", "002.Emu"]
    bits = np.stack(manifest["meta.attributes"].tolist())
    assert bits.shape == (4, 312) and bits.sum() == 2 and bits[0, 0] == 1 and bits[1, 311] == 1
    (folder / "attributes" / "image_attribute_labels.txt").write_text("1 1 1 3 2.5\n9 1 1 3 2.5\n")
    with pytest.raises(LongTailError, match=r"line 2 is '9 1 1 3 2.5'; a line begins with an image from 1 to 4"):
        read("cub200", tmp_path)


def test_nabirds_numbers_classes_by_rank(tmp_path: Path) -> None:
    folder = birds(tmp_path / "nabirds", "0817 0295")
    write(folder, image_class_labels="1 817\n2 817\n3 295\n4 295\n", classes="817 Oak Titmouse\n295 Ibis\n")
    manifest = read("nabirds", folder)  # the folder itself may be named too
    assert manifest["label"].tolist() == [1, 1, 0, 0]
    assert manifest["class_name"].tolist() == ["Oak Titmouse"] * 2 + ["Ibis"] * 2
    write(folder, train_test_split="1 1\n2 0\n3 1\n")
    with pytest.raises(LongTailError, match="must name the same images"):
        read("nabirds", tmp_path)


def test_aircraft(tmp_path: Path) -> None:
    pictures(tmp_path / "data" / "images", "01.jpg", "02.jpg", "03.jpg", "04.jpg")
    write(tmp_path / "data", images_variant_trainval="01 F/A-18\n02 Boeing 717\n", images_variant_test="03 F/A-18\n04 Boeing 717\n")
    manifest = read("aircraft", tmp_path)
    assert manifest["class_name"].tolist() == ["F/A-18", "Boeing_717"] * 2
    assert manifest["label"].tolist() == [1, 0, 1, 0]
    (tmp_path / "data" / "images_variant_test.txt").write_text("03\n")
    with pytest.raises(LongTailError, match=r"line 1 is '03'; a line is an image number and a variant"):
        read("aircraft", tmp_path)


def test_cars_and_flowers(tmp_path: Path) -> None:
    cars, flowers = tmp_path / "cars", tmp_path / "flowers"
    pictures(cars, "car_ims/1.png", "car_ims/2.png", "car_ims/3.png")
    entries = np.zeros((1, 3), [("relative_im_path", object), ("class", object), ("test", object)])
    for place, (number, test) in enumerate([(2, 0), (1, 0), (2, 1)]):
        entries[0, place] = (f"car_ims/{place + 1}.png", number, test)
    savemat(cars / "cars_annos.mat", {"annotations": entries, "class_names": np.array([["Audi", "BMW"]], dtype=object)})
    manifest = read("cars", cars)
    assert manifest["split"].tolist() == ["train", "train", "test"]
    assert manifest["class_name"].tolist() == ["BMW", "Audi", "BMW"]

    pictures(flowers, *(f"jpg/image_{number:05d}.jpg" for number in range(1, 6)))
    savemat(flowers / "imagelabels.mat", {"labels": [[1, 2, 1, 2, 1]]})
    savemat(flowers / "setid.mat", {"trnid": [[1]], "valid": [[2]], "tstid": [[3, 4]]})
    assert read("flowers", flowers)[["split", "label"]].to_numpy().tolist() == [["train", 0], ["train", 1], ["test", 0], ["test", 1]]
    (cars / "cars_annos.mat").write_bytes(b"no")
    with pytest.raises(LongTailError, match=r"cars_annos.mat cannot be read"):
        read("cars", cars)


def test_a_path_that_leaves_the_root_is_refused(tmp_path: Path) -> None:
    birds(tmp_path)
    write(tmp_path, images="1 ../../etc/passwd\n2 001.Auk/b.png\n3 002.Emu/c.png\n4 002.Emu/d.png\n")
    with pytest.raises(LongTailError, match="leaves the image root"):
        read("cub200", tmp_path)
