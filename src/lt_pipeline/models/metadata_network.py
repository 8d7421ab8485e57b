"""What every network that takes metadata does: it looks at the images, then answers with what is known beside them.

The two are apart so that one look serves several answers, with all of the metadata and with less.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn


class MetadataNetwork(nn.Module, ABC):
    """A network of images [B, 3, H, W] and metadata [B, d], None being all missing.

    Attributes:
        takes_metadata: whether there are any; without, it is shown images alone.
    """

    takes_metadata: bool

    @abstractmethod
    def look(self, images: Tensor) -> Tensor:
        """Return what is seen of the images alone."""

    @abstractmethod
    def answer(self, seen: Tensor, metadata: Tensor | None = None) -> dict[str, Tensor]:
        """Return the network's outputs by name for what :meth:`look` has returned and metadata."""

    def forward(self, images: Tensor, metadata: Tensor | None = None) -> dict[str, Tensor]:
        """Return the outputs for images and metadata."""
        return self.answer(self.look(images), metadata)


class MetadataClassifier(MetadataNetwork):
    """One feature vector an image, and one classifier ``head`` on it."""

    head: nn.Module

    @abstractmethod
    def fuse(self, seen: Tensor, metadata: Tensor | None) -> Tensor:
        """Return features [B, D] of what was seen and metadata."""

    def trunk(self, images: Tensor, metadata: Tensor | None = None) -> Tensor:
        """Return features [B, D] of images and metadata."""
        return self.fuse(self.look(images), metadata)

    @property
    def experts(self) -> tuple[Callable[[Tensor], tuple[Tensor, Tensor]]]:
        """The one classifier; it maps the trunk's output to (logits [B, C], features [B, D])."""
        return (lambda features: (self.head(features), features),)

    def answer(self, seen: Tensor, metadata: Tensor | None = None) -> dict[str, Tensor]:
        """Return ``logits`` [B, C] and ``features`` [B, D]."""
        features = self.fuse(seen, metadata)
        return {"logits": self.head(features), "features": features}
