"""From positions in a split to batches on the device.

Small sets lie on the device as uint8 and are augmented there, a batch at a time. Large images are decoded and cropped by worker processes and
arrive as uint8. Either way normalisation happens on the device, last.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lt_pipeline.augment.batched import BatchedView
from lt_pipeline.augment.batched_crop import BatchedCrop, BatchedEvaluation
from lt_pipeline.augment.config import PadCropView, ResizedCropView, TimmCropView, View
from lt_pipeline.data.images import PackedImages
from lt_pipeline.data.split import ImageSet
from lt_pipeline.errors import LongTailError
from lt_pipeline.training.randomness import derive_seed, generator
from lt_pipeline.training.task import Batch

if TYPE_CHECKING:
    from lt_pipeline.augment.decoded import DecodedView, EvaluationView
    from lt_pipeline.augment.timm_view import TimmView


@dataclass(frozen=True)
class Chunk:
    """What one forward pass of one rank sees.

    Attributes:
        positions: int64 [B], positions in the split.
        key: seeds the augmentation; equal keys and positions give equal batches.
    """

    positions: np.ndarray
    key: tuple[int | str, ...]


class Feed:
    """Turns chunks into batches for training."""

    def __init__(self, images: ImageSet, normalise: nn.Module, device: torch.device, layout: torch.memory_format) -> None:
        self._set, self._normalise, self._device = images, normalise.to(device), device
        self._layout = layout
        self._labels = torch.from_numpy(images.labels).to(device)
        self._metadata = None if images.metadata is None else torch.from_numpy(images.metadata)

    def batches(self, chunks: Sequence[Chunk]) -> Iterator[Batch]:
        """Yield one batch per chunk, in order."""
        for chunk, pixels in zip(chunks, self._views(chunks), strict=True):
            indices = torch.from_numpy(chunk.positions).to(self._device)
            metadata = None if self._metadata is None else self._metadata[torch.from_numpy(chunk.positions)].to(self._device)
            yield Batch(tuple(self._finish(view) for view in pixels), self._labels[indices], indices, metadata)

    def _finish(self, pixels: Tensor) -> Tensor:
        return self._normalise(pixels.to(self._device, non_blocking=True)).contiguous(memory_format=self._layout)

    def _views(self, chunks: Sequence[Chunk]) -> Iterator[Sequence[Tensor]]:
        raise TypeError(f"{type(self).__name__} must define _views")


class ResidentFeed(Feed):
    """A small set of equal-sized images that stays on the device as uint8 [N, H, W, 3]."""

    def __init__(
        self, images: ImageSet, views: Sequence[View], normalise: nn.Module, device: torch.device, layout: torch.memory_format
    ) -> None:
        super().__init__(images, normalise, device, layout)
        self._pixels = resident_pixels(images, device)
        self._augment = [_batched(view) for view in views]

    def _views(self, chunks: Sequence[Chunk]) -> Iterator[Sequence[Tensor]]:
        for chunk in chunks:
            batch = self._pixels.index_select(0, torch.from_numpy(chunk.positions).to(self._device)).permute(0, 3, 1, 2)
            yield [augment(batch, generator(*chunk.key, number)) for number, augment in enumerate(self._augment)]


def _batched(view: View) -> Callable[[Tensor, torch.Generator], Tensor]:
    if isinstance(view, TimmCropView):
        return BatchedCrop(view)
    assert isinstance(view, PadCropView)
    return BatchedView(view)


class DecodedFeed(Feed):
    """Images that are decoded, cropped and resized one by one in worker processes."""

    def __init__(
        self, images: ImageSet, views: Sequence[View], normalise: nn.Module, device: torch.device, layout: torch.memory_format, workers: int
    ) -> None:
        super().__init__(images, normalise, device, layout)
        self._views_of_one = _Decoder(images, [_decoded(view) for view in views])
        self._workers = workers

    def _views(self, chunks: Sequence[Chunk]) -> Iterator[Sequence[Tensor]]:
        plan = [[(int(position), derive_seed(*chunk.key, place)) for place, position in enumerate(chunk.positions)] for chunk in chunks]
        return iter(DataLoader(self._views_of_one, batch_sampler=plan, num_workers=self._workers, pin_memory=self._device.type == "cuda"))


def _decoded(view: View) -> "DecodedView | TimmView":
    if isinstance(view, TimmCropView):  # both bring torchvision, which takes seconds to import and small images do not need
        from lt_pipeline.augment.timm_view import TimmView

        return TimmView(view)
    from lt_pipeline.augment.decoded import DecodedView

    assert isinstance(view, ResizedCropView)
    return DecodedView(view)


class _Decoder(Dataset[tuple[Tensor, ...]]):
    def __init__(self, images: ImageSet, views: "Sequence[DecodedView | TimmView]") -> None:
        self._set, self._views = images, views

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, ...]:
        position, seed = item
        image = self._set.images.read(int(self._set.rows[position]))
        return tuple(view(image, derive_seed(seed, number)) for number, view in enumerate(self._views))


def build_feed(
    images: ImageSet, views: Sequence[View], normalise: nn.Module, device: torch.device, layout: torch.memory_format, workers: int
) -> Feed:
    """Return the feed that fits the views and the images.

    Raises:
        LongTailError: if the views mix both kinds, or batched augmentation is asked for images that are not packed.
    """
    if _resident(views, images):
        return ResidentFeed(images, views, normalise, device, layout)
    if any(isinstance(view, PadCropView) for view in views):
        raise LongTailError(
            "The views of one stage must all be 'pad_crop' or all be 'resized_crop'; 'timm_crop' goes with either, with 'pad_crop' on "
            "images of one size."
        )
    return DecodedFeed(images, views, normalise, device, layout, workers)


def _resident(views: Sequence[View], images: ImageSet) -> bool:
    """Return whether images lie on the device whole: 'pad_crop' needs it, 'timm_crop' takes packed images so."""
    packed = isinstance(images.images, PackedImages) and all(isinstance(view, PadCropView | TimmCropView) for view in views)
    return packed or all(isinstance(view, PadCropView) for view in views)


def resident_pixels(images: ImageSet, device: torch.device) -> Tensor:
    """Return the images of a set as one uint8 tensor [N, H, W, 3] on the device.

    Raises:
        LongTailError: if the images are not of one size.
    """
    if not isinstance(images.images, PackedImages):
        raise LongTailError(
            "A 'pad_crop' view needs images of one size: set source.image_size to bring them to a square, or use a 'resized_crop' view."
        )
    return torch.from_numpy(np.asarray(images.images.array[images.rows])).to(device)


def evaluation_batches(
    images: ImageSet, view: View, normalise: nn.Module, device: torch.device, batch_size: int, layout: torch.memory_format, workers: int
) -> Iterator[Tensor]:
    """Yield normalised batches [B, 3, H, W] of the whole set in order, as the view's test-time transform gives them."""
    normalise = normalise.to(device)
    source: Iterator[Tensor]
    if _resident([view], images):
        source = (batch.permute(0, 3, 1, 2) for batch in resident_pixels(images, device).split(batch_size))
        if isinstance(view, TimmCropView):
            source = map(BatchedEvaluation(view), source)
    else:
        from lt_pipeline.augment.decoded import EvaluationView

        assert isinstance(view, ResizedCropView | TimmCropView)
        source = iter(DataLoader(_Evaluation(images, EvaluationView(view)), batch_size=batch_size, num_workers=workers))
    for pixels in source:
        yield normalise(pixels.to(device)).contiguous(memory_format=layout)


class _Evaluation(Dataset[Tensor]):
    def __init__(self, images: ImageSet, view: "EvaluationView") -> None:
        self._set, self._view = images, view

    def __len__(self) -> int:
        return len(self._set.rows)

    def __getitem__(self, position: int) -> Tensor:
        return self._view(self._set.images.read(int(self._set.rows[position])))
