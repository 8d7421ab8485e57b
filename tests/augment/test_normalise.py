"""Normalisation equals torchvision's to the bit."""

import pytest
import torch
from PIL import Image
from torchvision import transforms

from lt_pipeline.augment.normalise import Normalise
from tests.augment.pillow import sample_images, to_images

CONSTANTS = [
    ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ((0.466, 0.471, 0.380), (0.195, 0.194, 0.192)),
]


@pytest.mark.parametrize(("mean", "std"), CONSTANTS)
def test_equals_torchvision(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    published = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    for images in (sample_images(28, 28), sample_images(33, 17), every):
        pictures: list[Image.Image] = to_images(images)
        expected = torch.stack([published(picture) for picture in pictures])
        assert torch.equal(Normalise(mean, std)(images), expected)
        assert torch.equal(Normalise(mean, std)(images.contiguous()), expected)


def test_memory_format_is_kept() -> None:
    images, normalise = sample_images(32, 32), Normalise(*CONSTANTS[0])
    assert normalise(images).is_contiguous(memory_format=torch.channels_last)
    assert normalise(images.contiguous()).is_contiguous()
    assert normalise(images).dtype == torch.float32


def test_it_adds_nothing_to_a_checkpoint() -> None:
    assert not Normalise(*CONSTANTS[0]).state_dict()
