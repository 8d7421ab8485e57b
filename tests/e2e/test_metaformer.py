"""MetaFormer on scikit-learn's digits with metadata that are GENERATED HERE: a place and a number that tell something of the class, with gaps."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from lt_pipeline.training.checkpoint import load_checkpoint
from tests.e2e.conftest import Project

PLACE = "digits_generated/exp20"
SHORT = "trainer.epochs_scale=0.05,trainer.save_seconds=0"


@pytest.fixture(scope="module")
def generated(project: Project) -> Project:
    """The digits under another name, with a table of generated metadata beside them."""
    project.kedro("run", "--pipeline=data")
    manifest = pd.read_parquet(project.folder / "data/02_intermediate/digits_lt/manifest.parquet")
    generator, labels = np.random.default_rng(0), manifest["label"].to_numpy()
    table = pd.DataFrame(
        {
            "image": manifest["sample_id"],
            "latitude": 8.0 * labels - 36 + generator.normal(0, 6, len(labels)),
            "longitude": generator.uniform(-180, 180, len(labels)),
            "thickness": labels % 3 + generator.normal(0, 0.5, len(labels)),
        }
    )
    table.loc[generator.random(len(table)) < 0.2, ["latitude", "longitude"]] = np.nan
    table.to_csv(project.folder / "generated.csv", index=False)
    source, target = (project.folder / "conf" / name / "parameters" for name in ("digits_lt", "digits_generated"))
    shutil.copytree(source, target)
    data = yaml.safe_load((target / "data.yml").read_text())
    data["benchmark"]["name"] = "digits_generated"
    data["metadata"] = {
        "table": "generated.csv",
        "groups": [{"kind": "location"}, {"kind": "numeric", "name": "thickness", "columns": ["thickness"]}],
    }
    (target / "data.yml").write_text(yaml.safe_dump(data))
    return project


def test_kill_9_and_the_same_command_again_end_in_the_same_bits_with_metadata(generated: Project) -> None:
    command = ["run", "--pipeline=metaformer", "--env=digits_generated"]
    output = generated.kedro(*command, f"--params={SHORT},run=whole")
    assert "Warning" not in output
    process = generated.start(*command, f"--params={SHORT},run=cut")
    state = generated.model("metaformer", "classifier", "seed0-cut", PLACE).with_name("classifier.training") / "state.safetensors"
    _wait_for(state)
    time.sleep(0.5)
    process.kill()
    process.wait()
    assert "continues at step" in generated.kedro(*command, f"--params={SHORT},run=cut")
    whole, cut = (load_checkpoint(generated.model("metaformer", "classifier", run, PLACE)) for run in ("seed0-whole", "seed0-cut"))
    assert whole.digest == cut.digest and whole.record["history"] == cut.record["history"]
    assert [group["width"] for group in whole.facts["data"]["metadata"]] == [3, 1]
    metrics = json.loads((generated.reporting("metaformer", "seed0-whole", PLACE) / "metrics.json").read_text())
    parts = ("none", "only location", "only thickness")
    assert {f"metadata/{part}/accuracy/all" for part in parts} <= metrics.keys()
    page = (generated.reporting("metaformer", "seed0-whole", PLACE) / "report.html").read_text()
    assert "only location" in page


def test_metadata_joins_experts_too(generated: Project) -> None:
    params = "trainer.epochs_scale=0.04,run=experts,metaformer.model.kind=experts,metaformer.loss.kind=balanced_softmax"
    generated.kedro("run", "--pipeline=metaformer", "--env=digits_generated", f"--params={params}")
    metrics = json.loads((generated.reporting("metaformer", "seed0-experts", PLACE) / "metrics.json").read_text())
    assert metrics["backbone"] == "resnet32"
    assert {"metadata/none/accuracy/all", "expert_2/accuracy/all"} <= metrics.keys()


def _wait_for(path: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} was not written"
        time.sleep(0.05)
