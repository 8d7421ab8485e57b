import pytest
import torch
from torchvision.transforms import InterpolationMode, v2

from lt_pipeline.augment.batched import BatchedView
from lt_pipeline.augment.config import PadCropView
from lt_pipeline.augment.signed_policy import _OPERATIONS, apply_step, signed_autoaugment

IMAGES = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("operation", _OPERATIONS)
def test_a_group_of_images_equals_torchvision_image_by_image(operation: str) -> None:
    transform = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, InterpolationMode.BILINEAR)
    space, signed = transform._AUGMENTATION_SPACE[operation]
    grid = space(10, 16, 16)
    for negative in (False, True):
        magnitude = 0.0 if grid is None else float(grid[6]) * (-1 if signed and negative else 1)
        for image, ours in zip(IMAGES[:4], apply_step(IMAGES[:4], operation, 6, negative), strict=True):
            expected = transform._apply_image_or_video_transform(image, operation, magnitude, transform.interpolation, transform._fill)
            assert torch.equal(ours, expected)


def test_rotation_goes_either_way() -> None:
    assert not torch.equal(apply_step(IMAGES[:1], "Rotate", 9, False), apply_step(IMAGES[:1], "Rotate", 9, True))


def test_equal_generators_give_equal_views_and_the_input_stays() -> None:
    before = IMAGES.clone()
    first, second = (signed_autoaugment(IMAGES, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second) and torch.equal(IMAGES, before)
    assert 0.5 < (first != IMAGES).flatten(1).any(1).float().mean() < 1


def test_the_view_takes_the_policy() -> None:
    view = BatchedView(PadCropView(padding=0, flip=0.0, policy="autoaugment_cifar_signed"))
    assert torch.equal(view(IMAGES, torch.Generator().manual_seed(1)), signed_autoaugment(IMAGES, torch.Generator().manual_seed(1)))
