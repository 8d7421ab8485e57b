import json
from pathlib import Path

import pytest
import torch
from torch import nn

from lt_pipeline.errors import LongTailError
from lt_pipeline.files import atomic_file, atomic_folder, recover_folder
from lt_pipeline.training.checkpoint import Checkpoint, load_checkpoint, load_into, save_checkpoint, state_digest
from lt_pipeline.training.state import TrainingState, Workspace


def make_checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    state = nn.Linear(3, 2).state_dict() | {"steps": torch.tensor(7), "half": torch.randn(2, 2).bfloat16()}
    return Checkpoint(
        {"last": state, "validation": {k: v * 2 for k, v in state.items()}}, {"method": "x", "seed": 0}, {"history": [{"epoch": 1.0}]}
    )


def test_round_trip_keeps_bits_and_facts(tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    save_checkpoint(checkpoint, tmp_path / "experts")
    loaded = load_checkpoint(tmp_path / "experts")
    assert loaded.digest == checkpoint.digest
    assert loaded.facts == checkpoint.facts
    assert loaded.record == checkpoint.record
    assert torch.equal(loaded.selections["validation"]["weight"], checkpoint.state["weight"] * 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["experts"]


def test_digest_ignores_memory_layout_but_not_values() -> None:
    weight = torch.randn(4, 3, 2, 2)
    same = {"w": weight.to(memory_format=torch.channels_last)}
    assert state_digest({"w": weight}) == state_digest(same)
    assert state_digest({"w": weight}) != state_digest({"w": weight + 1})


@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_a_damaged_weight_file_is_noticed(tmp_path: Path, damage: str) -> None:
    save_checkpoint(make_checkpoint(), tmp_path / "c")
    path = tmp_path / "c" / "model.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-3] ^= 1
    path.write_bytes(content if damage == "flip" else content[:-5])
    with pytest.raises(LongTailError, match="truncated or altered"):
        load_checkpoint(tmp_path / "c")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weights": {"last": {"file": "../../x", "sha256": ""}}}'])
def test_a_damaged_config_is_noticed(tmp_path: Path, text: str) -> None:
    save_checkpoint(make_checkpoint(), tmp_path / "c")
    (tmp_path / "c" / "config.json").write_text(text)
    with pytest.raises(LongTailError, match="damaged"):
        load_checkpoint(tmp_path / "c")


def test_a_missing_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(LongTailError, match="Train the stage first"):
        load_checkpoint(tmp_path / "nothing")


def test_weights_that_do_not_fit_are_named() -> None:
    state = nn.Linear(3, 2).state_dict()
    with pytest.raises(LongTailError, match=r"'weight' of shape \(2, 3\), the model here has \(5, 3\)"):
        load_into(nn.Linear(3, 5), state, "The checkpoint")
    with pytest.raises(LongTailError, match="lacks the weights 'bias'"):
        load_into(nn.Linear(3, 2), {"weight": state["weight"]}, "The checkpoint")
    with pytest.raises(LongTailError, match="such as 'extra'"):
        load_into(nn.Linear(3, 2), state | {"extra": torch.ones(1)}, "The checkpoint")


def test_a_failed_write_leaves_the_former_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("good")
    with pytest.raises(LongTailError, match="No space left"), atomic_file(path) as part:
        part.write_text("half")
        raise OSError(28, "No space left on device")
    assert path.read_text() == "good"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_folder_leaves_the_former_one(tmp_path: Path) -> None:
    save_checkpoint(make_checkpoint(), tmp_path / "c")
    with pytest.raises(LongTailError, match="Cannot write"), atomic_folder(tmp_path / "c") as part:
        (part / "config.json").write_text("half")
        raise OSError(30, "Read-only file system")
    assert load_checkpoint(tmp_path / "c").digest == make_checkpoint().digest


def test_a_death_between_the_renames_is_recovered(tmp_path: Path) -> None:
    save_checkpoint(make_checkpoint(), tmp_path / "c")
    (tmp_path / "c").rename(tmp_path / ".c.former")
    assert load_checkpoint(tmp_path / "c").digest == make_checkpoint().digest
    recover_folder(tmp_path / "c")


def test_a_path_that_cannot_be_a_folder_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LongTailError, match="Cannot write"):
        save_checkpoint(make_checkpoint(), tmp_path / "file" / "c")


def test_training_state_round_trip_and_damage(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "experts")
    assert workspace.load() is None
    workspace.save(TrainingState({"model/w": torch.arange(3)}, {"step": 4, "text": "ä"}))
    state = workspace.load()
    assert state is not None
    assert state.facts == {"step": 4, "text": "ä"}
    assert torch.equal(state.part("model")["w"], torch.arange(3))
    path = next(tmp_path.rglob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(LongTailError, match=r"trainer\.resume=never"):
        workspace.load()
    workspace.clear()
    assert workspace.load() is None


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    first = Workspace(tmp_path / "experts").lock()
    with pytest.raises(LongTailError, match="Another run is training"):
        Workspace(tmp_path / "experts").lock()
    first.release()
    Workspace(tmp_path / "experts").lock().release()


def test_config_json_is_for_people(tmp_path: Path) -> None:
    save_checkpoint(make_checkpoint(), tmp_path / "c")
    facts = json.loads((tmp_path / "c" / "config.json").read_text())
    assert facts["method"] == "x"
    assert len(facts["weights"]["last"]["sha256"]) == 64
