"""Mixing images of a batch with each other: mixup (Zhang et al., ICLR 2018) and cutmix (Yun et al., ICCV 2019).

torchvision's transforms do the work: an image's partner is its predecessor in the batch, one factor is drawn for the whole batch, and the label
of a cut image weighs the area that was actually kept. They draw from PyTorch's global generator, which the training loop seeds at every step.
"""

from torch import Tensor


class Mixing:
    """Mixup, cutmix, or for each batch one of the two.

    Args:
        num_classes: C.
        mixup: alpha of mixup's Beta distribution; 0 is without.
        cutmix: alpha of cutmix's; 0 is without. With both, each batch gets one of them, equally likely.
    """

    def __init__(self, num_classes: int, mixup: float = 0.0, cutmix: float = 0.0) -> None:
        self._transform = None
        if mixup or cutmix:
            from torchvision.transforms import v2  # takes seconds to import

            kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
            self._transform = v2.RandomChoice([kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha])

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mixed images [B, 3, H, W] and distributions over classes [B, C], or images and labels [B] as they are without any mixing."""
        if self._transform is None:
            return images, labels
        mixed, targets = self._transform(images, labels)
        return mixed, targets
