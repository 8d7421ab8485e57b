"""What a user gets wrong is said in one sentence, with exit status 1 and nothing half-written."""

import shutil
from pathlib import Path

import pytest

from tests.e2e.conftest import Project, make_project


def refused(project: Project, *arguments: str) -> str:
    output = project.kedro("run", *arguments, code=1)
    assert "Traceback" not in output
    errors = [line for line in output.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    return errors[0]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--pipeline=rid"], "Unknown pipeline 'rid'.* Did you mean 'ride'"),
        (["--env=cifar100"], "Unknown environment 'cifar100'.* Did you mean 'cifar100_lt'"),
        (["--params=ride.experts.epoch=5"], "'ride.experts.epoch' is unknown. Did you mean 'ride.experts.epochs'"),
        (["--params=sead=5"], "'sead' is unknown. Did you mean 'seed'"),
        (["--params=ride.model.experts=1"], "at least 2.*baseline pipeline"),
        (["--params=trainer.precision=int8"], "'trainer.precision'.*'fp32', 'bf16' or 'fp16'.*not 'int8'"),
        (["--params=ride.experts.optimizer.lr=-1"], "'ride.experts.optimizer.lr'.*greater than 0.*not -1"),
        (["--params=trainer.device=cuda"], "trainer.device=cuda, but PyTorch sees no CUDA device"),
        (["--env=my_images"], "source.root is not set"),
        (["--env=cifar100_lt", "--params=source.root=nowhere"], "source.root nowhere is not a folder"),
        (["--pipeline=predict", "--params=predict.images=x,predict.checkpoint=none"], "No checkpoint at"),
    ],
)
def test_wrong_arguments(project: Project, arguments: list[str], sentence: str) -> None:
    import re

    import torch

    if "cuda" in sentence and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert re.search(sentence, refused(project, *arguments))


def test_a_broken_image_is_named_or_skipped(tmp_path: Path, image_folder: Path) -> None:
    project = make_project(tmp_path / "project")
    images = shutil.copytree(image_folder, tmp_path / "images")
    (images / "dark" / "broken.png").write_bytes(b"not an image")
    params = f"source.root={images},source.image_size=16"
    assert "broken.png" in refused(project, "--pipeline=data", "--env=my_images", f"--params={params}")
    assert not (project.folder / "data").exists()
    output = project.kedro("run", "--pipeline=data", "--env=my_images", f"--params={params},source.on_bad_image=skip")
    assert "1 of 49 images are broken and left out" in output


def test_a_checkpoint_of_another_split_is_refused(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project")
    project.kedro("run", "--pipeline=baseline", "--params=trainer.epochs_scale=0.05")
    place = project.model("baseline", "classifier", place="digits_lt/exp10")
    place.parent.mkdir(parents=True)
    shutil.copytree(project.model("baseline", "classifier"), place)
    project.kedro("run", "--pipeline=data", "--params=benchmark.imbalance_factor=10")
    sentence = refused(project, "--pipeline=baseline", "--from-nodes=baseline.predict", "--params=benchmark.imbalance_factor=10")
    assert "was trained on split" in sentence


def test_a_truncated_checkpoint_is_noticed(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project")
    project.kedro("run", "--pipeline=baseline", "--params=trainer.epochs_scale=0.05")
    weights = project.model("baseline", "classifier") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "truncated or altered" in refused(project, "--pipeline=baseline", "--from-nodes=baseline.predict")
