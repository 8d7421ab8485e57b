"""The policy as torchvision has it: its table, and every operation equal to torchvision's on Pillow images to the bit."""

import pytest
import torch
from torch import Generator
from torchvision.transforms import InterpolationMode, autoaugment, v2
from torchvision.transforms.v2 import functional

from lt_pipeline.augment.batched import BatchedView
from lt_pipeline.augment.batched import autoaugment as batched_autoaugment
from lt_pipeline.augment.config import PadCropView
from lt_pipeline.augment.policies import CIFAR_POLICY, OPERATIONS, apply_operation
from lt_pipeline.augment.signed_policy import SIGNED_VARIANT
from tests.augment.pillow import sample_images, to_batch, to_images

SIZES = ((32, 32), (33, 17), (2, 5), (64, 48))
PUBLISHED = autoaugment.AutoAugment(autoaugment.AutoAugmentPolicy.CIFAR10, InterpolationMode.BILINEAR)
NAMES = {"color": "Color", "autocontrast": "AutoContrast"} | {
    name: name[0].upper() + name[1:] for name in OPERATIONS if name not in ("color", "autocontrast")
}


def published_magnitude(name: str, level: int, height: int, width: int) -> float:
    magnitudes, _ = PUBLISHED._augmentation_space(10, (height, width))[NAMES[name]]
    return float(magnitudes[level]) if magnitudes.ndim else 0.0


def test_rows_and_probabilities_are_torchvisions() -> None:
    assert len(PUBLISHED.policies) == len(CIFAR_POLICY)
    for theirs, ours in zip(PUBLISHED.policies, CIFAR_POLICY, strict=True):
        for (name, probability, level), (our_name, our_probability, our_level) in zip(theirs, ours, strict=True):
            assert (NAMES[our_name], our_probability) == (name, probability)
            assert level in (None, our_level)  # operations without a magnitude have no level there


def test_magnitudes_and_signs_are_torchvisions() -> None:
    space = PUBLISHED._augmentation_space(10, (1, 1))
    for name in OPERATIONS:
        assert space[NAMES[name]][1] == (name in SIGNED_VARIANT.signed)
        expected = [published_magnitude(name, level, 1, 1) for level in range(10)]
        assert SIGNED_VARIANT.magnitudes[name] == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_operation_equals_torchvision_on_pillow_images(name: str, size: tuple[int, int]) -> None:
    images = sample_images(*size)
    for level, magnitude in enumerate(SIGNED_VARIANT.magnitudes[name]):
        for sign in (1, -1) if name in SIGNED_VARIANT.signed else (1,):
            theirs = sign * published_magnitude(name, level, *size)
            changed = [
                autoaugment._apply_op(picture, NAMES[name], theirs, InterpolationMode.BILINEAR, None) for picture in to_images(images)
            ]
            actual = apply_operation(images, name, magnitude, sign, variant=SIGNED_VARIANT)
            assert torch.equal(actual, to_batch(changed)), (level, sign)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_is_near_torchvisions_on_tensors(name: str) -> None:
    images = sample_images(32, 32)[4:7].contiguous()  # smooth: a difference is not a matter of rounding a position
    transform = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, InterpolationMode.BILINEAR)
    for sign in (1, -1) if name in SIGNED_VARIANT.signed else (1,):
        theirs = sign * published_magnitude(name, 6, 32, 32) / (255 if name == "solarize" else 1)
        expected = transform._apply_image_or_video_transform(images, NAMES[name], theirs, transform.interpolation, transform._fill)
        actual = apply_operation(images, name, SIGNED_VARIANT.magnitudes[name][6], sign, variant=SIGNED_VARIANT)
        assert ((actual.int() - expected.int()).abs() <= 2).float().mean() > 0.93


@pytest.mark.parametrize("name", OPERATIONS)
def test_magnitudes_and_signs_may_differ_within_a_batch(name: str) -> None:
    images = sample_images(32, 32)[:10]
    magnitude = torch.tensor(SIGNED_VARIANT.magnitudes[name], dtype=torch.float64)
    sign = torch.tensor([1, -1] * 5)
    alone = [apply_operation(images[i : i + 1], name, float(magnitude[i]), int(sign[i]), variant=SIGNED_VARIANT) for i in range(10)]
    assert torch.equal(apply_operation(images, name, magnitude, sign, variant=SIGNED_VARIANT), torch.cat(alone))


def test_rotation_goes_either_way_and_shows_black() -> None:
    white = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    one, other = (apply_operation(white, "rotate", 30.0, sign, variant=SIGNED_VARIANT) for sign in (1, -1))
    assert one[0, :, 0, 0].tolist() == [0, 0, 0]
    assert not torch.equal(one, other) and torch.equal(one.flip(3), other)
    assert torch.equal(one.bool(), functional.rotate(white, 30.0).bool())


def test_equal_generators_give_equal_views_and_the_input_stays() -> None:
    images = torch.cat([sample_images(16, 16)] * 4)
    before = images.clone()
    view = BatchedView(PadCropView(padding=0, flip=0.0, policy="autoaugment_cifar_signed"))
    first, second = (view(images, Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second) and torch.equal(images, before)
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert not torch.equal(first, view(images, Generator().manual_seed(4)))
    assert torch.equal(first, batched_autoaugment(images, Generator().manual_seed(3), SIGNED_VARIANT))
    assert not torch.equal(first, batched_autoaugment(images, Generator().manual_seed(3)))
