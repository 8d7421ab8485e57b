"""RandAugment as timm has it, whose operations are those of MDCS (Zhao et al., ICCV 2023); timm is imported when it is needed.

timm draws from Python's and numpy's global generators; ``seeded`` makes what it draws depend on a seed alone.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lt_pipeline.errors import LongTailError

MEAN_COLOUR = (124, 116, 104)
"""ImageNet's, in grey levels."""


class RandAugment:
    """timm's RandAugment of PIL images; what is outside shows ImageNet's mean colour, bilinear or bicubic interpolation is drawn.

    The operations are made again where it is unpickled, so worker processes receive only its name.

    Args:
        name: timm's configuration, such as ``rand-n2-m10-mstd0.5``.

    Raises:
        LongTailError: if timm does not understand the name.
    """

    def __init__(self, name: str) -> None:
        from timm.data.auto_augment import rand_augment_transform

        self.name = name
        try:
            self._transform = rand_augment_transform(name, {"img_mean": MEAN_COLOUR})
        except (AssertionError, ValueError, KeyError) as error:
            raise LongTailError(f"timm does not understand the policy '{name}' ({error}); an example is rand-n2-m10-mstd0.5.") from error

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return an image of the same size; draws from the global generators of Python and numpy."""
        changed: Image.Image = self._transform(image)
        return changed

    def __reduce__(self) -> tuple[Any, ...]:
        return RandAugment, (self.name,)


def randaugment_operation(
    image: np.ndarray | Tensor,
    op: str,
    level: float,
    negate: bool = False,
    resample: Literal["bilinear", "bicubic"] = "bilinear",
    fill: Sequence[int] = MEAN_COLOUR,
) -> Tensor:
    """Apply one of timm's operations, its draws being given.

    Args:
        image: uint8 [H, W, 3].
        op: timm's name of the operation, such as ``Rotate`` or ``TranslateXRel``.
        level: its strength, 0 to 10.
        negate: turn the sign round of operations that draw one.
        resample: interpolation of geometric operations.
        fill: colour outside the image for these.

    Returns:
        uint8 [H, W, 3].

    Raises:
        LongTailError: if timm has no such operation.
    """
    from timm.data.auto_augment import NAME_TO_OP, AugmentOp

    if op not in NAME_TO_OP:
        raise LongTailError(f"timm has no operation '{op}'; there are {', '.join(sorted(NAME_TO_OP))}.")
    hparams = {"img_mean": tuple(fill), "interpolation": Image.Resampling[resample.upper()]}
    operation = AugmentOp(op, prob=1.0, magnitude=level, hparams=hparams)
    with seeded(_NEGATING if negate else _KEEPING):  # with all else given the sign is the first draw
        changed = operation(Image.fromarray(np.asarray(image)))
    return torch.from_numpy(np.array(changed))


_KEEPING, _NEGATING = 1, 0
"""Seeds after which Python's first number is below one half and above it, where timm negates."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let the global generators of Python, numpy and torch start from ``seed``, and go on afterwards as if nothing had happened."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - timm's generator
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
