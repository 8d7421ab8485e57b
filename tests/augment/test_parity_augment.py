"""The shared fixtures of AutoAugment and Cutout against the official code's figures."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from lt_pipeline.augment.batched import cut
from lt_pipeline.augment.policies import CIFAR_POLICY, MAGNITUDES, OPERATIONS, apply_operation, apply_policy
from tests.conftest import SHARED, require_shared

FOLDER = Path(os.environ.get("LT_PARITY_DIR", SHARED / "parity"))

Params = dict[str, Any]
Tensors = dict[str, Tensor]


def _batch(given: Tensors) -> Tensor:
    return given["in.image"].permute(2, 0, 1)[None]


def _hwc(images: Tensor) -> Tensors:
    return {"out.image": images[0].permute(1, 2, 0)}


def _mdcs_op(params: Params, given: Tensors) -> Tensors:
    assert MAGNITUDES[params["op"]][params["magnitude_index"]] == params["magnitude"]
    return _hwc(apply_operation(_batch(given), params["op"], params["magnitude"], params["sign"]))


def _mdcs_apply(params: Params, given: Tensors) -> Tensors:
    applied = torch.tensor([[params["apply_first"], params["apply_second"]]])
    sign = torch.tensor([[params["sign_first"], params["sign_second"]]])
    return _hwc(apply_policy(_batch(given), torch.tensor([params["row"]]), applied, sign))


def _mdcs_policy(params: Params, given: Tensors) -> Tensors:
    rows = [CIFAR_POLICY[row] for row in params["rows"]]
    return {
        "out.op": torch.tensor([[params["ops"].index(step[0]) for step in row] for row in rows]),
        "out.prob": torch.tensor([[step[1] for step in row] for row in rows], dtype=torch.float64),
        "out.magnitude_index": torch.tensor([[step[2] for step in row] for row in rows]),
    }


def _mdcs_cutout(params: Params, given: Tensors) -> Tensors:
    return {"out.image": _cut_all(given["in.image"], params["centers"], params["length"])}


def _shike_op(params: Params, given: Tensors) -> Tensors:
    magnitude = MAGNITUDES[params["op"]][params["level"]]
    return _hwc(apply_operation(_batch(given), params["op"], magnitude, params["sign"], fill=params["fill"]))


def _shike_table(params: Params, given: Tensors) -> Tensors:
    names = params["op_order"]
    if params["part"] == "magnitudes":
        table = [list(MAGNITUDES[name]) for name in names]
    else:
        table = [[p1, names.index(op1), l1, p2, names.index(op2), l2] for (op1, p1, l1), (op2, p2, l2) in CIFAR_POLICY]
    return {"out.table": torch.tensor(table[slice(*params["rows"])], dtype=torch.float64)}


def _shike_cutout(params: Params, given: Tensors) -> Tensors:
    return {"out.image": _cut_all(given["in.image"], given["in.centers"].tolist(), params["length"])}


def _cut_all(image: Tensor, centres: list[list[int]], length: int) -> Tensor:
    for centre in centres:
        image = cut(image[None], torch.tensor([centre]), length)[0]
    return image


ADAPTERS = {
    "mdcs.autoaug_op": _mdcs_op,
    "mdcs.autoaug_apply": _mdcs_apply,
    "mdcs.autoaug_policy": _mdcs_policy,
    "mdcs.cutout": _mdcs_cutout,
    "shike.autoaugment_op": _shike_op,
    "shike.autoaugment_table": _shike_table,
    "shike.cutout": _shike_cutout,
}


def _component(path: Path) -> str:
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get("component", "")


# Other folders may hold files that cannot be read on purpose; those of augmentation are told by name first.
FILES = [
    path for path in sorted(FOLDER.rglob("*.safetensors")) if path.name.startswith(("autoaug", "cutout")) and _component(path) in ADAPTERS
]


@pytest.mark.shared
def test_every_component_has_a_fixture() -> None:
    require_shared(FOLDER)
    assert {_component(path) for path in FILES} == set(ADAPTERS)
    assert set(OPERATIONS) == set(MAGNITUDES)


@pytest.mark.shared
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_parity(path: Path) -> None:
    with safe_open(path, "pt") as file:
        facts = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    actual = ADAPTERS[facts["component"]](json.loads(facts["params"]), tensors)
    for name in (name for name in tensors if name.startswith("out.")):
        assert actual[name].shape == tensors[name].shape
        torch.testing.assert_close(
            actual[name].double(), tensors[name].double(), rtol=float(facts["rtol"]), atol=float(facts["atol"]), check_dtype=False
        )
