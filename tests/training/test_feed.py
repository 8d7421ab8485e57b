from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lt_pipeline.augment.config import PadCropView, ResizedCropView
from lt_pipeline.augment.normalise import Normalise
from lt_pipeline.data.images import EncodedImages
from lt_pipeline.data.split import ImageSet
from lt_pipeline.errors import LongTailError
from lt_pipeline.training.feed import Chunk, build_feed, evaluation_batches
from tests.training.toy import toy_images

CPU = torch.device("cpu")
NORMALISE = Normalise((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
LARGE = ResizedCropView(size=24, test_resize=28, color_jitter=(0.4, 0.4, 0.4, 0.1))


@pytest.fixture
def encoded(tmp_path: Path) -> ImageSet:
    generator = np.random.default_rng(0)
    files = []
    for number in range(9):
        pixels = generator.integers(0, 256, (30 + number, 41, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        files.append(f"{number}.png")
    store = EncodedImages(tmp_path, files, [-1] * 9, "", 10**6)
    return ImageSet(store, np.arange(9), np.arange(9) % 3, files)


def chunks() -> list[Chunk]:
    return [Chunk(np.array([3, 1, 7]), (0, "x", 0)), Chunk(np.array([2, 3]), (0, "x", 1))]


def test_the_number_of_workers_changes_nothing(encoded: ImageSet) -> None:
    none, two = (
        list(build_feed(encoded, [LARGE, LARGE], NORMALISE, CPU, torch.contiguous_format, workers).batches(chunks())) for workers in (0, 2)
    )
    for one, other in zip(none, two, strict=True):
        assert [view.shape for view in one.views] == [(len(one.labels), 3, 24, 24)] * 2
        assert all(torch.equal(first, second) for first, second in zip(one.views, other.views, strict=True))
        assert not torch.equal(one.views[0], one.views[1])  # two views are two draws
        assert one.labels.tolist() == (one.indices % 3).tolist()


def test_a_batch_depends_on_its_chunk_alone(encoded: ImageSet) -> None:
    for images, view in ((encoded, LARGE), (toy_images(), PadCropView(padding=2, rotation=20.0, policy="autoaugment_cifar", cutout=4))):
        feed = build_feed(images, [view], NORMALISE, CPU, torch.contiguous_format, 0)
        both, last = list(feed.batches(chunks())), list(feed.batches(chunks()[1:]))
        assert torch.equal(both[1].views[0], last[0].views[0])


def test_resident_images_without_augmentation_are_the_images() -> None:
    images = toy_images()
    feed = build_feed(images, [PadCropView(padding=0, flip=0.0)], NORMALISE, CPU, torch.channels_last, 0)
    (batch,) = feed.batches([Chunk(np.array([5, 2]), (0,))])
    expected = (torch.from_numpy(images.images.array[[5, 2]]).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    torch.testing.assert_close(batch.views[0], expected)
    assert batch.views[0].is_contiguous(memory_format=torch.channels_last)


def test_evaluation_goes_through_the_set_in_order(encoded: ImageSet) -> None:
    batches = list(evaluation_batches(encoded, LARGE, NORMALISE, CPU, 4, torch.contiguous_format, 0))
    assert [len(batch) for batch in batches] == [4, 4, 1]
    again = torch.cat(list(evaluation_batches(encoded, LARGE, NORMALISE, CPU, 9, torch.contiguous_format, 2)))
    assert torch.equal(torch.cat(batches), again)
    small = toy_images()
    assert len(torch.cat(list(evaluation_batches(small, PadCropView(), NORMALISE, CPU, 20, torch.contiguous_format, 0)))) == len(small.rows)


def test_what_does_not_fit_is_refused(encoded: ImageSet) -> None:
    with pytest.raises(LongTailError, match=r"source\.image_size"):
        build_feed(encoded, [PadCropView()], NORMALISE, CPU, torch.contiguous_format, 0)
    with pytest.raises(LongTailError, match="all be"):
        build_feed(toy_images(), [PadCropView(), LARGE], NORMALISE, CPU, torch.contiguous_format, 0)
