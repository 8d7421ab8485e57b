import random

import numpy as np
import pytest
import torch

from lt_pipeline.augment.batch_mixing import MixupCutmix, PixelErasing
from lt_pipeline.errors import LongTailError


def test_mixing_follows_torchs_seed_and_leaves_the_global_generators_alone() -> None:
    images, labels, mix = torch.randn(6, 3, 8, 8), torch.arange(6) % 3, MixupCutmix(3)
    results, states = [], []
    for python_seed in (1, 2):
        random.seed(python_seed)
        np.random.seed(python_seed)  # noqa: NPY002
        torch.manual_seed(0)
        results.append(mix(images.clone(), labels))
        states.append((random.random(), np.random.rand()))  # noqa: NPY002
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    assert states[0] == (random.random(), np.random.rand())  # noqa: NPY002
    torch.testing.assert_close(results[0][1].sum(1), torch.ones(6))


def test_without_mixing_labels_are_still_smoothed() -> None:
    images = torch.randn(3, 3, 4, 4)
    same, targets = MixupCutmix(4, 0.0, 0.0, 0.1)(images, torch.tensor([0, 1, 2]))
    assert torch.equal(same, images)
    torch.testing.assert_close(targets[0], torch.tensor([0.925, 0.025, 0.025, 0.025]))


def test_an_odd_batch_is_refused() -> None:
    with pytest.raises(LongTailError, match="this one has 3"):
        MixupCutmix(4)(torch.randn(3, 3, 4, 4), torch.arange(3))


def test_erasing_hits_its_share_with_noise() -> None:
    torch.manual_seed(0)
    erased = PixelErasing(0.25)(torch.full((400, 3, 16, 16), 9.0))
    touched = (erased != 9.0).flatten(1).any(1)
    assert 0.18 < touched.float().mean() < 0.32
    noise = erased[erased != 9.0]
    assert noise.mean().abs() < 0.1 and abs(noise.std() - 1) < 0.1
    assert torch.equal(PixelErasing(0.0)(torch.ones(2, 3, 4, 4)), torch.ones(2, 3, 4, 4))
