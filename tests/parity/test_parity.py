"""Every shared fixture of an implemented method, against the official code's figures.

The fixtures are found under ``LT_PARITY_DIR`` (by default ``parity`` in the shared folder), at any depth.
"""

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import SHARED, require_shared
from tests.parity.adapters import METHODS
from tests.parity.dispatch import adapter_for, check, component_of, read_case

FOLDER = Path(os.environ.get("LT_PARITY_DIR", SHARED / "parity"))


def _sort(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Return the files to run (implemented methods, and whatever cannot be read) and the number of files of each method not there yet."""
    ours: list[Path] = []
    waiting: Counter[str] = Counter()
    for path in sorted(folder.rglob("*.safetensors")):
        component = component_of(path)
        method = component.split(".")[0] if component else None
        if method is None or method in METHODS:
            ours.append(path)
        else:
            waiting[method] += 1
    return ours, waiting


FILES, WAITING = _sort(FOLDER)


@pytest.mark.shared
def test_there_are_fixtures() -> None:
    require_shared(FOLDER)
    assert FILES or WAITING, f"{FOLDER} holds no safetensors file"


@pytest.mark.shared
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER).with_suffix("")))
def test_parity(path: Path) -> None:
    case = read_case(path)
    method = METHODS[case.component.split(".")[0]]
    if case.component in method.NOT_IMPLEMENTED:
        pytest.skip(f"{case.component} is not implemented: {method.NOT_IMPLEMENTED[case.component]}")
    check(case, adapter_for(case.component, method.COMPONENTS)(case.params, case.given))


@pytest.mark.shared
@pytest.mark.parametrize("method", sorted(WAITING))
def test_methods_to_come(method: str) -> None:
    pytest.skip(f"method {method} is not implemented yet ({WAITING[method]} fixtures)")
