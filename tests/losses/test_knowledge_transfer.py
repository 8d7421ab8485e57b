import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lt_pipeline.losses.knowledge_transfer import assembled_teacher, knowledge_transfer


def by_loops(logits: Tensor, target: Tensor, transfer_weight: float = 10.0, mutual_weight: float = 1.0) -> dict[str, Tensor]:
    """The paper's sums, expert by expert and pair by pair."""
    experts, batch, classes = logits.shape
    own = F.one_hot(target, classes).bool()
    mean, boldest = logits.mean(0), logits.max(0).values
    hardest = mean.masked_fill(own, -30.0).argmax(1, keepdim=True)
    teacher = boldest.scatter(1, hardest, mean.gather(1, hardest)).masked_fill(own, 0.0).softmax(1)
    transfer = mutual = classification = torch.zeros((), dtype=logits.dtype)
    for i in range(experts):
        classification = classification + F.cross_entropy(logits[i], target)
        student = logits[i].masked_fill(own, -30.0).log_softmax(1)
        transfer = transfer + (teacher * (teacher.log() - student)).sum() / (batch * classes)
        for j in range(experts):
            if i != j:
                p = logits[j].softmax(1)
                mutual = mutual + (p * (p.log() - logits[i].log_softmax(1))).sum() / (batch * classes)
    return {"classification": classification, "transfer": transfer_weight * transfer, "mutual": mutual_weight * mutual}


def draw(experts: int, batch: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(experts, batch, classes, dtype=torch.float64, generator=generator)
    return logits, torch.randint(classes, (batch,), generator=generator)


@settings(max_examples=30, deadline=None)
@given(experts=st.integers(1, 5), batch=st.integers(1, 6), classes=st.integers(2, 12), seed=st.integers(0, 99))
def test_equals_the_sums_over_experts_and_pairs_with_gradient(experts: int, batch: int, classes: int, seed: int) -> None:
    logits, target = draw(experts, batch, classes, seed)
    results = []
    for function in (knowledge_transfer, by_loops):
        leaf = logits.clone().requires_grad_()
        terms = function(leaf, target)
        results.append((terms, torch.autograd.grad(sum(terms.values()), leaf)[0]))
    for name, value in results[1][0].items():
        torch.testing.assert_close(results[0][0][name], value)
    torch.testing.assert_close(results[0][1], results[1][1])


@pytest.mark.parametrize("detach", [False, True])
def test_gradients_in_float64(detach: bool) -> None:
    logits, target = draw(3, 4, 6)
    if not detach:
        assert torch.autograd.gradcheck(lambda x: sum(knowledge_transfer(x, target).values()), logits.requires_grad_())
    leaf = logits.detach().requires_grad_()
    value = knowledge_transfer(leaf, target, detach_teacher=detach)["transfer"]
    (gradient,) = torch.autograd.grad(value, leaf)
    (other,) = torch.autograd.grad(knowledge_transfer(leaf, target, detach_teacher=not detach)["transfer"], leaf)
    assert not torch.allclose(gradient, other)


def test_reductions_differ_by_the_number_of_classes() -> None:
    logits, target = draw(3, 4, 50)
    mean = knowledge_transfer(logits, target)
    batch = knowledge_transfer(logits, target, 10 / 50, 1 / 50, reduction="batchmean")
    for name in mean:
        torch.testing.assert_close(mean[name], batch[name])


def test_one_expert_has_nobody_to_learn_from() -> None:
    logits, target = draw(1, 4, 6)
    assert knowledge_transfer(logits, target)["mutual"].abs() < 1e-12


def test_the_teacher_keeps_the_mean_of_the_hardest_class_and_the_boldest_of_the_others() -> None:
    logits = torch.tensor([[[9.0, 3.0, 1.0, 0.0]], [[9.0, 1.0, 2.5, -4.0]]])
    teacher, hardest = assembled_teacher(logits, torch.tensor([0]))
    assert hardest.tolist() == [1]
    assert teacher.tolist() == [[0.0, 2.0, 2.5, 0.0]]
    assert assembled_teacher(logits, torch.tensor([0]), "student")[0][0, 0] == -30
    assert assembled_teacher(logits, torch.tensor([0]), "none")[0].softmax(1)[0, 0] == 0


def test_ties_go_to_the_lowest_class() -> None:
    logits = torch.zeros(2, 3, 5)
    assert assembled_teacher(logits, torch.tensor([0, 1, 2]))[1].tolist() == [1, 0, 0]


def test_an_unbounded_head_needs_the_mask() -> None:
    logits = torch.full((2, 1, 3), -50.0)
    logits[:, :, 1] = -40
    target = torch.tensor([0])
    assert assembled_teacher(logits, target)[1].tolist() == [0]  # the official floor of -30 lets the own class win
    assert assembled_teacher(logits, target, hardest="masked")[1].tolist() == [1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("teacher_target", ["zero", "student", "none"])
def test_finite_at_the_ends_of_the_range(dtype: torch.dtype, teacher_target: str) -> None:
    logits = (30 * torch.sign(draw(3, 4, 6)[0])).to(dtype).requires_grad_()
    value = sum(knowledge_transfer(logits, torch.tensor([0, 1, 2, 3]), teacher_target=teacher_target).values())
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()
