"""Prediction on images without labels."""

from kedro.pipeline import Node, Pipeline

from lt_pipeline.pipelines.predict.nodes import predict_folder


def create_pipeline(**_: object) -> Pipeline:
    """Return the one-node pipeline; its checkpoint is ``predict.checkpoint`` of the parameters, or the environment's RIDE."""
    return Pipeline(
        [
            Node(
                predict_folder,
                ["predict_checkpoint", "params:predict", "params:source", "params:metadata", "params:trainer"],
                ["predicted_table", "predicted_csv"],
                name="predict_folder",
            )
        ]
    )
