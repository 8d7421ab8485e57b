"""The parameters of views."""

import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from lt_pipeline.augment.config import PadCropView, ResizedCropView, View


def test_kind_tells_the_views_apart() -> None:
    read = TypeAdapter(View).validate_python
    assert read({"kind": "pad_crop", "rotation": 15}) == PadCropView(rotation=15.0)
    assert read({"kind": "resized_crop", "color_jitter": [0.4, 0.4, 0.4, 0]}) == ResizedCropView(color_jitter=(0.4, 0.4, 0.4, 0.0))


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "pad_crop", "padding": -1},
        {"kind": "pad_crop", "flip": 1.5},
        {"kind": "pad_crop", "rotation": 181},
        {"kind": "pad_crop", "policy": "randaugment"},
        {"kind": "pad_crop", "size": 32},
        {"kind": "resized_crop", "size": 224, "test_resize": 200},
        {"kind": "resized_crop", "scale": [0.5, 0.1]},
        {"kind": "resized_crop", "ratio": [0, 1]},
        {"kind": "resized_crop", "color_jitter": [0, 0, 0, 0.6]},
        {"kind": "resized_crop", "erasing": 1.1},
        {"kind": "mosaic"},
    ],
)
def test_wrong_parameters_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(View).validate_python(wrong)


@pytest.mark.parametrize(
    "policy", ["none", "autoaugment_imagenet", "randaugment", "rand-n2-m10-mstd0.5", "rand-m9-mstd101-inc1", "rand-n3-p0.7-mmax20-tweights"]
)
def test_policies_of_decoded_images(policy: str) -> None:
    assert ResizedCropView(policy=policy).policy == policy


@pytest.mark.parametrize(
    "policy", ["", "autoaugment", "rand", "rand-", "rand-q2", "rand-m9.5", "rand-m", "rand-n2-", "rand-n2,m10", "rand-p2", "Rand-n2"]
)
def test_an_unknown_policy_is_refused_with_what_there_is(policy: str) -> None:
    with pytest.raises(ValidationError, match=r"autoaugment_imagenet, randaugment and timm's.*rand-n2-m10-mstd0\.5"):
        ResizedCropView(policy=policy)


def test_parameters_do_not_import_torch() -> None:
    code = "import sys, lt_pipeline.augment.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
