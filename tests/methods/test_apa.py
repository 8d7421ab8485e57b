import pytest
import torch
from pydantic import ValidationError

from lt_pipeline.methods.apa.config import Apa
from lt_pipeline.methods.apa.stages import build_network, build_task
from lt_pipeline.methods.facts import DataFacts
from lt_pipeline.models.posthoc import PostHocAdjusted
from lt_pipeline.training.clock import Clock
from lt_pipeline.training.task import Batch

FACTS = DataFacts(class_names=("a", "b", "c"), train_counts=(90, 9, 3), image_shape=(16, 16, 3), mean=(0.5,) * 3, std=(0.25,) * 3)
BATCH = Batch((torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)),), torch.arange(6) % 3, torch.arange(6))


@pytest.mark.parametrize(
    "loss",
    [
        {},
        {"mixup": 0.2, "cutmix": 1.0, "smoothing": 0.1},
        {"mixup": 0, "class_weights": True},
        {"kind": "bce"},
        {"kind": "gumbel", "mixup": 0, "smoothing": 0.1},
    ],
)
def test_every_loss_trains_every_parameter(loss: dict[str, object]) -> None:
    task = build_task(Apa.model_validate({"loss": loss}), "classifier", FACTS, {})
    torch.manual_seed(0)
    task(BATCH, Clock(0, 1, 500))["classification"].backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in task.parameters())


def test_weights_belong_to_softmax() -> None:
    with pytest.raises(ValidationError, match="class_weights go with"):
        Apa.model_validate({"loss": {"kind": "bce", "class_weights": True}})


def test_an_unknown_activation_names_the_allowed_ones() -> None:
    with pytest.raises(ValidationError, match="'aglu', 'relu', 'silu' or 'gelu'"):
        Apa.model_validate({"model": {"activation": "aglo"}})


def test_the_offset_is_part_of_the_network_unless_switched_off() -> None:
    network = build_network(Apa(), "classifier", FACTS)
    assert isinstance(network, PostHocAdjusted) and network.offset.tolist() == sorted(network.offset.tolist())
    assert not isinstance(build_network(Apa.model_validate({"loss": {"adjustment": "none"}}), "classifier", FACTS), PostHocAdjusted)


def test_a_linear_head_expects_rare_positives_under_binary_losses() -> None:
    settings = Apa.model_validate({"loss": {"kind": "bce"}, "model": {"head": "linear"}})
    task = build_task(settings, "classifier", FACTS, {})
    assert (task.model.network.expert0.classifier.bias == -6).all()
