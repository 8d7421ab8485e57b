"""P2OT: clustering by progressive partial optimal transport."""

from kedro.pipeline import Pipeline

from lt_pipeline.pipelines.clustering import clustering


def create_pipeline(**_: object) -> Pipeline:
    """Return the pipeline from source to report."""
    return clustering("p2ot", with_neighbours=False)
