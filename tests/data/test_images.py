import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lt_pipeline.data.images import EncodedImages, PackedImages, decode, inside, load_images, save_images, to_square
from lt_pipeline.errors import LongTailError


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    base = Image.fromarray(np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8))
    image = Image.fromarray(np.full((7, 9), 40_000, np.uint16)) if mode == "I;16" else base.convert(mode)
    kind = "TIFF" if mode in ("CMYK", "F") else "PNG"
    pixels = decode(encoded(image, kind), "x", 1000)
    assert pixels.shape == (7, 9, 3)
    assert pixels.dtype == np.uint8
    if mode == "RGB":
        assert (pixels == np.asarray(base)).all()
    if mode == "I;16":
        assert (pixels == 40_000 >> 8).all()


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(Image.new("RGB", (9, 7)), "JPEG", exif=exif), "x", 1000).shape == (9, 7, 3)


@pytest.mark.parametrize(
    "content", [b"", b"hello", encoded(Image.new("RGB", (50, 50), "red"), "JPEG")[:300]], ids=["empty", "text", "truncated"]
)
def test_what_is_no_image_is_named(content: bytes) -> None:
    with pytest.raises(LongTailError, match=r"photo\.jpg"):
        decode(content, "photo.jpg", 10_000)


def test_a_bomb_is_refused_by_its_header() -> None:
    with pytest.raises(LongTailError, match=r"100 x 100 pixels, more than source\.max_pixels = 9999"):
        decode(encoded(Image.new("L", (100, 100))), "x", 9999)


def test_squares() -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    assert (to_square(wide, 10) == 255).all()
    assert to_square(np.zeros((33, 17, 3), np.uint8), 8).shape == (8, 8, 3)
    square = np.ones((8, 8, 3), np.uint8)
    assert to_square(square, 8) is square


@pytest.mark.parametrize("path", ["../x.png", "/etc/passwd", "a/../../x", "link/x.png"])
def test_paths_stay_inside(tmp_path: Path, path: str) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path)
    with pytest.raises(LongTailError, match="leaves the image root"):
        inside(tmp_path / "root", path)
    assert inside(tmp_path / "root", "a/../b.png").name == "b.png"


def test_packed_images_round_trip_and_travel_by_name(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    save_images(PackedImages(array), tmp_path / "images")
    store = load_images(tmp_path / "images")
    assert isinstance(store, PackedImages)
    assert store.shape == (5, 6, 3)
    message = pickle.dumps(store)
    assert len(message) < 1000
    assert (pickle.loads(message).read(2) == array[2]).all()
    assert (pickle.loads(pickle.dumps(PackedImages(array))).array == array).all()


def test_encoded_images_round_trip(tmp_path: Path) -> None:
    Image.new("RGB", (5, 4), "blue").save(tmp_path / "a.png")
    save_images(EncodedImages(tmp_path, ["a.png"], [-1], "", 100), tmp_path / "store")
    store = pickle.loads(pickle.dumps(load_images(tmp_path / "store")))
    assert store.read(0).tolist() == np.full((4, 5, 3), [0, 0, 255]).tolist()
    (tmp_path / "a.png").unlink()
    with pytest.raises(LongTailError, match="Cannot read the image"):
        store.read(0)


def test_no_store_is_said(tmp_path: Path) -> None:
    with pytest.raises(LongTailError, match="run the data pipeline first"):
        load_images(tmp_path)
