"""DeiT-LT: a CNN teacher trained here, then the distilled ViT."""

from kedro.pipeline import Pipeline

from lt_pipeline.pipelines.classification import classification


def create_pipeline(**_: object) -> Pipeline:
    """Return the pipeline from source to report."""
    return classification("deit_lt")
