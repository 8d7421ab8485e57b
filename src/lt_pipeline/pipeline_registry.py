"""The pipelines: one package each under ``pipelines/``; RIDE on the built-in data is the default."""

from kedro.framework.project import find_pipelines
from kedro.pipeline import Pipeline


def register_pipelines() -> dict[str, Pipeline]:
    """Return every pipeline by name; only the requested ones are imported."""
    pipelines: dict[str, Pipeline] = find_pipelines(raise_errors=True)
    if "ride" in pipelines:
        pipelines["__default__"] = pipelines["ride"]
    return pipelines
