"""Hiding the metadata of some images while training (Diao et al., arXiv 2203.02751, section 3.3).

A network that always sees where a picture was taken would be lost without; the share of images without metadata therefore falls from all of them
to almost none.
"""

import torch
from torch import Tensor

from lt_pipeline.methods.metaformer.config import MaskingConfig


def masked_share(config: MaskingConfig, epoch: int, epochs: int) -> float:
    """Return the share of images without metadata in ``epoch`` (0-based) of ``epochs``: ``start - epoch / epochs``, or ``start`` throughout.

    With ``start`` below 1 the line passes zero; ``floored`` ends it there.
    """
    if config.kind == "constant":
        return config.start
    share = config.start - epoch / epochs
    return max(share, 0.0) if config.floored else share


def masked_images(share: float, images: int) -> int:
    """Return how many of so many images lose their metadata, rounded down.

    A negative share counts from the end, as the slice in the authors' code does: the less is to be hidden, the more is.
    """
    return len(range(images)[: int(images * share)])


def mask_metadata(metadata: Tensor, share: float, permutation: Tensor | None = None) -> Tensor:
    """Return a copy of metadata [B, ...] that is missing (NaN) throughout for a share of the images.

    Args:
        metadata: float [B, d] or [B, T, d].
        share: of the images, see :func:`masked_images`.
        permutation: int64 [B], whose first images are masked; None draws one.
    """
    order = torch.randperm(len(metadata), device=metadata.device) if permutation is None else permutation
    masked = metadata.clone()
    masked[order[: masked_images(share, len(metadata))]] = torch.nan
    return masked
