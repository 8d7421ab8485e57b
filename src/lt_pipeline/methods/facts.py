"""What a method knows about the data when it builds its network and losses."""

from lt_pipeline.config import Config
from lt_pipeline.data.metadata_config import MetadataGroup


class DataFacts(Config):
    """Facts of the training split; they travel with the checkpoint."""

    class_names: tuple[str, ...]
    train_counts: tuple[int, ...]
    """Training images of each class, in class order."""
    image_shape: tuple[int, int, int] | None
    """Height, width and channels of packed images; None where sizes vary."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    metadata: tuple[MetadataGroup, ...] = ()
    """What the network may see beside the pixels; none for methods that look at pixels alone."""

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)
