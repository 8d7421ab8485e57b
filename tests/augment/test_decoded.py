"""Views of decoded images."""

import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from lt_pipeline.augment.config import ResizedCropView
from lt_pipeline.augment.decoded import DecodedView, EvaluationView

VIEW = ResizedCropView(size=24, color_jitter=(0.4, 0.4, 0.4, 0.1), test_resize=28)
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 40, 51, 3), dtype=np.uint8)


class Views(Dataset):
    def __init__(self, view: ResizedCropView) -> None:
        self.view = DecodedView(view)

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.view(IMAGES[index], 100 + index)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("policy", ["none", "autoaugment_imagenet", "rand-n2-m10-mstd0.5"])
def test_workers_see_what_the_main_process_sees(workers: int, policy: str) -> None:
    views = Views(ResizedCropView(size=24, color_jitter=(0.4, 0.4, 0.4, 0.1), policy=policy, erasing=0.5, test_resize=28))
    here = torch.stack([views[index] for index in range(len(IMAGES))])
    there = torch.cat(list(DataLoader(views, batch_size=2, num_workers=workers)))
    assert torch.equal(here, there)


def test_a_view_depends_on_its_seed_alone() -> None:
    view = DecodedView(VIEW)
    first = view(IMAGES[0], 3)
    torch.rand(5)
    state = torch.get_rng_state()
    assert torch.equal(view(IMAGES[0], 3), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(view(IMAGES[0], 4), first)


def test_shapes_types_and_pickling() -> None:
    for view in (DecodedView(VIEW), pickle.loads(pickle.dumps(DecodedView(VIEW)))):
        out = view(IMAGES[0], 0)
        assert out.shape == (3, 24, 24) and out.dtype == torch.uint8
    for evaluation in (EvaluationView(VIEW), pickle.loads(pickle.dumps(EvaluationView(VIEW)))):
        out = evaluation(IMAGES[0])
        assert out.shape == (3, 24, 24) and out.dtype == torch.uint8


def test_evaluation_crops_the_centre_of_the_resized_image() -> None:
    view = EvaluationView(ResizedCropView(size=20, test_resize=40))
    assert torch.equal(view(IMAGES[0]), torch.from_numpy(IMAGES[0, 10:30, 16:36].copy()).permute(2, 0, 1))


def test_images_smaller_than_the_view_and_read_only_or_reversed_memory() -> None:
    tiny = IMAGES[0, :3, :2]
    tiny.setflags(write=False)
    assert DecodedView(VIEW)(tiny, 1).shape == (3, 24, 24)
    assert EvaluationView(VIEW)(IMAGES[0, ::-1, ::-1]).shape == (3, 24, 24)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizing_is_near_pillows(interpolation: str) -> None:
    from PIL import Image
    from torchvision import transforms

    mode = transforms.InterpolationMode(interpolation)
    published = transforms.Compose([transforms.Resize(28, mode), transforms.CenterCrop(24), transforms.PILToTensor()])
    expected = published(Image.fromarray(IMAGES[1])).int()
    actual = EvaluationView(ResizedCropView(size=24, test_resize=28, interpolation=interpolation))(IMAGES[1]).int()
    assert (actual - expected).abs().max() <= 1


def _seed_everything() -> None:
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002 - timm draws from it
    torch.manual_seed(5)


def _draw_from_everything() -> tuple[float, ...]:
    return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002


@pytest.mark.parametrize("policy", ["autoaugment_imagenet", "randaugment", "rand-n2-m10-mstd0.5"])
def test_policies_depend_on_the_seed_alone_and_leave_other_generators_alone(policy: str) -> None:
    view = DecodedView(ResizedCropView(size=24, policy=policy, erasing=0.5, test_resize=28))
    first = [view(image, seed) for seed, image in enumerate(IMAGES)]
    _seed_everything()
    expected = _draw_from_everything()
    _seed_everything()
    second = [pickle.loads(pickle.dumps(view))(image, seed) for seed, image in enumerate(IMAGES)]
    assert _draw_from_everything() == expected
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    plain = DecodedView(ResizedCropView(size=24, test_resize=28))
    assert any(not torch.equal(a, plain(image, seed)) for seed, (image, a) in enumerate(zip(IMAGES, first, strict=True)))


def test_erasing_leaves_a_rectangle_of_the_mean_colour() -> None:
    view = DecodedView(ResizedCropView(size=24, erasing=1.0, test_resize=28))
    erased = (view(IMAGES[0], 0) == torch.tensor([124, 116, 104])[:, None, None]).all(0)
    rows, columns = erased.any(1).nonzero(), erased.any(0).nonzero()
    assert erased.sum() >= 0.9 * len(rows) * len(columns) > 0


def test_steps_come_in_order() -> None:
    settings = {"size": 24, "color_jitter": (0.4, 0.4, 0.4, 0.0), "test_resize": 28}
    policies = {"autoaugment_imagenet": ["AutoAugment"], "randaugment": ["RandAugment"], "rand-m9": ["ToPILImage", "Lambda", "PILToTensor"]}
    for policy, expected in policies.items():
        steps = DecodedView(ResizedCropView(policy=policy, erasing=0.5, **settings))._transform.transforms
        names = [type(step).__name__ for step in steps]
        assert names == ["RandomResizedCrop", "RandomHorizontalFlip", "ColorJitter", *expected, "RandomErasing"]


def test_timm_is_imported_only_when_needed() -> None:
    code = """
import sys
from lt_pipeline.augment.config import ResizedCropView
from lt_pipeline.augment.decoded import DecodedView
DecodedView(ResizedCropView(policy="randaugment", erasing=0.5))
sys.exit("timm" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
