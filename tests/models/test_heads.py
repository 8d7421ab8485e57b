import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from lt_pipeline.models.heads import CosineClassifier, LinearClassifier, SquashedCosineClassifier, head_factory


def test_logits_do_not_depend_on_lengths() -> None:
    head, x = CosineClassifier(8, 5, scale=30), torch.randn(4, 8)
    torch.testing.assert_close(head(7 * x), head(x), rtol=1e-5, atol=1e-4)
    expected = head(x)
    with torch.no_grad():
        head.weight.mul_(3)
    torch.testing.assert_close(head(x), expected, rtol=1e-5, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(0.5, 64), seed=st.integers(0, 1000))
def test_logits_are_bounded_by_the_scale(scale: float, seed: int) -> None:
    torch.manual_seed(seed)
    assert CosineClassifier(6, 4, scale)(1e4 * torch.randn(9, 6)).abs().max() <= scale * (1 + 1e-5)


def test_a_zero_feature_has_zero_logits_and_finite_gradients() -> None:
    head, x = CosineClassifier(8, 5), torch.zeros(1, 8, requires_grad=True)
    logits = head(x)
    assert (logits == 0).all()
    (0 * logits.sum()).backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_gradients() -> None:
    head = CosineClassifier(4, 3).double()
    x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda features, weight: torch.func.functional_call(head, {"weight": weight}, (features,)), (x, head.weight))


def test_a_linear_head_has_no_scale() -> None:
    head = head_factory(cosine=False, scale=30)(4, 3)
    assert isinstance(head, LinearClassifier)
    x = torch.randn(2, 4)
    torch.testing.assert_close(head(x), x @ head.weight.T + head.bias)


def test_squashed_features_keep_a_part_of_their_length() -> None:
    head = SquashedCosineClassifier(4, 3)
    x = torch.randn(2, 4)
    expected = 16 * (x / (1 + x.norm(dim=1, keepdim=True))) @ torch.nn.functional.normalize(head.weight, dim=1).T
    torch.testing.assert_close(head(x), expected)
    zero = torch.zeros(1, 4, requires_grad=True)
    head(zero).sum().backward()
    assert (head(zero) == 0).all() and zero.grad.isfinite().all()


def test_a_learned_scale_is_applied_squared() -> None:
    head = SquashedCosineClassifier(4, 3, scale=5.0, learnable=True)
    fixed = SquashedCosineClassifier(4, 3, scale=25.0)
    fixed.weight = head.weight
    x = torch.randn(2, 4)
    torch.testing.assert_close(head(x), fixed(x))
    head(x).sum().backward()
    assert head.scale.grad is not None
