"""One network with a choice of losses: cross-entropy, LDAM-DRW, balanced softmax, logit adjustment, focal."""

from kedro.pipeline import Pipeline

from lt_pipeline.pipelines.classification import classification


def create_pipeline(**_: object) -> Pipeline:
    """Return the pipeline from source to report."""
    return classification("baseline")
