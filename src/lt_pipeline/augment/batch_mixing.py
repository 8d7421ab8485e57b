"""What DeiT's recipe does to a normalised batch: erasing, then mixup or cutmix with smoothed labels, both by timm.

timm draws from the global generators of Python and numpy; here everything follows from PyTorch's, which the training loop seeds at every step.
"""

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from lt_pipeline.augment.randaugment import seeded
from lt_pipeline.errors import LongTailError


class PixelErasing:
    """Random erasing (Zhong et al., AAAI 2020) of one rectangle an image with noise, Normal(0, 1) per pixel and channel.

    Args:
        probability: of erasing an image.
    """

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def __call__(self, images: Tensor) -> Tensor:
        """Erase in normalised images [B, 3, H, W], in place."""
        if not self.probability:
            return images
        from timm.data.random_erasing import RandomErasing

        with _from_torch():
            erased: Tensor = RandomErasing(self.probability, mode="pixel", max_count=1, device=images.device)(images)
        return erased


class MixupCutmix:
    """Mixup (Zhang et al., ICLR 2018) or cutmix (Yun et al., ICCV 2019), one of them for each batch, with the batch turned round as partner.

    Args:
        num_classes: C.
        mixup: alpha of mixup's Beta distribution; 0 is without.
        cutmix: alpha of cutmix's; 0 is without. With both, each batch gets one of them, equally likely.
        smoothing: of the labels.
    """

    def __init__(self, num_classes: int, mixup: float = 0.8, cutmix: float = 1.0, smoothing: float = 0.1) -> None:
        self.num_classes, self.mixup, self.cutmix, self.smoothing = num_classes, mixup, cutmix, smoothing

    @property
    def mixes(self) -> bool:
        """Whether images are mixed at all."""
        return bool(self.mixup or self.cutmix)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix images [B, 3, H, W] in place; return them and the distributions over classes, float32 [B, C].

        Raises:
            LongTailError: if the batch is odd, so that the middle image has no partner.
        """
        from timm.data.mixup import Mixup, mixup_target

        if not self.mixes:
            return images, mixup_target(labels, self.num_classes, smoothing=self.smoothing)
        if len(images) % 2:
            raise LongTailError(
                f"Mixup pairs the images of a batch, and this one has {len(images)}: choose an even batch_size / accumulate and "
                "sampler.drop_last=true or sampler.kind=repeated."
            )
        mixer = Mixup(self.mixup, self.cutmix, label_smoothing=self.smoothing, num_classes=self.num_classes)
        with _from_torch():
            mixed, targets = mixer(images, labels)
        return mixed, targets


def _from_torch() -> AbstractContextManager[None]:
    return seeded(int(torch.randint(2**31, ()).item()))
