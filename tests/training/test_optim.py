import pytest
import torch
from torch import nn

from lt_pipeline.errors import LongTailError
from lt_pipeline.models.depth_fusion import build_depth_fused
from lt_pipeline.training.config import OptimizerConfig
from lt_pipeline.training.optim import build_optimizer


class Shaped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.classifier = nn.Linear(2, 2), nn.Linear(2, 2)
        self.lambda_, self.kappa = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))


def groups(config: dict[str, object], model: nn.Module | None = None) -> list[dict[str, object]]:
    return build_optimizer(OptimizerConfig.model_validate(config), (model or Shaped()).named_parameters()).param_groups


def test_the_shapes_of_activations_do_not_decay_and_nothing_else_is_spared() -> None:
    shapes, rest = groups({"weight_decay": 0.1})
    assert (len(shapes["params"]), shapes["weight_decay"]) == (2, 0.0)
    assert (len(rest["params"]), rest["weight_decay"]) == (4, 0.1)
    assert len(groups({}, build_depth_fused("resnet32", 5, 2, blocks=(1, 1, 1)))) == 1


def test_groups_change_rate_and_decay_of_what_they_match() -> None:
    heads, shapes, rest = groups({"lr": 0.01, "weight_decay": 0.1, "groups": [{"match": "classifier", "lr_factor": 10.0}]})
    assert (heads["lr"], heads["weight_decay"], heads["lr_factor"]) == (pytest.approx(0.1), 0.1, 10.0)
    assert rest["lr"] == 0.01 and shapes["lr_factor"] == 1


@pytest.mark.parametrize(
    ("groups_", "message"), [([{"match": "clasifier"}], "matches no trained parameter"), ([{"match": "("}], "regular")]
)
def test_a_group_that_matches_nothing_is_refused(groups_: list[dict[str, str]], message: str) -> None:
    with pytest.raises((LongTailError, ValueError), match=message):
        groups({"groups": groups_})


def test_a_frozen_network_cannot_be_trained() -> None:
    with pytest.raises(LongTailError, match="frozen"):
        groups({}, Shaped().requires_grad_(False))


def test_recipes_of_transformers_spare_vectors_from_decay() -> None:
    head, shapes, vectors, rest = groups(
        {"weight_decay": 0.1, "decay_vectors": False, "groups": [{"match": "classifier", "lr_factor": 2.0}]}
    )
    assert [len(group["params"]) for group in (head, shapes, vectors, rest)] == [2, 2, 1, 1]
    assert [group["weight_decay"] for group in (head, shapes, vectors, rest)] == [0.1, 0.0, 0.0, 0.1]


@pytest.mark.parametrize(("kind", "expected"), [("sgd", "SGD"), ("adam", "Adam"), ("adamw", "AdamW")])
def test_optimizers_by_name(kind: str, expected: str) -> None:
    assert type(build_optimizer(OptimizerConfig(kind=kind), Shaped().named_parameters())).__name__ == expected  # type: ignore[arg-type]
