"""Metadata reach the network beside the right image, in training and in evaluation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lt_pipeline.augment.config import PadCropView
from lt_pipeline.augment.normalise import Normalise
from lt_pipeline.data.metadata import kept_numbers
from lt_pipeline.data.metadata_config import MetadataConfig, MetadataGroup
from lt_pipeline.data.split import ImageSet
from lt_pipeline.training.config import TrainerConfig
from lt_pipeline.training.feed import Chunk, build_feed
from lt_pipeline.training.inference import run_model
from tests.training.toy import toy_images

CPU = torch.device("cpu")
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
TRAINER = TrainerConfig(device="cpu", threads=1, evaluation_batch=7)
DECLARED = MetadataConfig.model_validate({"groups": [{"kind": "numeric", "name": name, "columns": [name]} for name in ("first", "second")]})
GROUPS = tuple(MetadataGroup(declared=declared, width=2, columns=declared.columns) for declared in DECLARED.groups)


class Told(nn.Module):
    """Decides for the class that the metadata name: the first group speaks of classes 0 and 1, the second of 2 and 3; for the first that it sees."""

    takes_metadata = True

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0

    def look(self, images: Tensor) -> Tensor:
        self.looks += 1
        return images.mean((2, 3))

    def answer(self, seen: Tensor, metadata: Tensor | None = None) -> dict[str, Tensor]:
        assert metadata is not None and len(metadata) == len(seen) and not self.training
        return {"logits": metadata.nan_to_num(nan=-1.0)}


class Pixels(nn.Module):
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"logits": images.mean((2, 3))}


def told_images() -> ImageSet:
    images = toy_images()
    return replace(images, metadata=np.eye(4, dtype=np.float32)[images.labels])


@pytest.mark.parametrize("tokens", [None, 3])
def test_a_batch_has_the_metadata_of_its_images(tokens: int | None) -> None:
    images = told_images()
    if tokens:
        images = replace(images, metadata=np.repeat(images.metadata[:, None], tokens, axis=1))
    feed = build_feed(images, [PadCropView(padding=1)], Normalise(MEAN, STD), CPU, torch.contiguous_format, 0)
    chunks = [Chunk(np.array(positions), (0, "x", step)) for step, positions in enumerate([[50, 3, 3], [7]])]
    for chunk, batch in zip(chunks, feed.batches(chunks), strict=True):
        assert torch.equal(batch.metadata, torch.from_numpy(images.metadata[chunk.positions]))
    plain = build_feed(toy_images(), [PadCropView(padding=1)], Normalise(MEAN, STD), CPU, torch.contiguous_format, 0)
    assert next(plain.batches(chunks[:1])).metadata is None


def test_evaluation_shows_all_part_and_none_over_the_same_batches() -> None:
    images, model = told_images(), Told()
    outputs = run_model(model, images, PadCropView(), MEAN, STD, TRAINER, kept=kept_numbers(GROUPS))
    labels = images.labels
    assert np.array_equal(outputs["logits"].argmax(1), labels)
    assert np.array_equal(outputs["decisions/only first"], np.where(labels < 2, labels, 0))
    assert np.array_equal(outputs["decisions/only second"], np.where(labels >= 2, labels, 2))
    assert (outputs["decisions/none"] == 0).all() and outputs["decisions/none"].dtype == np.int64
    assert model.looks == -(-len(labels) // TRAINER.evaluation_batch)


def test_a_network_of_pixels_alone_is_not_shown_them() -> None:
    with_some = run_model(Pixels(), told_images(), PadCropView(), MEAN, STD, TRAINER, kept=kept_numbers(GROUPS))
    without = run_model(Pixels(), toy_images(), PadCropView(), MEAN, STD, TRAINER)
    assert set(with_some) == {"logits"} and np.array_equal(with_some["logits"], without["logits"])
