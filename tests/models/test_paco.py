import pytest
import torch

from lt_pipeline.errors import LongTailError
from lt_pipeline.models.paco import ContrastiveNetwork, MomentumQueue
from lt_pipeline.models.resnet_cifar import resnet_cifar


def network() -> ContrastiveNetwork:
    torch.manual_seed(0)
    return ContrastiveNetwork(resnet_cifar(4, 1, (1, 1, 1), cosine_head=False), 8)


def test_projections_have_unit_length_and_are_for_training_only() -> None:
    model, images = network(), torch.randn(6, 3, 8, 8)
    torch.testing.assert_close(model(images)["projections"].norm(dim=1), torch.ones(6))
    assert "projections" not in model.eval()(images)


def test_the_queue_is_overwritten_in_turn() -> None:
    memory = MomentumQueue(network(), 6, 8)
    before = memory.queue.clone()
    for step in range(4):
        memory.enqueue(torch.full((2, 8), float(step)), torch.full((2,), step))
        assert memory.pointer.item() == 2 * (step + 1) % 6
    assert memory.queue[:, 0].tolist() == [3, 3, 1, 1, 2, 2] and memory.queue_labels.tolist() == [3, 3, 1, 1, 2, 2]
    assert not torch.equal(before, memory.queue)
    with pytest.raises(LongTailError, match="multiple of the 4 images of a step"):
        memory.enqueue(torch.zeros(4, 8), torch.zeros(4, dtype=torch.int64))


def test_the_slow_copy_follows_and_learns_nothing() -> None:
    model = network()
    memory = MomentumQueue(model, 4, 8, momentum=0.9)
    start = [parameter.clone() for parameter in memory.key.parameters()]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    memory.follow(model)
    for before, after in zip(start, memory.key.parameters(), strict=True):
        torch.testing.assert_close(after, before + 0.1)
    assert not memory.keys(torch.randn(4, 3, 8, 8)).requires_grad
    assert not any(parameter.requires_grad for parameter in memory.parameters())
