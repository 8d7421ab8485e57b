import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from lt_pipeline.data.metadata_config import LocationGroup, MetadataGroup, NumericGroup
from lt_pipeline.methods.facts import DataFacts
from lt_pipeline.methods.metaformer.config import MaskingConfig, Metaformer, MetaformerLossConfig
from lt_pipeline.methods.metaformer.masking import mask_metadata, masked_images, masked_share
from lt_pipeline.methods.metaformer.stages import MetadataTask, build_task
from lt_pipeline.training.clock import Clock
from lt_pipeline.training.optim import build_optimizer
from lt_pipeline.training.task import Batch

GROUPS = (
    MetadataGroup(declared=NumericGroup(name="age", columns=("age",)), width=1, columns=("age",), mean=(50.0,), std=(10.0,)),
    MetadataGroup(declared=LocationGroup(), width=3, columns=("latitude", "longitude")),
)
FACTS = DataFacts(
    class_names=("a", "b", "c"), train_counts=(90, 9, 3), image_shape=(32, 32, 3), mean=(0.5,) * 3, std=(0.25,) * 3, metadata=GROUPS
)
GENERATOR = torch.Generator().manual_seed(0)
BATCH = Batch(
    (torch.randn(6, 3, 32, 32, generator=GENERATOR),), torch.arange(6) % 3, torch.arange(6), torch.randn(6, 4, generator=GENERATOR)
)
MICRO: dict[str, Any] = {"metafg": {"backbone": "metafg_micro", "image_size": 32}}
VIEW = {"kind": "pad_crop"}
LAST = Clock(299, 1, 300)


def task(loss: dict[str, Any] | None = None, model: dict[str, Any] | None = None, facts: DataFacts = FACTS, **more: Any) -> Any:
    torch.manual_seed(0)
    described = {"model": MICRO | (model or {}), "loss": loss or {}, "classifier": {"views": [VIEW]}, **more}
    return build_task(Metaformer.model_validate(described), "classifier", facts, {})


class Spy(nn.Module):
    """Answers with trainable logits and remembers what it was shown."""

    takes_metadata = True

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.randn(6, 3, generator=torch.Generator().manual_seed(0)))

    def forward(self, images: Tensor, metadata: Tensor | None = None) -> dict[str, Tensor]:
        self.images, self.metadata = images, metadata
        return {"logits": self.logits}


def spied(masking: MaskingConfig | None = None, **loss: Any) -> MetadataTask:
    return MetadataTask(Spy(), MetaformerLossConfig(**loss), masking or MaskingConfig(), FACTS.train_counts)


@given(st.integers(1, 300), st.integers(0, 299), st.integers(1, 64))
@settings(max_examples=30, deadline=None)
def test_the_share_falls_from_all_to_one_epoch(epochs: int, epoch: int, images: int) -> None:
    share = masked_share(MaskingConfig(), min(epoch, epochs - 1), epochs)
    assert 0 < share <= 1 and masked_images(share, images) <= images
    assert masked_images(masked_share(MaskingConfig(), 0, epochs), images) == images
    masked = mask_metadata(torch.zeros(images, 3), share)
    assert masked.isnan().all(1).sum() == masked.isnan().any(1).sum() == masked_images(share, images)


def test_a_line_from_below_one_ends_at_zero_and_in_the_published_code_does_not() -> None:
    floored, published = MaskingConfig(start=0.25), MaskingConfig(start=0.25, floored=False)
    assert masked_images(masked_share(floored, 3, 4), 16) == 0
    assert masked_images(masked_share(published, 3, 4), 16) == 8
    assert masked_share(MaskingConfig(kind="constant", start=0.5), 3, 4) == 0.5


def test_images_are_mixed_and_metadata_is_not() -> None:
    one = spied(MaskingConfig(kind="constant", start=0.0), erasing=0.0, cutmix=0.0)
    before = copy.deepcopy(BATCH)
    one(BATCH, LAST)
    assert not torch.allclose(one.model.images, BATCH.views[0])
    torch.testing.assert_close(one.model.metadata, before.metadata)
    torch.testing.assert_close(BATCH.views[0], before.views[0], rtol=0, atol=0)
    torch.testing.assert_close(BATCH.metadata, before.metadata, rtol=0, atol=0)


