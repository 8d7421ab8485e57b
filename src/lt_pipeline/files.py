"""Writing files so that a reader never sees half of one."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lt_pipeline.errors import LongTailError


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success flush it to disk and rename it to ``path``, on failure remove it.

    Raises:
        LongTailError: if the disk is full or not writable; what stood at ``path`` before is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; on success it takes the place of ``path``, on failure it is removed.

    Between the two renames of a replacement the former folder stands beside under a name that :func:`recover_folder` knows.

    Raises:
        LongTailError: if the disk is full or not writable; what stood at ``path`` before is untouched.
    """
    temporary, former = path.with_name(f".{path.name}.{os.getpid()}.part"), _former(path)
    try:
        recover_folder(path)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.iterdir():
            _flush(file)
        if path.exists():
            shutil.rmtree(former, ignore_errors=True)
            path.replace(former)
        temporary.replace(path)
        _flush(path.parent)
        shutil.rmtree(former, ignore_errors=True)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def recover_folder(path: Path) -> None:
    """Put the former folder back if a process died between the two renames of :func:`atomic_folder`."""
    if not path.exists() and _former(path).exists():
        _former(path).replace(path)


def _former(path: Path) -> Path:
    return path.with_name(f".{path.name}.former")


def _flush(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows cannot open a folder for flushing
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unwritable(path: Path, error: OSError) -> LongTailError:
    return LongTailError(
        f"Cannot write {path}: {error.strerror or error}. What was there before is intact; free space or make the folder writable."
    )
