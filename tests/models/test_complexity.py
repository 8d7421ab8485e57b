import pytest
import torch

from lt_pipeline.models.complexity import macs, macs_per_depth
from lt_pipeline.models.registry import build_experts, build_router
from lt_pipeline.models.router import RoutedExperts


@pytest.mark.parametrize(("experts", "reduced", "gmacs"), [(1, False, 0.0689), (2, True, 0.0749), (3, True, 0.1004), (6, True, 0.1767)])
def test_published_figures(experts: int, reduced: bool, gmacs: float) -> None:
    assert macs(build_experts("resnet32", 100, experts, reduced), (32, 32)) / 1e9 == pytest.approx(gmacs, abs=5e-5)


def test_each_depth_costs_what_a_model_of_that_depth_costs() -> None:
    depths = macs_per_depth(build_experts("resnet32", 100, 3), (32, 32))
    assert depths.tolist() == [macs(build_experts("resnet32", 100, k), (32, 32)) for k in (1, 2, 3)]


def test_a_router_costs_nothing_and_nothing_changes() -> None:
    experts = build_experts("resnet32", 10, 2)
    before = {name: tensor.clone() for name, tensor in experts.state_dict().items()}
    experts.stage1.eval()
    depths = macs_per_depth(experts, (8, 8))
    assert experts.training and not experts.stage1.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in experts.state_dict().items())
    assert not experts.stem.conv._forward_hooks
    assert macs_per_depth(RoutedExperts(experts, build_router("resnet32", experts)), (8, 8)).tolist() == depths.tolist()
