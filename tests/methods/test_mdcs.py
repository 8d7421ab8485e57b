import pytest
import torch
from pydantic import ValidationError

from lt_pipeline.augment.config import PadCropView
from lt_pipeline.methods.facts import DataFacts
from lt_pipeline.methods.mdcs.config import Mdcs
from lt_pipeline.methods.mdcs.stages import build_task
from lt_pipeline.training.clock import Clock
from lt_pipeline.training.task import Batch

FACTS = DataFacts(class_names=("a", "b", "c"), train_counts=(90, 9, 3), image_shape=(16, 16, 3), mean=(0.5,) * 3, std=(0.25,) * 3)
GENERATOR = torch.Generator().manual_seed(0)
BATCH = Batch(
    (torch.randn(6, 3, 16, 16, generator=GENERATOR), 2 + torch.randn(6, 3, 16, 16, generator=GENERATOR)),
    torch.arange(6) % 3,
    torch.arange(6),
)
CLOCK = Clock(0, 1, 400)


def test_one_view_or_a_prior_too_few_is_refused() -> None:
    with pytest.raises(ValidationError, match="weak and the strong view"):
        Mdcs.model_validate({"experts": {"views": [PadCropView()]}})
    with pytest.raises(ValidationError, match=r"loss\.exponents needs one number for each expert"):
        Mdcs.model_validate({"model": {"experts": 1}})


def test_every_parameter_gets_a_gradient() -> None:
    task = build_task(Mdcs(), "experts", FACTS, {})
    terms = task(BATCH, CLOCK)
    sum(terms.values()).backward()
    assert terms.keys() == {"diversity", "consistency"}
    assert all(parameter.grad is not None for parameter in task.parameters())


def test_separate_statistics_run_on_the_weak_view_alone() -> None:
    torch.manual_seed(0)
    mixed = build_task(Mdcs(), "experts", FACTS, {})
    separate = build_task(Mdcs(batch_norm="separate"), "experts", FACTS, {})
    separate.model.load_state_dict(mixed.model.state_dict())
    alone = build_task(Mdcs(), "experts", FACTS, {})
    alone.model.load_state_dict(mixed.model.state_dict())
    a, b = mixed(BATCH, CLOCK), separate(BATCH, CLOCK)
    assert not torch.allclose(a["diversity"], b["diversity"])
    alone.model(BATCH.views[0])
    torch.testing.assert_close(separate.model.stem.bn.running_mean, alone.model.stem.bn.running_mean)
    assert not torch.allclose(mixed.model.stem.bn.running_mean, alone.model.stem.bn.running_mean)
    assert separate.model.stem.bn.momentum == 0.1
