"""The state of an unfinished stage: everything the next step depends on, in one file that is replaced atomically."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lt_pipeline.errors import LongTailError
from lt_pipeline.files import atomic_file
from lt_pipeline.training.checkpoint import Checkpoint, load_checkpoint, portable


@dataclass(frozen=True)
class TrainingState:
    """A snapshot between two optimizer steps.

    Attributes:
        tensors: by name, ``<part>/<name>``: model, optimizer, average, best epochs.
        facts: JSON-able: step, sampler, sums of the running epoch, history, fingerprint.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of one part under their own names."""
        return {key.removeprefix(f"{name}/"): tensor for key, tensor in self.tensors.items() if key.startswith(f"{name}/")}


@dataclass(frozen=True)
class Workspace:
    """Where a stage keeps its checkpoint (``folder``) and, while it runs, its training state (beside it)."""

    folder: Path

    @property
    def _scratch(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.training")

    @property
    def _file(self) -> Path:
        return self._scratch / "state.safetensors"

    def lock(self) -> FileLock:
        """Return the lock that only one run may hold, taken.

        Raises:
            LongTailError: if another run holds it or the folder is not writable.
        """
        try:
            self._scratch.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._scratch / "lock")
            lock.acquire(timeout=0)
        except Timeout as error:
            raise LongTailError(
                f"Another run is training in {self.folder}. Wait for it, stop it, or give this run another place (run=NAME or another seed)."
            ) from error
        except OSError as error:
            raise LongTailError(f"Cannot write to {self._scratch}: {error.strerror}.") from error
        return lock

    def save(self, state: TrainingState) -> None:
        """Replace the saved state.

        Raises:
            LongTailError: if the disk is full or not writable; the former state stays.
        """
        with atomic_file(self._file) as part:
            try:
                save_file(portable(state.tensors), part, metadata={"facts": json.dumps(state.facts)})
            except SafetensorError as error:
                raise LongTailError(
                    f"Cannot write {self._file}: {error}. The state saved before is intact; free space and run again."
                ) from error

    def load(self) -> TrainingState | None:
        """Return the saved state, or None if no stage is unfinished here.

        Raises:
            LongTailError: if the file is damaged.
        """
        if not self._file.exists():
            return None
        try:
            with safe_open(self._file, framework="pt") as file:
                facts = json.loads(file.metadata()["facts"])
                return TrainingState({key: file.get_tensor(key) for key in file.keys()}, facts)  # noqa: SIM118 (not a dict)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise LongTailError(
                f"The training state {self._file} is damaged ({error}); trainer.resume=never starts the stage over."
            ) from error

    def finished(self) -> Checkpoint | None:
        """Return the checkpoint that a finished stage left here, if any."""
        return load_checkpoint(self.folder) if (self.folder / "config.json").exists() else None

    def clear(self) -> None:
        """Delete the training state; called once the checkpoint is safely on disk."""
        self._file.unlink(missing_ok=True)
