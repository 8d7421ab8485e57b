import pytest
import torch
from torch import nn

from lt_pipeline.models.activations import AGLU, APA
from lt_pipeline.models.adaptive import build_adaptive
from lt_pipeline.models.complexity import macs, parameter_count
from lt_pipeline.models.gates import CBAM, SqueezeExcitation
from lt_pipeline.models.registry import build_experts
from lt_pipeline.training.config import OptimizerConfig
from lt_pipeline.training.optim import build_optimizer


@pytest.mark.parametrize(
    ("backbone", "classes", "attention", "head", "parameters"),
    [
        ("resnet32", 100, "se", "cosine", 484_556),
        ("resnet32", 100, "cbam", "cosine", 486_786),
        ("resnet50", 8142, "se", "cosine", 42_728_130),
        ("resnext50", 1000, "se", "cosine", 27_573_186),
        ("resnet101", 1000, "se", "linear", 49_357_618),
        ("resnet152", 365, "se", "learned_cosine", 65_565_651),
        ("resnet50", 1000, "cbam", "linear", 28_119_994),
    ],
)
def test_parameter_totals_are_the_published_ones(backbone: str, classes: int, attention: str, head: str, parameters: int) -> None:
    with torch.device("meta"):
        assert parameter_count(build_adaptive(backbone, classes, attention, head=head, spatial_gate="apa")) == parameters


def test_every_hidden_site_and_every_gate_has_a_shape_of_its_own() -> None:
    model = build_adaptive("resnet32", 10)
    assert sum(isinstance(module, AGLU) for module in model.modules()) == 31
    assert sum(type(module) is APA for module in model.modules()) == 15
    assert all((module.kappa < 0).all() for module in model.modules() if type(module) is APA)


def test_the_shapes_alone_are_spared_from_decay() -> None:
    model = build_adaptive("resnet32", 10, "cbam", spatial_gate="apa")
    spared = next(
        group for group in build_optimizer(OptimizerConfig(), model.named_parameters()).param_groups if group["weight_decay"] == 0
    )
    shapes = {id(parameter) for module in model.modules() if isinstance(module, APA) for parameter in module.parameters()}
    assert {id(parameter) for parameter in spared["params"]} == shapes


def test_dropout_acts_before_adaptive_gates_in_training_alone() -> None:
    gate = SqueezeExcitation(8, 2, APA, dropout=0.5)
    x = torch.randn(4, 8, 3, 3)
    assert not torch.equal(gate(x), gate(x))
    assert torch.equal(gate.eval()(x), gate(x))
    plain = SqueezeExcitation(8, 2)
    assert torch.equal(plain(x), plain(x)) and isinstance(plain.norm, nn.Identity)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gates_keep_the_type_of_the_map(dtype: torch.dtype) -> None:
    x = torch.randn(2, 8, 4, 4).to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        for gate in (SqueezeExcitation(8, 2, APA), CBAM(8, 2, APA, APA)):
            assert gate(x).dtype == dtype


@pytest.mark.parametrize("attention", ["se", "cbam", "none"])
def test_networks_train_at_any_side_and_count_their_cost(attention: str) -> None:
    model = build_adaptive("resnet32", 5, attention, blocks=(1, 1, 1))
    model(torch.randn(3, 3, 15, 20))["logits"].sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert macs(model, (32, 32)) > macs(build_adaptive("resnet32", 5, "none", blocks=(1, 1, 1)), (32, 32)) - 1


def test_any_expert_method_can_take_the_activation() -> None:
    model = build_experts("resnet32", 5, 2, activation="aglu")
    assert sum(isinstance(module, AGLU) for module in model.modules()) == 11 + 2 * 20
