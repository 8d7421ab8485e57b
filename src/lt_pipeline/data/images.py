"""Image stores: random access to pixels by row number.

Small sets of one size are one uint8 array; everything else stays what it is, encoded bytes in files or Parquet, decoded when read.
"""

import io
import json
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lt_pipeline.errors import LongTailError
from lt_pipeline.files import atomic_folder

Pixels = NDArray[np.uint8]
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Raster formats that are decoded; Pillow knows others that start programs (EPS) or that nobody keeps photographs in."""


class PackedImages:
    """All images in one uint8 array [N, H, W, 3], in memory or memory-mapped.

    Args:
        array: the pixels.
        filename: the file that ``array`` is a map of, the whole of it; such a store travels to worker processes as this name.
    """

    def __init__(self, array: Pixels, filename: str | None = None) -> None:
        self.array, self.filename = array, filename

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
        return (_map, (self.filename,)) if self.filename else (PackedImages, (np.asarray(self.array),))


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
        """Return the stored bytes of one image.

        Raises:
            LongTailError: naming the file if it cannot be read, or has fewer rows than it had.
        """
        place = self.rows[row]
        path = _inside_once(self.root, self.files[row]) if place >= 0 else inside(self.root, self.files[row])
        try:
            if place < 0:
                return path.read_bytes()
            with _reading:  # threads that want the same file wait for the one that reads it
                column = _column(str(path), path.stat().st_mtime_ns, self.column)
            return encoded_bytes(column[place].as_py())
        except (OSError, IndexError, KeyError, pa.ArrowException) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise LongTailError(f"Cannot read the image {path if place < 0 else self.name(row)}: {why}.") from error

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

    16-bit images are scaled to 8 bits, transparency is dropped, EXIF orientation is applied, of an animation the first frame counts.

    Raises:
        LongTailError: naming the image if it is empty, truncated, not an image or larger than ``max_pixels``.
    """
    if not content:
        raise LongTailError(f"The image {name} is empty.")
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise LongTailError(
                    f"The image {name} has {image.width} x {image.height} pixels, more than source.max_pixels = {max_pixels}; it may be a bomb."
                )
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):
                return _from_16_bit(upright)
            return np.asarray(upright.convert("RGBA").convert("RGB") if "transparency" in upright.info else upright.convert("RGB"))
    except LongTailError:
        raise
    except Exception as error:  # Pillow lets through whatever its parsers trip over: struct.error, TypeError, KeyError, ...
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
    try:
        stays = not PurePosixPath(relative).is_absolute() and path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a null byte
        raise LongTailError(f"The path {relative!r} cannot be followed ({error}).") from error
    if not stays:
        raise LongTailError(f"The path '{relative}' leaves the image root {root}; only paths inside it are read.")
    return path


_inside_once = lru_cache(maxsize=64)(inside)  # a Parquet file is asked for once per image
_reading = threading.Lock()


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
    try:
        if (folder / "images.npy").exists():
            return _map(str((folder / "images.npy").resolve()))
        places = json.loads((folder / "images.json").read_text())
        return EncodedImages(Path(places.pop("root")), **places)
    except (OSError, EOFError, ValueError, TypeError, KeyError) as error:
        raise LongTailError(f"No whole image store at {folder} ({error}); run the data pipeline first.") from error


def _map(filename: str) -> PackedImages:
    return PackedImages(np.load(filename, mmap_mode="r", allow_pickle=False), filename)


def _from_16_bit(image: Image.Image) -> Pixels:
    values = np.asarray(image).astype(np.int64)
    # "I;16" is 16 bits for sure, a dark image too; "I" has 32 bits and says nothing about their use
    wide = image.mode != "I" or values.max(initial=0) > 255
    grey = (values >> 8 if wide else values).clip(0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


@lru_cache(maxsize=16)
def _column(path: str, _changed: int, column: str) -> Any:
    return pq.read_table(path, columns=[column], memory_map=True)[column]
