"""Reads parity fixtures, runs the adapter of their component and compares what comes out."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

Adapter = Callable[[dict[str, Any], dict[str, Tensor]], Mapping[str, Any]]


@dataclass(frozen=True)
class Case:
    """One fixture: ``given`` holds its ``in.*`` and ``state.*`` tensors, ``expected`` its ``out.*`` tensors without the prefix."""

    component: str
    params: dict[str, Any]
    rtol: float
    atol: float
    given: dict[str, Tensor]
    expected: dict[str, Tensor]


def component_of(path: Path) -> str | None:
    """Return the component named in a file's metadata, None if the file cannot be read or names none."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("component")
    except (SafetensorError, OSError):
        return None


def read_case(path: Path) -> Case:
    """Read a fixture.

    Raises:
        AssertionError: if the file is damaged or not a fixture.
    """
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise AssertionError(f"{path.name} is damaged: {error}") from error
    missing = {"component", "params", "rtol", "atol"} - facts.keys()
    assert not missing, f"{path.name} lacks the metadata {sorted(missing)}"
    expected = {name.removeprefix("out."): tensor for name, tensor in tensors.items() if name.startswith("out.")}
    assert expected, f"{path.name} expects nothing"
    given = {name: tensor.float() if tensor.dtype == torch.float16 else tensor for name, tensor in tensors.items() if name[:4] != "out."}
    return Case(facts["component"], json.loads(facts["params"]), float(facts["rtol"]), float(facts["atol"]), given, expected)


def adapter_for(component: str, components: Mapping[str, Adapter]) -> Adapter:
    """Return the function that computes ``component``.

    Raises:
        AssertionError: if the method has no such component.
    """
    assert component in components, f"no adapter for {component}; there are {', '.join(sorted(components))}"
    return components[component]


def check(case: Case, produced: Mapping[str, Any]) -> None:
    """Compare every expected tensor: same shape, ``|a - b| <= atol + rtol |b|``, NaN equal to NaN, integers exact.

    Raises:
        AssertionError: naming the tensors that are missing or differ, and by how much.
    """
    missing = case.expected.keys() - produced.keys()
    assert not missing, f"{case.component} does not produce {sorted(missing)}"
    problems = [
        f"{name}: {problem}"
        for name, expected in case.expected.items()
        if (problem := difference(torch.as_tensor(produced[name]).detach(), expected, case.rtol, case.atol))
    ]
    assert not problems, f"{case.component} {case.params}\n" + "\n".join(problems)


def difference(actual: Tensor, expected: Tensor, rtol: float, atol: float) -> str:
    """Return what is wrong with ``actual``, or an empty string."""
    if actual.shape != expected.shape:
        return f"shape {tuple(actual.shape)} instead of {tuple(expected.shape)}"
    if not expected.is_floating_point():
        if actual.is_floating_point():
            return f"{actual.dtype} instead of an integer"
        rtol = atol = 0.0
    a, b = actual.to(torch.float64), expected.to(torch.float64)
    right = (a == b) | (a.isnan() & b.isnan()) | ((a - b).abs() <= atol + rtol * b.abs())
    if right.all():
        return ""
    return f"{int((~right).sum())} of {right.numel()} values differ, by up to {(a - b).abs()[~right].max().item():.3g}"
