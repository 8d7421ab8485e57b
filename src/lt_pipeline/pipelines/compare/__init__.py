"""All metrics in; a leaderboard over seeds out, with the published figures beside ours."""

from kedro.pipeline import Node, Pipeline

from lt_pipeline.pipelines.compare.nodes import rank_runs


def create_pipeline(**_: object) -> Pipeline:
    """Return the one-node pipeline."""
    return Pipeline([Node(rank_runs, "all_metrics", "leaderboard", name="leaderboard")])
