"""SP2OT: P2OT whose labels agree between neighbours."""

from kedro.pipeline import Pipeline

from lt_pipeline.pipelines.clustering import clustering


def create_pipeline(**_: object) -> Pipeline:
    """Return the pipeline from source to report."""
    return clustering("sp2ot", with_neighbours=True)
