"""Kedro-Viz, DVC and what listing costs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.e2e.conftest import Project, make_project


def test_importing_the_package_is_cheap() -> None:
    code = "import sys, lt_pipeline; assert not {'torch', 'pandas', 'kedro'} & set(sys.modules), 'heavy import'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_listing_pipelines_imports_no_torch() -> None:
    code = (
        "import sys; from kedro.framework.startup import bootstrap_project; from kedro.framework.project import pipelines; "
        f"bootstrap_project(__import__('pathlib').Path({str(ROOT)!r})); print(sorted(pipelines)); assert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "ride_distilled" in result.stdout


def test_training_on_small_images_imports_no_torchvision() -> None:
    code = (
        "import sys, lt_pipeline.training.loop, lt_pipeline.methods.ride.stages, lt_pipeline.methods.shike.stages, lt_pipeline.methods.mdcs.stages; "
        "assert 'torchvision' not in sys.modules, 'five seconds of imports'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_dataset_has_a_place_of_its_own() -> None:
    from kedro.inspection import get_project_snapshot

    snapshot = get_project_snapshot(ROOT, env="digits_lt")
    outputs = {output for pipeline in snapshot.pipelines for node in pipeline.nodes for output in node.outputs}
    paths = {name: snapshot.datasets[name].filepath for name in outputs if name in snapshot.datasets}
    assert outputs == set(paths), "an output is not in the catalog"
    assert len(set(paths.values())) == len(paths)


def test_dvc_outputs_are_the_catalogs() -> None:
    from kedro.inspection import get_project_snapshot

    snapshot = get_project_snapshot(ROOT, env="digits_lt")
    nodes = {pipeline.name: pipeline.nodes for pipeline in snapshot.pipelines}
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for stage, pipeline, namespaced in (("data", "data", False), ("method", "ride", True)):
        saved = {
            Path(snapshot.datasets[output].filepath).as_posix().split("/data/")[-1].removeprefix("data/")
            for node in nodes[pipeline]
            if not namespaced or node.namespace == pipeline
            for output in node.outputs
        }
        entries = [*stages[stage].get("outs", []), *stages[stage].get("metrics", []), *stages[stage].get("plots", [])]
        listed = {
            entry.replace("${item.benchmark}", "digits_lt")
            .replace("${item.method}", "ride")
            .replace("${item.seed}", "0")
            .removeprefix("data/")
            for entry in entries
        }
        assert saved == listed


@pytest.mark.slow
def test_dvc_repro_runs_and_then_does_nothing(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project")
    shutil.copytree(ROOT / ".dvc", project.folder / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
    recipe = project.folder / "conf/digits_lt/parameters/ride.yml"
    recipe.write_text(recipe.read_text().replace("epochs: 20", "epochs: 1").replace("epochs: 5", "epochs: 1"))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=project.folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    run("git", "init", "-q")
    run("dvc", "repro")
    lock = (project.folder / "dvc.lock").read_text()
    assert "06_models/digits_lt/exp20/ride/seed0/router" in lock
    assert "up to date" in run("dvc", "repro")
    assert (project.folder / "dvc.lock").read_text() == lock
    metrics = json.loads(run("dvc", "metrics", "show", "--json"))
    assert "accuracy/all" in json.dumps(metrics)


@pytest.mark.slow
def test_kedro_viz_previews_the_figures(project: Project) -> None:
    project.kedro("run", "--pipeline=ride", "--params=trainer.epochs_scale=0.15")
    output = project.kedro("viz", "build", "--include-previews")
    assert "Success" in output
    nodes = [json.loads(path.read_text()) for path in (project.folder / "build/api/nodes").iterdir()]
    previews = {
        Path(node["filepath"]).name for node in nodes if node.get("preview") and "filepath" in node and "/ride/" in node["filepath"]
    }
    assert {"tail.json", "learning.json", "reliability.json", "cost.json"} <= previews
