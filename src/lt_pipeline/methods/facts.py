"""What a method knows about the data when it builds its network and losses."""

from lt_pipeline.config import Config


class DataFacts(Config):
    """Facts of the training split; they travel with the checkpoint."""

    class_names: tuple[str, ...]
    train_counts: tuple[int, ...]
    """Training images of each class, in class order."""
    image_shape: tuple[int, int, int] | None
    """Height, width and channels of packed images; None where sizes vary."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)
