import pytest
import torch

from lt_pipeline.augment.mixing import Mixing

IMAGES, LABELS = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 2])


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.2, 0.0), (0.0, 1.0), (0.2, 1.0)])
def test_targets_are_distributions_and_draws_follow_the_global_seed(mixup: float, cutmix: float) -> None:
    mix = Mixing(3, mixup, cutmix)
    torch.manual_seed(0)
    images, targets = mix(IMAGES, LABELS)
    torch.manual_seed(0)
    again = mix(IMAGES, LABELS)
    assert torch.equal(images, again[0]) and torch.equal(targets, again[1])
    assert targets.shape == (4, 3) and images.shape == IMAGES.shape
    torch.testing.assert_close(targets.sum(1), torch.ones(4))
    assert targets[3, 2] == 1  # its partner is of the same class


def test_without_mixing_labels_stay_labels() -> None:
    images, targets = Mixing(3)(IMAGES, LABELS)
    assert images is IMAGES and targets is LABELS


def test_both_kinds_occur() -> None:
    mix = Mixing(3, 1.0, 1.0)
    torch.manual_seed(0)
    kinds = {bool(torch.isin(mix(IMAGES, LABELS)[0], IMAGES).all()) for _ in range(20)}
    assert kinds == {True, False}  # cutmix keeps pixels, mixup does not
