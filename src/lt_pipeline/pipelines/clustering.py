"""The template of methods that cluster images; labels, where there are any, meet the result in one node alone.

.. code-block:: text

    source ─▶ manifest, images ─▶ split ─▶ features ─▶ (neighbours) ─▶ train ─▶ checkpoint ─▶ assign ─▶ assignments ─▶ score ─▶ report
                                              └──────────────────────────────▶ k-means ─────────────────────────────────┘
"""

from kedro.pipeline import Node, Pipeline

from lt_pipeline.pipelines import clustering_nodes as nodes
from lt_pipeline.pipelines.data import create_pipeline as data_pipeline


def clustering(name: str, with_neighbours: bool) -> Pipeline:
    """Return data, features, training, assignment, scores and report of the clustering method called ``name``.

    Args:
        name: pipeline, namespace and parameter block.
        with_neighbours: whether training wants to know which images are similar.
    """
    settings, stage = f"params:{name}", nodes.STAGE
    common = {
        "settings": settings,
        "trainer": "params:trainer",
        "benchmark": "params:benchmark",
        "seed": "params:seed",
        "images": "images",
        "split": "split",
    }

    def node(function: object, inputs: dict[str, str] | list[str], outputs: str | list[str], title: str) -> Node:
        return Node(nodes.of_method(function, name), inputs, outputs, name=title)  # type: ignore[arg-type]

    similar = {"neighbours": "neighbours"} if with_neighbours else {}
    template = [
        node(nodes.extract_features, {**common, "cache": "features_cache"}, "features", "features"),
        *([node(nodes.find_neighbours, [settings, "features", "images", "split"], "neighbours", "neighbours")] if with_neighbours else []),
        node(
            nodes.train_clusters,
            {**common, "workspace": f"{stage}_workspace", "features": "features", **similar},
            [f"{stage}_checkpoint", f"{stage}_history"],
            f"train_{stage}",
        ),
        node(
            nodes.assign_images,
            [settings, f"{stage}_checkpoint", "images", "split", "params:trainer", "features"],
            "assignments",
            "assign",
        ),
        Node(nodes.cluster_by_k_means, [f"{stage}_checkpoint", "features", "split", "params:seed"], "k_means", name="k_means"),
        node(
            nodes.score_assignments,
            [settings, f"{stage}_checkpoint", "assignments", "k_means", "split", "params:benchmark"],
            ["metrics", "per_class", "per_cluster"],
            "score",
        ),
        Node(
            nodes.report_clusters,
            ["assignments", "metrics", "per_class", "per_cluster", f"{stage}_checkpoint", f"{stage}_history", "images"],
            ["report", *(f"{figure}_figure" for figure in nodes.FIGURES)],
            name="report",
        ),
    ]
    return data_pipeline() + Pipeline(
        template,
        namespace=name,
        inputs={"images", "split"},
        parameters={f"params:{block}" for block in (name, "trainer", "benchmark", "seed")},
    )
