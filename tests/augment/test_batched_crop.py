"""timm's transform on batches, against Pillow and timm one image at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter
from pydantic import ValidationError
from torch import Tensor

from lt_pipeline.augment.batched_colour import blurring_matrix, colour_jitter, gaussian_blur, lose_colour, shift_hue
from lt_pipeline.augment.batched_crop import BatchedCrop, BatchedEvaluation, draw_boxes
from lt_pipeline.augment.batched_randaugment import OPERATIONS, BatchedRandAugment, apply_drawn
from lt_pipeline.augment.config import TimmCropView
from lt_pipeline.augment.randaugment import MEAN_COLOUR, randaugment_operation
from lt_pipeline.augment.resize import resized, resizing_matrix
from lt_pipeline.augment.timm_view import TimmView
from lt_pipeline.errors import LongTailError

GEOMETRIC = {"Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"}


def photographs(count: int = 6, side: int = 32, seed: int = 0) -> Tensor:
    """Smooth colour images, uint8 [B, 3, H, W]; white noise would tell nothing of interpolation."""
    generator = np.random.default_rng(seed)
    rough = generator.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return torch.stack(
        [torch.from_numpy(np.array(Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC))) for one in rough]
    ).permute(0, 3, 1, 2)


def pillow(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def levels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@given(
    top=st.integers(0, 10),
    left=st.integers(0, 10),
    h=st.integers(1, 22),
    w=st.integers(1, 22),
    size=st.sampled_from([8, 16, 56]),
    cubic=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_resizing_a_box_is_pillows(top: int, left: int, h: int, w: int, size: int, cubic: bool) -> None:
    images = photographs(1, 32, seed=h)
    rows = resizing_matrix(torch.tensor([top]), torch.tensor([h]), 32, size, cubic)
    columns = resizing_matrix(torch.tensor([left]), torch.tensor([w]), 32, size, cubic)
    method = Image.Resampling.BICUBIC if cubic else Image.Resampling.BILINEAR
    expected = levels(pillow(images[0]).crop((left, top, left + w, top + h)).resize((size, size), method))
    difference = (resized(images, rows, columns)[0].permute(2, 0, 1).int() - expected.int()).abs()
    assert difference.max() <= 2 and difference.float().mean() < 0.2  # ties


def test_mirroring_turns_the_output_round() -> None:
    start, length = torch.tensor([3, 3]), torch.tensor([20, 20])
    matrix = resizing_matrix(start, length, 32, 48, mirror=torch.tensor([False, True]))
    torch.testing.assert_close(matrix[1], matrix[0].flip(0), rtol=0, atol=1e-5)
    torch.testing.assert_close(matrix.sum(-1), torch.ones(2, 48))


@given(height=st.integers(2, 40), width=st.integers(2, 40), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_boxes_lie_inside_the_image(height: int, width: int, seed: int) -> None:
    top, left, h, w = draw_boxes(200, height, width, (0.08, 1.0), (0.75, 4 / 3), torch.Generator().manual_seed(seed))
    assert (top >= 0).all() and (left >= 0).all() and (h >= 1).all() and (w >= 1).all()
    assert (top + h <= height).all() and (left + w <= width).all()


def test_boxes_have_timms_distribution() -> None:
    from timm.data.transforms import RandomResizedCropAndInterpolation as Crop

    image = Image.new("RGB", (32, 32))
    theirs = np.array([Crop.get_params(image, (0.08, 1.0), (0.75, 4 / 3)) for _ in range(4000)])
    ours = torch.stack(draw_boxes(4000, 32, 32, (0.08, 1.0), (0.75, 4 / 3), torch.Generator().manual_seed(0)), 1).numpy()
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=0.6)
    np.testing.assert_allclose(ours.std(0), theirs.std(0), atol=0.6)


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - GEOMETRIC))
@pytest.mark.parametrize("level", [0.0, 3.7, 9.0, 10.0])
@pytest.mark.parametrize("negate", [False, True])
def test_operations_on_levels_are_timms(name: str, level: float, negate: bool) -> None:
    images = photographs(2)
    pixels = images.permute(0, 2, 3, 1).contiguous()
    draws = (torch.zeros(2, dtype=torch.int64), torch.ones(2, dtype=torch.bool), torch.full((2,), level).double())
    done = apply_drawn(pixels, [name], *draws, torch.full((2,), -1.0 if negate else 1.0).double(), True, MEAN_COLOUR)
    for ours, image in zip(done, pixels, strict=True):
        assert torch.equal(ours, randaugment_operation(image, name, level, negate))


@pytest.mark.parametrize("name", sorted(GEOMETRIC))
@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
@pytest.mark.parametrize("negate", [False, True])
def test_geometric_operations_are_timms_but_for_the_interpolation(name: str, resample: str, negate: bool) -> None:
    pixels = photographs(2, 64).permute(0, 2, 3, 1).contiguous()
    draws = (torch.zeros(2, dtype=torch.int64), torch.ones(2, dtype=torch.bool), torch.full((2,), 6.3).double())
    done = apply_drawn(pixels, [name], *draws, torch.full((2,), -1.0 if negate else 1.0).double(), resample == "bicubic", MEAN_COLOUR)
    expected = torch.stack([randaugment_operation(image, name, 6.3, negate, resample) for image in pixels])
    difference = (done.int() - expected.int()).abs().float()
    assert difference.mean() < 1.5 and (difference > 12).float().mean() < 0.01
    untouched = (pixels.int() - expected.int()).abs().float().mean()
    assert untouched > 10, "the operation itself moves far more than the interpolation"


def test_the_rest_of_a_batch_is_left_alone() -> None:
    pixels = photographs(4).permute(0, 2, 3, 1).contiguous()
    before = pixels.clone()
    applied = torch.tensor([True, False, True, False])
    names = ["Invert", "Rotate"]
    done = apply_drawn(
        pixels, names, torch.tensor([0, 0, 1, 1]), applied, torch.full((4,), 9.0).double(), torch.ones(4).double(), True, (0, 0, 0)
    )
    assert torch.equal(pixels, before) and torch.equal(done[applied.logical_not()], before[applied.logical_not()])
    assert torch.equal(done[0], ~before[0]) and not torch.equal(done[2], before[2])


def test_a_policy_is_read_by_timm() -> None:
    pixels = photographs(64, 16).permute(0, 2, 3, 1).contiguous()
    half = BatchedRandAugment("rand-n1-m9-mstd0.5-inc1")(pixels, torch.Generator().manual_seed(0))
    share = (half != pixels).flatten(1).any(1).float().mean()
    assert 0.25 < share < 0.65, "each operation takes place half the time"
    always = BatchedRandAugment("rand-n2-m9-p1.0-inc1")(pixels, torch.Generator().manual_seed(0))
    assert (always != pixels).flatten(1).any(1).float().mean() > 0.8
    with pytest.raises(LongTailError, match="which has no form for packed images"):
        BatchedRandAugment("rand-m9-t3a")


def test_hue_saturation_and_the_rest_are_torchvisions() -> None:
    from torchvision.transforms import functional as tv

    pixels = photographs(3).permute(0, 2, 3, 1).contiguous()
    for turns in (-0.1, 0.05, 0.5):
        ours = shift_hue(pixels, torch.full((3,), turns))
        expected = torch.stack([torch.from_numpy(np.array(tv.adjust_hue(Image.fromarray(one.numpy()), turns))) for one in pixels])
        assert (ours.int() - expected.int()).abs().float().mean() < 3, "Pillow rounds hue and saturation to 256 levels in between"
    generator = torch.Generator().manual_seed(0)
    grey = lose_colour(pixels, generator, 1.0)
    assert torch.equal(
        grey, torch.stack([torch.from_numpy(np.array(ImageEnhance.Color(Image.fromarray(one.numpy())).enhance(0))) for one in pixels])
    )
    assert torch.equal(lose_colour(pixels, generator, 0.0), pixels)
    assert torch.equal(colour_jitter(pixels, generator, (0.4, 0.4, 0.4, 0.1), 0.0), pixels)
    assert not torch.equal(colour_jitter(pixels, generator, (0.4, 0.4, 0.4, 0.1)), pixels)


def test_blur_is_gaussian_and_keeps_flat_images() -> None:
    flat = torch.full((2, 12, 12, 3), 90, dtype=torch.uint8)
    assert torch.equal(gaussian_blur(flat, torch.Generator().manual_seed(0), 1.0), flat)
    pixels = photographs(1, 64).permute(0, 2, 3, 1).contiguous()
    weights = blurring_matrix(torch.tensor([1.5]), 64)[:, None]
    ours = (weights @ pixels.permute(0, 3, 1, 2).float() @ weights.mT)[0, :, 12:-12, 12:-12]
    expected = levels(Image.fromarray(pixels[0].numpy()).filter(ImageFilter.GaussianBlur(1.5)))[:, 12:-12, 12:-12]
    assert (ours - expected).abs().mean() < 1  # Pillow's is made of box filters


def test_views_are_reproducible_and_of_the_asked_size() -> None:
    view = TimmCropView(size=56, test_resize=64, policy="rand-m9-mstd0.5-inc1")
    images = photographs(8, 20)
    make = BatchedCrop(view)
    one, two, other = (make(images, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert one.shape == (8, 3, 56, 56) and one.dtype == torch.uint8
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_a_view_without_chance_is_the_resized_image() -> None:
    view = TimmCropView(size=56, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, test_resize=56)
    images = photographs(3, 28)
    ours = BatchedCrop(view)(images, torch.Generator())
    expected = torch.stack([levels(pillow(image).resize((56, 56), Image.Resampling.BICUBIC)) for image in images])
    assert (ours.int() - expected.int()).abs().max() <= 1
    assert (torch.stack([TimmView(view)(image.permute(1, 2, 0).numpy(), 0) for image in images]).int() - expected.int()).abs().max() == 0


def test_evaluation_resizes_and_crops_the_centre() -> None:
    view = TimmCropView(size=56, test_resize=64)
    images = photographs(2, 32)
    expected = torch.stack([levels(pillow(image).resize((64, 64), Image.Resampling.BICUBIC).crop((4, 4, 60, 60))) for image in images])
    assert (BatchedEvaluation(view)(images).int() - expected.int()).abs().max() <= 1


def test_a_timm_view_depends_on_its_seed_alone() -> None:
    view = TimmView(TimmCropView(size=24, test_resize=24, policy="rand-m9-mstd0.5-inc1"))
    image = photographs(1)[0].permute(1, 2, 0).numpy()
    assert torch.equal(view(image, 5), view(image, 5)) and not torch.equal(view(image, 5), view(image, 6))
    assert view(image, 5).shape == (3, 24, 24)


def test_every_strength_of_posterising_works() -> None:
    """Pillow 13 refuses to keep 0 bits, which timm asks for about once in seven hundred images; the pin keeps it away."""
    pixels = photographs(1)[0].permute(1, 2, 0).contiguous()
    assert not randaugment_operation(pixels, "PosterizeIncreasing", 10.0).any()


def test_bad_views_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"test_resize \(200\) must be at least size \(224\)"):
        TimmCropView(test_resize=200)
    with pytest.raises(ValidationError, match="exclude each other"):
        TimmCropView(policy="rand-m9", color_jitter=(0.4, 0.4, 0.4, 0.0))
    with pytest.raises(ValidationError, match="unknown policy"):
        TimmCropView(policy="randaugment")
    with pytest.raises(ValidationError, match="smallest, largest"):
        TimmCropView(scale=(0.5, 0.2))
