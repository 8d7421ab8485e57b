"""Image stores: random access to pixels by row number.

Small sets of one size are one uint8 array; everything else stays what it is, encoded bytes in files or Parquet, decoded when read.
"""

import io
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from lt_pipeline.errors import LongTailError
from lt_pipeline.files import atomic_folder

Pixels = NDArray[np.uint8]


class PackedImages:
    """All images in one uint8 array [N, H, W, 3], in memory or memory-mapped."""

    def __init__(self, array: Pixels) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        height, width, channels = self.array.shape[1:]
        return height, width, channels

    def read(self, row: int) -> Pixels:
        """Return one image [H, W, 3]."""
        return np.asarray(self.array[row])

    def __reduce__(self) -> tuple[object, ...]:
        """Travel to worker processes as a file name where there is one."""
        if isinstance(self.array, np.memmap) and self.array.filename is not None:
            return _map, (str(self.array.filename),)
        return PackedImages, (np.asarray(self.array),)


class EncodedImages:
    """Images that are decoded when read.

    Args:
        root: folder that ``files`` are relative to.
        files: of each image; a ``.parquet`` file holds many.
        rows: row in the Parquet file, -1 for an image file.
        column: of the Parquet files, encoded bytes or ``{bytes, path}``.
        max_pixels: larger images are refused.
    """

    shape = None

    def __init__(self, root: Path, files: Sequence[str], rows: Sequence[int], column: str, max_pixels: int) -> None:
        self.root, self.files, self.rows, self.column, self.max_pixels = root, list(files), list(map(int, rows)), column, max_pixels

    def __len__(self) -> int:
        return len(self.files)

    def content(self, row: int) -> bytes:
        """Return the stored bytes of one image."""
        path = _inside_once(self.root, self.files[row]) if self.rows[row] >= 0 else inside(self.root, self.files[row])
        if self.rows[row] >= 0:
            return encoded_bytes(_column(str(path), self.column)[self.rows[row]].as_py())
        try:
            return path.read_bytes()
        except OSError as error:
            raise LongTailError(f"Cannot read the image {path}: {error.strerror}.") from error

    def read(self, row: int) -> Pixels:
        """Return one image [H, W, 3], decoded to RGB and upright."""
        return decode(self.content(row), self.name(row), self.max_pixels)

    def name(self, row: int) -> str:
        """Return a name for messages."""
        return self.files[row] if self.rows[row] < 0 else f"{self.files[row]} row {self.rows[row]}"


ImageStore = PackedImages | EncodedImages


def encoded_bytes(value: object) -> bytes:
    """Return the encoded bytes in a Parquet cell: bytes as they are, or the ``bytes`` of a ``{bytes, path}`` struct; empty for none."""
    if isinstance(value, dict):
        value = value.get("bytes")
    return bytes(value) if isinstance(value, bytes | bytearray) else b""


def decode(content: bytes, name: str, max_pixels: int) -> Pixels:
    """Decode an image of any mode to upright RGB, uint8 [H, W, 3].

    16-bit images are scaled to 8 bits, transparency is dropped onto black, EXIF orientation is applied, of an animation the first frame counts.

    Raises:
        LongTailError: naming the image if it is empty, truncated, not an image or larger than ``max_pixels``.
    """
    if not content:
        raise LongTailError(f"The image {name} is empty.")
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > max_pixels:
                raise LongTailError(
                    f"The image {name} has {image.width} x {image.height} pixels, more than source.max_pixels = {max_pixels}; it may be a bomb."
                )
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):
                return _from_16_bit(upright)
            return np.asarray(upright.convert("RGBA").convert("RGB") if "transparency" in upright.info else upright.convert("RGB"))
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise LongTailError(f"The image {name} cannot be decoded ({error}); remove it or set source.on_bad_image to skip.") from error


def to_square(pixels: Pixels, side: int) -> Pixels:
    """Return the image with its short side resized to ``side`` (bilinear, antialiased) and the centre cropped to side x side."""
    height, width = pixels.shape[:2]
    if (height, width) == (side, side):
        return pixels
    scale = side / min(height, width)
    size = max(round(width * scale), side), max(round(height * scale), side)
    resized = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return np.asarray(resized.crop((left, top, left + side, top + side)))


def inside(root: Path, relative: str) -> Path:
    """Return ``root / relative``.

    Raises:
        LongTailError: if the path is absolute or leaves the root, by ``..`` or through a link.
    """
    path = root / relative
    if PurePosixPath(relative).is_absolute() or not path.resolve().is_relative_to(root.resolve()):
        raise LongTailError(f"The path '{relative}' leaves the image root {root}; only paths inside it are read.")
    return path


_inside_once = lru_cache(maxsize=64)(inside)  # a Parquet file is asked for once per image


def save_images(store: ImageStore, folder: Path) -> None:
    """Write a store atomically: ``images.npy``, or ``images.json`` with the places of encoded images.

    Raises:
        LongTailError: if the disk is full or not writable.
    """
    with atomic_folder(folder) as part:
        if isinstance(store, PackedImages):
            np.save(part / "images.npy", store.array, allow_pickle=False)
        else:
            places = {key: getattr(store, key) for key in ("files", "rows", "column", "max_pixels")}
            (part / "images.json").write_text(json.dumps({"root": str(store.root.resolve()), **places}))


def load_images(folder: Path) -> ImageStore:
    """Open a store; packed images are memory-mapped.

    Raises:
        LongTailError: if there is none.
    """
    if (folder / "images.npy").exists():
        return _map(str(folder / "images.npy"))
    try:
        places = json.loads((folder / "images.json").read_text())
        return EncodedImages(Path(places.pop("root")), **places)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LongTailError(f"No image store at {folder} ({error}); run the data pipeline first.") from error


def _map(filename: str) -> PackedImages:
    return PackedImages(np.load(filename, mmap_mode="r", allow_pickle=False))


def _from_16_bit(image: Image.Image) -> Pixels:
    values = np.asarray(image).astype(np.int64)
    grey = (values >> 8 if values.max(initial=0) > 255 else values).clip(0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


@lru_cache(maxsize=16)
def _column(path: str, column: str) -> Any:
    return pq.read_table(path, columns=[column], memory_map=True)[column]
