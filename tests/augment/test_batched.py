"""Crop, mirroring, rotation, cutout and the whole view."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional as F

from lt_pipeline.augment.batched import BatchedView, autoaugment, cut, cutout, horizontal_flip, random_crop, rotate
from lt_pipeline.augment.config import PadCropView
from lt_pipeline.augment.policies import CIFAR_POLICY
from tests.augment.pillow import sample_images, to_batch, to_images

FULL = PadCropView(padding=4, flip=0.5, rotation=15.0, policy="autoaugment_cifar", cutout=16)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def many(count: int, height: int = 32, width: int = 32) -> Tensor:
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=seeded(9)).permute(0, 3, 1, 2)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 6), st.integers(0, 2**31))
def test_crop_is_a_window_of_the_padded_image(height: int, width: int, padding: int, seed: int) -> None:
    images = many(3, height, width)
    cropped = random_crop(images, seeded(seed), padding)
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    matches = (windows == cropped[:, :, None, None]).all(1).all(-1).all(-1)
    assert matches.flatten(1).any(1).all()


def test_every_crop_offset_occurs_about_equally_often() -> None:
    images = many(1).expand(4000, -1, -1, -1)
    windows = F.pad(images[:1], (4,) * 4).unfold(2, 32, 1).unfold(3, 32, 1).permute(2, 3, 0, 1, 4, 5).reshape(81, -1)
    number = {bytes(window.numpy()): index for index, window in enumerate(windows)}
    cropped = random_crop(images, seeded()).reshape(4000, -1)
    counts = torch.bincount(torch.tensor([number[bytes(crop.numpy())] for crop in cropped]), minlength=81)
    assert counts.min() > 15 and counts.max() < 95  # 49 expected


def test_flip_mirrors_or_leaves() -> None:
    images = many(2000, 5, 4)
    flipped = horizontal_flip(images, seeded(), 0.3)
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    assert ((flipped == images).flatten(1).all(1) | mirrored).all()
    assert 500 < mirrored.sum() < 700
    assert torch.equal(horizontal_flip(images, seeded(), 1.0), images.flip(3))
    assert torch.equal(horizontal_flip(images, seeded(), 0.0), images)


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (33, 17), (16, 40)], ids=str)
@pytest.mark.parametrize("degrees", [15.0, 180.0])
def test_rotation_equals_pillow(size: tuple[int, int], degrees: float) -> None:
    images = many(300, *size)
    angles = (torch.rand(300, generator=seeded(3), dtype=torch.float64) * 2 - 1) * degrees
    pictures = zip(to_images(images), angles.tolist(), strict=True)
    expected = to_batch([picture.rotate(angle, Image.Resampling.NEAREST, fillcolor=0) for picture, angle in pictures])
    assert torch.equal(rotate(images, seeded(3), degrees), expected)


def test_cutout_is_clipped_at_the_border() -> None:
    images = torch.full((4, 3, 32, 32), 7, dtype=torch.uint8)
    centres = torch.tensor([[16, 16], [0, 0], [31, 31], [3, 30]])
    holes = (cut(images, centres, 16) == 0).all(1)
    assert holes.flatten(1).sum(1).tolist() == [256, 64, 81, 110]
    assert holes[0, 8:24, 8:24].all()
    assert holes[1, :8, :8].all()
    assert holes[2, 23:, 23:].all()
    assert holes[3, :11, 22:].all()


def test_cutout_takes_every_centre_and_leaves_the_rest() -> None:
    images = many(6000, 8, 6).clamp(min=1)
    out = cutout(images, seeded(), 2)
    hole = (out == 0).any(1)
    assert torch.equal(out, images.masked_fill(hole[:, None], 0))
    last = hole.flip(1).flip(2).flatten(1).int().argmax(1)  # counted from the end, the lower right corner of the hole is its centre
    assert torch.bincount(last, minlength=48).min() > 70  # 125 expected


def test_cutout_longer_than_the_image_blackens_it() -> None:
    assert not cutout(many(3, 5, 5), seeded(), 100).any()


def test_a_view_equals_its_parts_one_after_the_other() -> None:
    images, random = many(200), seeded(1)
    parts = random_crop(images, random, 4)
    parts = horizontal_flip(parts, random, 0.5)
    parts = rotate(parts, random, 15.0)
    parts = autoaugment(parts, random)
    assert torch.equal(BatchedView(FULL)(images, seeded(1)), cutout(parts, random, 16))


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (33, 17)], ids=str)
def test_a_view_depends_on_the_generator_alone(size: tuple[int, int]) -> None:
    images, view = many(64, *size), BatchedView(FULL)
    kept = images.clone()
    first = view(images, seeded(4))
    assert first.shape == images.shape and first.dtype == torch.uint8
    assert torch.equal(first, view(images, seeded(4)))
    assert torch.equal(first, view(images.contiguous(), seeded(4)))
    assert not torch.equal(first, view(images, seeded(5)))
    assert torch.equal(images, kept)


def test_a_view_gives_channels_last_memory() -> None:
    view = BatchedView(FULL)
    for images in (many(8), many(8).contiguous()):
        assert view(images, seeded()).is_contiguous(memory_format=torch.channels_last)


def test_a_view_of_nothing_changes_nothing() -> None:
    images = many(8)
    assert torch.equal(BatchedView(PadCropView(padding=0, flip=0.0))(images, seeded()), images)


def test_a_view_of_one_or_no_image() -> None:
    assert BatchedView(FULL)(many(1), seeded()).shape == (1, 3, 32, 32)
    assert BatchedView(FULL)(many(0), seeded()).shape == (0, 3, 32, 32)


def test_autoaugment_applies_steps_at_their_probability() -> None:
    images = sample_images(32, 32)[4:5].expand(20000, -1, -1, -1)
    unchanged = (autoaugment(images, seeded()) == images).flatten(1).all(1).float().mean().item()
    # An upper bound of the change: some steps do nothing (level 0 of colour), so a little more stays than the probabilities alone say.
    none = sum((1 - first) * (1 - second) for (_, first, _), (_, second, _) in CIFAR_POLICY) / 25
    assert none - 0.02 < unchanged < none + 0.1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("policy", ["autoaugment_cifar", "autoaugment_cifar_signed"])
def test_a_view_is_the_same_on_the_accelerator(policy: str) -> None:
    images, view = many(256), BatchedView(FULL.model_copy(update={"policy": policy}))
    assert torch.equal(view(images.cuda(), seeded(2)).cpu(), view(images, seeded(2)))
