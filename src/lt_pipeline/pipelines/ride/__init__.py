"""RIDE: experts, then the router; RIDE on the built-in data is the project's default pipeline."""

from kedro.pipeline import Pipeline

from lt_pipeline.pipelines.classification import classification


def create_pipeline(**_: object) -> Pipeline:
    """Return the pipeline from source to report."""
    return classification("ride")
