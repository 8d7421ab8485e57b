"""Every operation equals Pillow's to the bit."""

import pytest
import torch

from lt_pipeline.augment.policies import CIFAR_POLICY, GREY, MAGNITUDES, OPERATIONS, SIGNED, apply_operation, apply_policy
from tests.augment.pillow import apply, sample_images, to_batch, to_images

SIZES = ((32, 32), (28, 28), (33, 17), (17, 33), (2, 5), (64, 48))


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_operation_equals_pillow_at_every_level(name: str, size: tuple[int, int]) -> None:
    images = sample_images(*size)
    pictures = to_images(images)
    for level, magnitude in enumerate(MAGNITUDES[name]):
        for sign in (1, -1) if name in SIGNED else (1,):
            expected = to_batch([apply(picture, name, magnitude, sign, GREY) for picture in pictures])
            actual = apply_operation(images, name, magnitude, sign)
            assert torch.equal(actual, expected), (level, sign)


@pytest.mark.parametrize("name", OPERATIONS)
def test_magnitudes_and_signs_may_differ_within_a_batch(name: str) -> None:
    images = sample_images(32, 32)[:10]
    magnitude = torch.tensor(MAGNITUDES[name], dtype=torch.float64)
    sign = torch.tensor([1, -1] * 5)
    alone = [apply_operation(images[i : i + 1], name, float(magnitude[i]), int(sign[i])) for i in range(10)]
    assert torch.equal(apply_operation(images, name, magnitude, sign), torch.cat(alone))


@pytest.mark.parametrize("name", ["rotate", "translateX", "translateY", "shearX", "shearY"])
def test_fill_colour(name: str) -> None:
    images, fill = sample_images(31, 40), (3, 200, 90)
    magnitude = MAGNITUDES[name][9]
    expected = to_batch([apply(picture, name, magnitude, 1, fill) for picture in to_images(images)])
    assert torch.equal(apply_operation(images, name, magnitude, fill=fill), expected)


@pytest.mark.parametrize("name", OPERATIONS)
def test_memory_order_does_not_matter_and_input_is_kept(name: str) -> None:
    images = sample_images(33, 17)
    kept = images.clone()
    magnitude = MAGNITUDES[name][5]
    assert torch.equal(apply_operation(images, name, magnitude), apply_operation(images.contiguous(), name, magnitude))
    assert torch.equal(images, kept)


def test_unknown_operation() -> None:
    with pytest.raises(KeyError):
        apply_operation(sample_images(4, 4), "swirl", 1.0)


def test_every_sub_policy_equals_its_two_steps_with_pillow() -> None:
    images = torch.cat([sample_images(32, 32)] * 25)
    random = torch.Generator().manual_seed(5)
    choice = torch.arange(25).repeat_interleave(12)
    applied = torch.rand(300, 2, generator=random) < 0.7
    sign = torch.randint(2, (300, 2), generator=random) * 2 - 1
    expected = to_images(images)
    for number in range(300):
        for place, (name, _, level) in enumerate(CIFAR_POLICY[choice[number]]):
            if applied[number, place]:
                expected[number] = apply(expected[number], name, MAGNITUDES[name][level], int(sign[number, place]), GREY)
    kept = images.clone()
    assert torch.equal(apply_policy(images, choice, applied, sign), to_batch(expected))
    assert torch.equal(images, kept)
