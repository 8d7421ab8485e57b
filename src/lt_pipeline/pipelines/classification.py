"""The template that every classifier's pipeline is an instance of.

.. code-block:: text

    source ─▶ manifest, images ─▶ split ─▶ train stage 1 ─▶ checkpoint ─▶ … ─▶ last stage's checkpoint
                                    └────────────────────────────────────────────▶ predict ─▶ evaluate ─▶ report
"""

from kedro.pipeline import Node, Pipeline

from lt_pipeline.methods import get_method
from lt_pipeline.pipelines.classification_nodes import evaluate_predictions, predict_test, previewed_figures, report_node, training_node
from lt_pipeline.pipelines.data import create_pipeline as data_pipeline


def classification(name: str) -> Pipeline:
    """Return data, training stages, prediction, evaluation and report of the method called ``name``.

    Every stage is a node with a checkpoint of its own; datasets are namespaced by the method.
    """
    method = get_method(name)
    nodes = []
    for stage, needs in method.stages.items():
        inputs = {
            "settings": f"params:{name}",
            "trainer": "params:trainer",
            "protocol": "params:protocol",
            "benchmark": "params:benchmark",
            "metadata": "params:metadata",
            "seed": "params:seed",
            "images": "images",
            "split": "split",
            "workspace": f"{stage}_workspace",
            **{need: f"{need}_checkpoint" for need in needs},
        }
        outputs = [f"{stage}_checkpoint", f"{stage}_history"]
        nodes.append(Node(training_node(name, stage), inputs, outputs, name=f"train_{stage}"))
    histories = [f"{stage}_history" for stage in method.stages]
    nodes += [
        Node(
            predict_test,
            [f"{method.final_stage}_checkpoint", "images", "split", "params:trainer", "params:benchmark", "params:metadata"],
            "predictions",
            name="predict",
        ),
        Node(evaluate_predictions, "predictions", ["metrics", "per_class"], name="evaluate"),
        Node(
            report_node(method.routed),
            ["predictions", "metrics", "per_class", f"{method.final_stage}_checkpoint", *histories],
            ["report", *(f"{figure}_figure" for figure in previewed_figures(method.routed))],
            name="report",
        ),
    ]
    template = Pipeline(
        nodes,
        namespace=name,
        inputs={"images", "split"},
        parameters={f"params:{block}" for block in (name, "trainer", "protocol", "benchmark", "metadata", "seed")},
    )
    return data_pipeline() + template
