"""The way from a source to a long-tailed split."""

from kedro.pipeline import Node, Pipeline

from lt_pipeline.pipelines.data.nodes import cut_split, read_source, show_profile


def create_pipeline(**_: object) -> Pipeline:
    """Return ingest, split and class profile."""
    return Pipeline(
        [
            Node(read_source, "params:source", ["manifest", "images"], name="ingest"),
            Node(cut_split, ["manifest", "params:benchmark", "params:metadata", "params:seed"], "split", name="split"),
            Node(show_profile, ["split", "params:benchmark"], "class_profile", name="class_profile"),
        ]
    )
