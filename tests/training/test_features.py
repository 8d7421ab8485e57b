"""Features that are computed once: the same as the network's, drawn as the views say, kept while nothing changes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lt_pipeline.augment.config import PadCropView, ResizedCropView
from lt_pipeline.augment.decoded import DecodedView
from lt_pipeline.augment.normalise import Normalise
from lt_pipeline.errors import LongTailError
from lt_pipeline.training.config import TrainerConfig
from lt_pipeline.training.features import (
    FeatureCache,
    Features,
    augmented_features,
    features_fingerprint,
    load_features,
    plain_features,
    save_features,
)
from tests.training.toy import toy_images

TRAINER = TrainerConfig(device="cpu", threads=1, evaluation_batch=16)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def backbone() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Flatten())


def test_plain_features_are_what_the_network_says_of_the_images() -> None:
    images, network = toy_images(), backbone().eval()
    pixels = torch.from_numpy(np.asarray(images.images.array)).permute(0, 3, 1, 2)  # type: ignore[union-attr]
    with torch.no_grad():
        expected = network(Normalise(MEAN, STD)(pixels)).numpy()
    np.testing.assert_allclose(plain_features(network, images, PadCropView(), MEAN, STD, TRAINER, ""), expected, atol=1e-5)


def test_draws_differ_and_repeat_under_one_seed() -> None:
    images, network = toy_images(), backbone()
    views = (PadCropView(padding=2), PadCropView(padding=0, flip=0.0))
    first, again, other = (augmented_features(network, images, views, 3, MEAN, STD, TRAINER, seed) for seed in (0, 0, 1))
    assert first.shape == (2, 3, 53, 180) and first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], other[0]) and not np.array_equal(first[0, 0], first[0, 1])
    plain = plain_features(network, images, views[1], MEAN, STD, TRAINER, "")
    for draw in first[1]:  # nothing is random in the second view
        np.testing.assert_allclose(draw, plain, atol=1e-5)


def test_a_processor_looks_at_few_large_images_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    images, network = toy_images(), backbone()
    views = (PadCropView(padding=2),)
    seen: list[int] = []
    network.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))

    def told() -> tuple[np.ndarray, np.ndarray, int]:
        seen.clear()
        plain = plain_features(network, images, views[0], MEAN, STD, TRAINER, "")
        return plain, augmented_features(network, images, views, 2, MEAN, STD, TRAINER, 0), max(seen)

    plain, drawn, most = told()
    height, width = images.images.array.shape[1:3]  # type: ignore[union-attr]
    monkeypatch.setattr("lt_pipeline.training.inference._PIXELS", 3 * height * width)
    plain_in_threes, drawn_in_threes, few = told()
    assert (most, few) == (16, 3)
    np.testing.assert_allclose(plain_in_threes, plain, atol=1e-5)
    np.testing.assert_allclose(drawn_in_threes, drawn, atol=1e-5)


def test_features_are_kept_under_their_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "sp2ot" / "features.safetensors"
    beside = FeatureCache(tmp_path / "p2ot" / "features.safetensors")
    generator = np.random.default_rng(0)
    known = Features(*(generator.normal(size=shape).astype(np.float32) for shape in ((6, 3), (4, 3), (2, 2, 6, 3))), "abc")
    assert FeatureCache(path).find("abc") is None
    save_features(known, path)
    found = FeatureCache(path).find("abc")
    assert found is not None and found.views is not None
    np.testing.assert_array_equal(found.views, known.views)
    assert FeatureCache(path).find("abd") is None
    assert beside.find("abc") is not None and beside.find("abd") is None  # another method's features are as good
    save_features(Features(known.train, known.test, None, "x"), path)
    assert load_features(path).views is None
    path.write_bytes(path.read_bytes()[:20])
    assert FeatureCache(path).find("x") is None and features_fingerprint(path) is None
    with pytest.raises(LongTailError, match="No whole features"):
        load_features(path)


def test_the_published_view_crops_out_of_the_resized_image() -> None:
    image = np.zeros((30, 60, 3), np.uint8)
    image[:, :30] = 200
    view = DecodedView(ResizedCropView(size=16, train_resize=20, flip=0.0))
    crops = torch.stack([view(image, seed) for seed in range(20)])
    assert crops.shape == (20, 3, 16, 16)
    assert not (crops[0] == crops).all()
    boundary = (crops[:, 0] > 100).sum((1, 2)) / 16  # columns of the bright half: its 20 less the offset, at most the whole crop
    assert ((boundary >= 0) & (boundary <= 16)).all() and boundary.unique().numel() > 3
    with pytest.raises(ValueError, match=r"train_resize \(10\) must be at least size \(16\)"):
        ResizedCropView(size=16, train_resize=10, test_resize=20)