def test_metadata_is_hidden_by_the_clock() -> None:
    one = spied()
    for epoch, hidden in ((0, 6), (150, 3), (299, 0)):
        torch.manual_seed(0)
        one(BATCH, Clock(epoch, 1, 300))
        assert one.model.metadata.isnan().all(1).sum() == hidden
    one(replace(BATCH, metadata=None), LAST)
    assert one.model.metadata is None


def test_without_mixing_the_loss_is_smoothed_cross_entropy() -> None:
    one = spied(mixup=0.0, cutmix=0.0, erasing=0.0)
    value = one(BATCH, LAST)["classification"]
    torch.testing.assert_close(value, nn.functional.cross_entropy(one.model.logits, BATCH.labels, label_smoothing=0.1))


def test_the_tail_can_be_lifted_by_prior_or_by_weight() -> None:
    plain = {"mixup": 0.0, "cutmix": 0.0, "erasing": 0.0, "smoothing": 0.0}
    balanced = spied(kind="balanced_softmax", **plain)
    shifted = balanced.model.logits + torch.tensor(FACTS.train_counts).log()
    torch.testing.assert_close(balanced(BATCH, LAST)["classification"], nn.functional.cross_entropy(shifted, BATCH.labels))
    deferred = spied(reweight_epoch=200, **plain)
    early, late = (deferred(BATCH, Clock(epoch, 1, 300))["classification"] for epoch in (199, 200))
    losses = nn.functional.cross_entropy(deferred.model.logits, BATCH.labels, reduction="none")
    torch.testing.assert_close(early, losses.mean())
    torch.testing.assert_close(late, (losses * deferred.weights[BATCH.labels]).mean())


@pytest.mark.parametrize(
    "model",
    [{}, {"kind": "timm", "timm": {"backbone": "test_resnet", "fusion": "tokens"}}, {"kind": "timm"}, {"kind": "experts"}],
    ids=["metafg", "tokens", "late", "experts"],
)
def test_every_network_learns_from_images_and_metadata(model: dict[str, Any]) -> None:
    one = task(model=model)
    terms = one(BATCH, LAST)
    assert terms.keys() == ({"classification", "diversity"} if model.get("kind") == "experts" else {"classification"})
    sum(terms.values()).backward()
    assert all(parameter.grad is not None for parameter in one.parameters())
    assert one.model.takes_metadata
    build_optimizer(Metaformer().classifier.optimizer, one.named_parameters())  # its group of class tokens and biases is there in each


def test_without_metadata_in_the_data_the_network_is_plain() -> None:
    one = task(facts=FACTS.model_copy(update={"metadata": ()}))
    assert not one.model.takes_metadata and len(one.model.meta) == 0
    assert one(replace(BATCH, metadata=None), LAST)["classification"].isfinite()


def test_odd_batches_and_other_sizes_are_refused_before_training() -> None:
    with pytest.raises(ValidationError, match=r"batch_size / accumulate is 5"):
        Metaformer.model_validate({"classifier": {"batch_size": 10, "accumulate": 2}})
    with pytest.raises(ValidationError, match=r"views gives images of 224 pixels, model\.metafg\.image_size is 384"):
        Metaformer.model_validate({"model": {"metafg": {"image_size": 384}}})
    with pytest.raises(ValidationError, match="multiple of 32"):
        Metaformer.model_validate({"model": {"metafg": {"image_size": 100}}})


def test_rates_that_do_not_follow_the_batch_are_refused() -> None:
    with pytest.raises(
        ValidationError, match=r"optimizer\.lr should be 5e-05, schedule\.warmup_start should be 2\.5e-07, schedule\.final_lr"
    ):
        Metaformer.model_validate({"classifier": {"batch_size": 256, "scaling": {}}})
    assert Metaformer.model_validate({"classifier": {"scaling": {}}}).classifier.scaling is not None
