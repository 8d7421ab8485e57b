"""RIDE with self-distillation: a teacher of more experts, the experts, the router."""

from kedro.pipeline import Pipeline

from lt_pipeline.pipelines.classification import classification


def create_pipeline(**_: object) -> Pipeline:
    """Return the pipeline from source to report."""
    return classification("ride_distilled")
