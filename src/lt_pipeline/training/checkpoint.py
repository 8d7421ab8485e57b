"""A trained stage on disk: a folder of weights and facts that opens without pickle.

``model.safetensors`` holds the last epoch; further selections (best on validation, best on test) lie beside it. ``config.json`` says what the
weights are and carries a SHA-256 of each file, so a truncated or altered file is noticed before it is used. ``record.json`` keeps the history
and the timing of the training.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from lt_pipeline.errors import LongTailError
from lt_pipeline.files import atomic_folder, recover_folder

State = dict[str, Tensor]
_LAST = "last"


@dataclass(frozen=True)
class Checkpoint:
    """What a finished stage leaves behind.

    Attributes:
        selections: state dicts by how the epoch was chosen; ``"last"`` is always there.
        facts: JSON-able: method, stage, settings, data facts, split hash, seed, versions, fingerprint.
        record: JSON-able: history rows and timing.
    """

    selections: dict[str, State]
    facts: dict[str, Any]
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> State:
        """The weights of the last epoch."""
        return self.selections[_LAST]

    @property
    def digest(self) -> str:
        """16 hex digits over the names and bytes of the last epoch's weights."""
        return state_digest(self.state)


def state_digest(state: State) -> str:
    """Return 16 hex digits over names, types, shapes and bytes of a state dict, independent of memory layout."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def portable(state: State) -> State:
    """Return the state on the CPU, contiguous and without shared memory, as safetensors wants it."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}


def save_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the checkpoint folder whole or not at all.

    Raises:
        LongTailError: if the disk is full or not writable.
    """
    with atomic_folder(folder) as part:
        files = {}
        for selection, state in checkpoint.selections.items():
            name = "model.safetensors" if selection == _LAST else f"model.{selection}.safetensors"
            save_file(portable(state), part / name)
            files[selection] = {"file": name, "sha256": _sha256(part / name)}
        facts = {**checkpoint.facts, "weights": files}
        (part / "config.json").write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")
        (part / "record.json").write_text(json.dumps(checkpoint.record, sort_keys=True) + "\n")


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint folder and verify every file.

    Raises:
        LongTailError: if the folder is missing or a file is truncated, altered or not what it says.
    """
    recover_folder(folder)
    try:
        facts = json.loads((folder / "config.json").read_text())
        record = json.loads((folder / "record.json").read_text()) if (folder / "record.json").exists() else {}
        files = {selection: (folder / entry["file"], entry["sha256"]) for selection, entry in facts.pop("weights").items()}
        if _LAST not in files or any(path.parent != folder for path, _ in files.values()):
            raise KeyError("weights")
    except FileNotFoundError as error:
        raise LongTailError(
            f"No checkpoint at {folder}: config.json is missing. Train the stage first, or give the folder that holds it."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LongTailError(f"The checkpoint at {folder} is damaged: config.json or record.json cannot be read ({error}).") from error
    return Checkpoint({selection: _load_weights(path, sha256) for selection, (path, sha256) in files.items()}, facts, record)


def load_into(model: nn.Module, state: State, what: str) -> None:
    """Load a state dict into a model that must fit it exactly.

    Raises:
        LongTailError: naming the first tensor that is missing, unexpected or of another shape.
    """
    wanted = model.state_dict()
    for name, tensor in wanted.items():
        if name not in state:
            raise LongTailError(f"{what} lacks the weights '{name}'; it was made by another architecture or method.")
        if state[name].shape != tensor.shape:
            raise LongTailError(
                f"{what} holds '{name}' of shape {tuple(state[name].shape)}, the model here has {tuple(tensor.shape)}: "
                "number of classes, experts or widths differ."
            )
    if unexpected := sorted(set(state) - set(wanted)):
        raise LongTailError(f"{what} holds weights the model here does not have, such as '{unexpected[0]}'.")
    model.load_state_dict(state)


def _load_weights(path: Path, sha256: str) -> State:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LongTailError(f"Cannot read the weights {path}: {error.strerror}.") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise LongTailError(
            f"The weights {path} are truncated or altered: their SHA-256 is not the one in config.json. Train the stage again."
        )
    try:
        return load(content)
    except SafetensorError as error:
        raise LongTailError(f"The weights {path} are not a safetensors file ({error}).") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
