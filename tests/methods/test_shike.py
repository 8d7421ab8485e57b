import pytest
import torch
from pydantic import ValidationError

from lt_pipeline.errors import LongTailError
from lt_pipeline.methods.facts import DataFacts
from lt_pipeline.methods.shike.config import Shike
from lt_pipeline.methods.shike.stages import build_task
from lt_pipeline.training.checkpoint import Checkpoint
from lt_pipeline.training.clock import Clock
from lt_pipeline.training.task import Batch

FACTS = DataFacts(class_names=("a", "b", "c"), train_counts=(90, 9, 3), image_shape=(16, 16, 3), mean=(0.5,) * 3, std=(0.25,) * 3)
BATCH = Batch((torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)),), torch.arange(6) % 3, torch.arange(6))


def representation() -> Checkpoint:
    return Checkpoint({"last": build_task(Shike(), "representation", FACTS, {}).model.state_dict()}, {})


def test_one_expert_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        Shike.model_validate({"model": {"experts": 1}})


def test_every_parameter_of_the_first_stage_gets_a_gradient() -> None:
    task = build_task(Shike(), "representation", FACTS, {})
    sum(task(BATCH, Clock(0, 1, 180)).values()).backward()
    assert all(parameter.grad is not None for parameter in task.parameters())


def test_the_second_stage_trains_fresh_heads_on_the_frozen_network() -> None:
    earlier = representation()
    task = build_task(Shike(), "classifier", FACTS, {"representation": earlier})
    trained = [name for name, parameter in task.named_parameters() if parameter.requires_grad]
    assert trained == [f"model.expert{index}.classifier.weight" for index in range(3)]
    state = task.model.state_dict()
    assert not torch.equal(state["expert0.classifier.weight"], earlier.state["expert0.classifier.weight"])
    assert torch.equal(state["expert0.last.block0.conv1.weight"], earlier.state["expert0.last.block0.conv1.weight"])


@pytest.mark.parametrize("freeze", [False, True])
def test_statistics_move_in_the_second_stage_unless_frozen(freeze: bool) -> None:
    settings = Shike.model_validate({"classifier": {"freeze_statistics": freeze}})
    task = build_task(settings, "classifier", FACTS, {"representation": representation()})
    task.train()
    before = task.model.state_dict()["stem.bn.running_mean"].clone()
    task(BATCH, Clock(0, 1, 20))
    assert torch.equal(task.model.state_dict()["stem.bn.running_mean"], before) == freeze


def test_a_checkpoint_of_another_number_of_experts_is_refused() -> None:
    settings = Shike.model_validate({"model": {"experts": 2}})
    with pytest.raises(LongTailError, match="stage 'representation'"):
        build_task(settings, "classifier", FACTS, {"representation": representation()})
