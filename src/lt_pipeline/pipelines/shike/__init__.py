"""SHIKE: representation with knowledge transfer, then re-balanced classifiers."""

from kedro.pipeline import Pipeline

from lt_pipeline.pipelines.classification import classification


def create_pipeline(**_: object) -> Pipeline:
    """Return the pipeline from source to report."""
    return classification("shike")
