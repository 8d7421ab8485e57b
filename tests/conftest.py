"""Fixtures shared by every test: where the shared data lie, one thread for torch, no telemetry."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# the suite draws the same examples every time; `pytest --hypothesis-profile=default` explores
settings.register_profile("suite", derandomize=True, deadline=None)
settings.load_profile("suite")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("LT_SHARED_DIR", ROOT.parent / "shared"))


def require_shared(folder: Path) -> Path:
    """Return ``folder``; where it is absent skip with a reason, or fail under ``LT_REQUIRE_SHARED=1``."""
    if folder.is_dir():
        return folder
    message = f"needs {folder}, which this machine does not have"
    if os.environ.get("LT_REQUIRE_SHARED") == "1":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real benchmark data in Parquet."""
    return require_shared(SHARED / "data")


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The root of the Kedro project."""
    return ROOT
