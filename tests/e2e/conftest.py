"""A copy of the project in a temporary folder, driven through the command line as a user drives it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT

COPIED = ("conf", ".telemetry", "pyproject.toml", "dvc.yaml", ".dvcignore", ".gitignore")


@dataclass(frozen=True)
class Project:
    """A project folder and what to do in it."""

    folder: Path

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start ``kedro ...`` here."""
        return subprocess.Popen(
            [sys.executable, "-m", "kedro", *arguments],
            cwd=self.folder,
            env={**os.environ, "DO_NOT_TRACK": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def kedro(self, *arguments: str, code: int = 0) -> str:
        """Run ``kedro ...`` here, expect an exit status, return what it printed."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == code, output
        return output

    def model(self, method: str, stage: str, run: str = "seed0", place: str = "digits_lt/exp20") -> Path:
        """Return the checkpoint folder of a stage."""
        return self.folder / "data" / "06_models" / place / method / run / stage

    def reporting(self, method: str, run: str = "seed0", place: str = "digits_lt/exp20") -> Path:
        """Return the folder of reports of a run."""
        return self.folder / "data" / "08_reporting" / place / method / run


def make_project(folder: Path) -> Project:
    """Copy configuration and sources; Kedro wants both under one root."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    return Project(folder)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """One project that the tests of this folder share; each uses runs of its own name."""
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A class-folder tree of images of uneven sizes: coloured noise whose brightness tells the class."""
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for label, (name, count) in enumerate({"bright": 30, "dark": 12, "grey": 6}.items()):
        (root / name).mkdir()
        for number in range(count):
            side = int(generator.integers(40, 60))
            pixels = generator.integers(0, 60, (side, side + 7, 3)) + (180, 10, 90)[label]
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number}.png")
    yield root
