"""Every shared fixture against the official code's figures.

The fixtures are found under ``LT_PARITY_DIR`` (by default ``parity`` in the shared folder), at any depth.
"""

import os
from pathlib import Path

import pytest

from tests.conftest import SHARED, require_shared
from tests.parity.adapters import METHODS
from tests.parity.dispatch import adapter_for, check, read_case

FOLDER = Path(os.environ.get("LT_PARITY_DIR", SHARED / "parity"))


FILES = sorted(FOLDER.rglob("*.safetensors"))


@pytest.mark.shared
def test_there_are_fixtures() -> None:
    require_shared(FOLDER)
    assert FILES, f"{FOLDER} holds no safetensors file"


@pytest.mark.shared
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER).with_suffix("")))
def test_parity(path: Path) -> None:
    case = read_case(path)
    name = case.component.split(".")[0]
    assert name in METHODS, f"{path} is of the method {name}; there are {', '.join(METHODS)}"
    method = METHODS[name]
    if case.component in method.NOT_IMPLEMENTED:
        pytest.skip(f"{case.component} is not implemented: {method.NOT_IMPLEMENTED[case.component]}")
    check(case, adapter_for(case.component, method.COMPONENTS)(case.params, case.given))
