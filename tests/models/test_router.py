from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lt_pipeline.errors import LongTailError
from lt_pipeline.models.complexity import parameter_count
from lt_pipeline.models.registry import build_experts, build_router
from lt_pipeline.models.resnet_cifar import resnet_cifar
from lt_pipeline.models.router import RoutedExperts, Router, route, routing_loss, routing_targets


def routed(experts: int = 3, classes: int = 6) -> RoutedExperts:
    torch.manual_seed(0)
    model = resnet_cifar(classes, experts, blocks=(1, 1, 1), widths=(16, 24, 48))
    return RoutedExperts(model, Router(experts, 48, classes, top_choices=4))


def plain_targets(expert_logits: Tensor, target: Tensor) -> Tensor:
    experts, batch = expert_logits.shape[:2]
    result = torch.zeros(batch, experts - 1, dtype=torch.bool)
    for row in range(batch):
        right = [expert_logits[: depth + 1, row].mean(0).argmax().item() == target[row].item() for depth in range(experts)]
        for i in range(experts - 1):
            result[row, i] = not right[i] and any(right[i + 1 :])
    return result


@settings(max_examples=30, deadline=None)
@given(experts=st.integers(2, 5), seed=st.integers(0, 10_000))
def test_targets_match_a_plain_loop(experts: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(experts, 8, 3, generator=generator)
    target = torch.randint(3, (8,), generator=generator)
    assert torch.equal(routing_targets(logits, target), plain_targets(logits, target))


def plain_route(expert_logits: Tensor, scores: Tensor, threshold: float) -> tuple[Tensor, list[int]]:
    logits, used = [], []
    for row, row_scores in enumerate(scores.double()):
        depth = 1
        while depth < len(expert_logits) and row_scores[depth - 1].sigmoid() > threshold:
            depth += 1
        logits.append(expert_logits[:depth, row].mean(0))
        used.append(depth)
    return torch.stack(logits), used


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_routed_inference_equals_the_masked_full_computation(threshold: float) -> None:
    model, images = routed().eval(), torch.randn(9, 3, 8, 8)
    with torch.no_grad():
        full = model(images)
        # spread the scores around the middle, so that rows leave at every depth
        model.router.out.bias.sub_(full["router_scores"].median())
        full = model(images)
    sparse = model.predict(images, threshold)
    logits, used = plain_route(full["expert_logits"], full["router_scores"], threshold)
    assert sparse["experts_used"].tolist() == used
    torch.testing.assert_close(sparse["logits"], logits, rtol=1e-4, atol=1e-4)
    if threshold in (0.0, 1.0):
        assert set(used) == ({3} if threshold == 0 else {1})
    if threshold == 0.5:
        assert len(set(used)) > 1


def test_evaluation_routes_stored_scores_in_the_same_way() -> None:
    from lt_pipeline.evaluation import routing

    torch.manual_seed(1)
    router, logits, features = Router(3, 4, 5), torch.randn(3, 40, 5), torch.randn(3, 40, 4)
    with torch.no_grad():
        scores = router(logits, features)
        live = route(lambda index, rows: (logits[index, rows], features[index, rows]), router, torch.arange(40), 0.4)
    stored, used = routing.route(logits.numpy(), scores.numpy(), 0.4)
    assert used.tolist() == live["experts_used"].tolist()
    torch.testing.assert_close(torch.from_numpy(stored), live["logits"])


def test_experts_run_only_on_rows_that_want_them() -> None:
    router, seen = Router(3, 4, 5, top_choices=2), []
    logits, features = torch.randn(3, 6, 5), torch.randn(3, 6, 4).abs()

    def expert(index: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(rows.tolist())
        return logits[index, rows], features[index, rows]

    with torch.no_grad():
        router.out.bias.sub_(router(logits, features)[:, 0].sort().values[2:4].mean())
        result = route(expert, router, torch.arange(6))
    asked = [set(rows) for rows in seen]
    assert len(asked[0]) == 6 and len(asked[1]) == 3
    assert all(later <= earlier for earlier, later in pairwise(asked))
    assert all(rows == sorted(rows) for rows in seen)
    assert sum(map(len, seen)) == int(result["experts_used"].sum())


def test_when_all_rows_stop_no_further_expert_runs() -> None:
    calls = []

    def expert(index: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(index)
        return torch.randn(len(rows), 5), torch.randn(len(rows), 4)

    route(expert, Router(4, 4, 5), torch.arange(6), threshold=1.0)
    assert calls == [0]


@pytest.mark.parametrize("threshold", [-0.1, 1.1])
def test_a_threshold_outside_its_range_is_refused(threshold: float) -> None:
    with pytest.raises(LongTailError, match=r"0 .* to 1"):
        routed().predict(torch.randn(2, 3, 8, 8), threshold)


def test_zero_features_give_finite_scores_and_gradients() -> None:
    router = Router(3, 4, 5)
    features = torch.zeros(3, 2, 4, requires_grad=True)
    scores = router(torch.randn(3, 2, 5), features)
    scores.sum().backward()
    assert scores.isfinite().all() and features.grad is not None and features.grad.isfinite().all()


def test_more_choices_than_classes_are_cut() -> None:
    router = Router(2, 4, 5, top_choices=30)
    assert router.top_choices == 5
    assert router(torch.randn(2, 3, 5), torch.rand(2, 3, 4)).shape == (3, 1)


def test_scores_depend_on_the_sorted_running_mean_only_up_to_class_order() -> None:
    router, logits, features = Router(3, 4, 5, top_choices=3), torch.randn(3, 6, 5), torch.rand(3, 6, 4)
    torch.testing.assert_close(router(logits, features), router(logits[:, :, torch.randperm(5)], features))
    torch.testing.assert_close(router(logits, 9 * features), router(logits, features))


def test_state_names() -> None:
    assert set(Router(3, 4, 5).state_dict()) == {f"{name}.{part}" for name in ("hidden0", "hidden1", "out") for part in ("weight", "bias")}
    assert {"out0.weight", "out1.bias"} <= set(Router(3, 4, 5, shared_output=False).state_dict())


def test_separate_outputs_differ_between_decisions() -> None:
    torch.manual_seed(0)
    router = Router(3, 4, 5, shared_output=False)
    logits, features = torch.randn(1, 6, 5).repeat(3, 1, 1), torch.rand(1, 6, 4).repeat(3, 1, 1)
    router.hidden1.load_state_dict(router.hidden0.state_dict())
    scores = router(logits, features)
    assert not torch.allclose(scores[:, 0], scores[:, 1])


def test_loss_is_the_mean_over_decisions() -> None:
    scores, targets = torch.randn(6, 2), torch.rand(6, 2) > 0.5
    weight = torch.tensor(100.0)
    expected = sum(F.binary_cross_entropy_with_logits(scores[:, i], targets[:, i].float(), pos_weight=weight) for i in range(2)) / 2
    torch.testing.assert_close(routing_loss(scores, targets, 100), expected)


def test_only_the_router_learns() -> None:
    model = routed()
    before = {name: tensor.clone() for name, tensor in model.experts.state_dict().items()}
    assert model.train().training and model.router.training
    outputs = model(torch.randn(4, 3, 8, 8))
    routing_loss(outputs["router_scores"], torch.ones(4, 2, dtype=torch.bool)).backward()
    assert not outputs["expert_logits"].requires_grad
    assert all(parameter.grad is not None for parameter in model.router.parameters())
    assert all(parameter.grad is None for parameter in model.experts.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.experts.state_dict().items())  # batch norm statistics too
    assert parameter_count(model, trainable=True) == parameter_count(model.router)


def test_published_router_size() -> None:
    experts = build_experts("resnet32", 100, 3)
    assert parameter_count(build_router("resnet32", experts)) == 1615


def test_one_expert_cannot_be_routed() -> None:
    with pytest.raises(LongTailError, match="at least 2"):
        Router(1, 4, 5)


def test_bfloat16_scores_are_float32() -> None:
    model = routed().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(torch.randn(2, 3, 8, 8))["router_scores"].dtype == torch.float32
        assert model.predict(torch.randn(2, 3, 8, 8))["logits"].dtype == torch.float32
