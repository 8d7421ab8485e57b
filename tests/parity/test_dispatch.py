"""The dispatcher itself, on fixtures made here."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.parity import test_parity as parity
from tests.parity.dispatch import Case, check, difference, read_case

COUNTS = [8, 1]


def fixture(path: Path, component: str = "ltcore.ldam_margins", out: torch.Tensor | None = None, **metadata: str) -> Path:
    out = torch.tensor([0.5 * 8**-0.25, 0.5]) if out is None else out
    facts = {"component": component, "params": json.dumps({"counts": COUNTS, "max_m": 0.5}), "rtol": "1e-4", "atol": "1e-5", "note": ""}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"out.margins": out}, path, metadata=facts | metadata)
    return path


def test_a_right_figure_passes_and_a_wrong_one_fails(tmp_path: Path) -> None:
    parity.test_parity(fixture(tmp_path / "right.safetensors"))
    with pytest.raises(AssertionError, match=r"1 of 2 values differ, by up to 0\.1"):
        parity.test_parity(fixture(tmp_path / "wrong.safetensors", out=torch.tensor([0.5 * 8**-0.25, 0.6])))


def test_an_unknown_component_of_an_implemented_method_fails(tmp_path: Path) -> None:
    path = fixture(tmp_path / "new.safetensors", "ltcore.something_new")
    assert parity._sort(tmp_path)[0] == [path]
    with pytest.raises(AssertionError, match=r"no adapter for ltcore\.something_new"):
        parity.test_parity(path)


def test_a_damaged_file_fails(tmp_path: Path) -> None:
    path = fixture(tmp_path / "cut.safetensors")
    path.write_bytes(path.read_bytes()[:-3])
    assert parity._sort(tmp_path)[0] == [path]
    with pytest.raises(AssertionError, match="damaged"):
        parity.test_parity(path)


def test_a_file_without_metadata_fails(tmp_path: Path) -> None:
    path = tmp_path / "bare.safetensors"
    save_file({"out.margins": torch.zeros(2)}, path)
    assert parity._sort(tmp_path)[0] == [path]
    with pytest.raises(AssertionError, match="lacks the metadata"):
        parity.test_parity(path)


def test_an_output_that_is_not_produced_fails(tmp_path: Path) -> None:
    case = read_case(fixture(tmp_path / "case.safetensors"))
    with pytest.raises(AssertionError, match=r"does not produce \['margins'\]"):
        check(case, {"something": torch.zeros(2)})


def test_an_optional_component_is_skipped_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(pytest.skip.Exception, match="Swin"):
        parity.test_parity(fixture(tmp_path / "swin.safetensors", "ride.swin_param_count"))


def test_files_are_found_at_any_depth_and_other_methods_are_counted_by_name(tmp_path: Path) -> None:
    ours = [fixture(tmp_path / "a.safetensors"), fixture(tmp_path / "deep" / "er" / "b.safetensors")]
    fixture(tmp_path / "c.safetensors", "unheard_of.x")
    fixture(tmp_path / "deep" / "d.safetensors", "unheard_of.y")
    assert parity._sort(tmp_path) == (ours, {"unheard_of": 2})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(parity.WAITING, "unheard_of", 2)
        with pytest.raises(pytest.skip.Exception, match=r"method unheard_of is not implemented yet \(2 fixtures\)"):
            parity.test_methods_to_come("unheard_of")


def test_a_missing_folder_skips_or_fails_if_required(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "FOLDER", tmp_path / "nowhere")
    monkeypatch.delenv("LT_REQUIRE_SHARED", raising=False)
    with pytest.raises(pytest.skip.Exception, match="nowhere"):
        parity.test_there_are_fixtures()
    monkeypatch.setenv("LT_REQUIRE_SHARED", "1")
    with pytest.raises(pytest.fail.Exception, match="nowhere"):
        parity.test_there_are_fixtures()


@pytest.mark.parametrize(
    ("actual", "expected", "message"),
    [
        (torch.tensor([1.0, float("nan")]), torch.tensor([1.0, float("nan")]), ""),
        (torch.tensor([float("inf")]), torch.tensor([float("inf")]), ""),
        (torch.tensor([1.0]), torch.tensor([float("nan")]), "differ"),
        (torch.tensor(1.009), torch.tensor(1.0), ""),
        (torch.tensor(1.02), torch.tensor(1.0), "differ"),
        (torch.tensor([101]), torch.tensor([100]), "differ"),
        (torch.tensor([100.0]), torch.tensor([100]), "integer"),
        (torch.tensor([True]), torch.tensor([1]), ""),
        (torch.zeros(1, 2), torch.zeros(2), "shape"),
        (torch.zeros(1), torch.zeros(()), "shape"),
    ],
)
def test_comparison(actual: torch.Tensor, expected: torch.Tensor, message: str) -> None:
    problem = difference(actual, expected, rtol=0.01, atol=0)
    assert (message in problem) if message else not problem


def test_half_precision_states_come_as_float32(tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    facts = {"component": "ltcore.x", "params": "{}", "rtol": "0", "atol": "0"}
    save_file({"state.weight": torch.ones(2).half(), "out.x": torch.ones(1)}, path, metadata=facts)
    case = read_case(path)
    assert isinstance(case, Case) and case.given["state.weight"].dtype == torch.float32
