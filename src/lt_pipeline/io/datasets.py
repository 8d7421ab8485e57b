"""Datasets of the project's own: image stores, checkpoint folders, workspaces, predictions."""

from pathlib import Path
from typing import Any, NoReturn

from kedro.io import AbstractDataset, DatasetError


class _FolderDataset(AbstractDataset[Any, Any]):
    """A folder in the catalog. Torch and pandas load when data moves, not when the catalog is read."""

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        """Point at ``filepath``; ``metadata`` is for Kedro-Viz."""
        self._filepath, self.metadata = Path(filepath), metadata

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath.as_posix()}

    def _exists(self) -> bool:
        return self._filepath.is_dir() and any(self._filepath.iterdir())


class ImagesDataset(_FolderDataset):
    """Packed pixels, memory-mapped, or the places of encoded images.

    Example:
        ``images: {type: lt_pipeline.io.datasets.ImagesDataset, filepath: data/02_intermediate/digits_lt/images}``
    """

    def load(self) -> Any:
        """Return the image store."""
        from lt_pipeline.data.images import load_images

        return load_images(self._filepath)

    def save(self, data: Any) -> None:
        """Write the image store atomically."""
        from lt_pipeline.data.images import save_images

        save_images(data, self._filepath)


class CheckpointDataset(_FolderDataset):
    """A trained stage: ``model.safetensors``, ``config.json``, ``record.json``. Saving it ends the stage's training state.

    Example:
        ``"{method}.{stage}_checkpoint": {type: lt_pipeline.io.datasets.CheckpointDataset, filepath: "data/06_models/{method}/{stage}"}``
    """

    def load(self) -> Any:
        """Return the verified checkpoint."""
        from lt_pipeline.training.checkpoint import load_checkpoint

        return load_checkpoint(self._filepath)

    def save(self, data: Any) -> None:
        """Write the checkpoint atomically, then drop the training state it makes obsolete."""
        from lt_pipeline.training.checkpoint import save_checkpoint
        from lt_pipeline.training.state import Workspace

        save_checkpoint(data, self._filepath)
        Workspace(self._filepath).clear()


class WorkspaceDataset(_FolderDataset):
    """The place where a stage trains: what an interrupted run left there is where the next one continues."""

    def load(self) -> Any:
        """Return the workspace of the folder."""
        from lt_pipeline.training.state import Workspace

        return Workspace(self._filepath)

    def save(self, data: Any) -> NoReturn:
        """Refuse: the training loop writes its own state."""
        raise DatasetError("A workspace is written by the training loop, not by the catalog.")

    def _exists(self) -> bool:
        return True


class PredictionsDataset(_FolderDataset):
    """Predictions on one split, a Parquet file for each way the epoch was chosen (``last.parquet`` is the primary one)."""

    def load(self) -> Any:
        """Return predictions by selection."""
        from lt_pipeline.evaluation.predictions import Predictions

        return {path.stem: Predictions.from_parquet(path) for path in sorted(self._filepath.glob("*.parquet"))}

    def save(self, data: Any) -> None:
        """Write one file per selection and drop those of an earlier run."""
        from lt_pipeline.files import atomic_folder

        with atomic_folder(self._filepath) as part:
            for selection, predictions in data.items():
                predictions.to_parquet(part / f"{selection}.parquet")


class _FileDataset(AbstractDataset[Any, Any]):
    """A file in the catalog."""

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        """Point at ``filepath``; ``metadata`` is for Kedro-Viz."""
        self._filepath, self.metadata = Path(filepath), metadata

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath.as_posix()}

    def _exists(self) -> bool:
        return self._filepath.exists()


class FeaturesDataset(_FileDataset):
    """Initial features of every image of a split, one safetensors file.

    Example:
        ``"{method}.features": {type: lt_pipeline.io.datasets.FeaturesDataset, filepath: data/04_feature/digits_lt/features.safetensors}``
    """

    def load(self) -> Any:
        """Return the features."""
        from lt_pipeline.training.features import load_features

        return load_features(self._filepath)

    def save(self, data: Any) -> None:
        """Write the features atomically, unless the same ones lie there already."""
        from lt_pipeline.training.features import features_fingerprint, save_features

        if features_fingerprint(self._filepath) != data.fingerprint:
            save_features(data, self._filepath)


class FeatureCacheDataset(_FileDataset):
    """The place of the features, for the node that makes them to look whether they are there."""

    def load(self) -> Any:
        """Return the cache."""
        from lt_pipeline.training.features import FeatureCache

        return FeatureCache(self._filepath)

    def save(self, data: Any) -> NoReturn:
        """Refuse: the features are written under their own name."""
        raise DatasetError("A cache of features is only looked into; the features have a dataset of their own.")

    def _exists(self) -> bool:
        return True


class NeighboursDataset(_FileDataset):
    """The nearest images of each image and how similar they are, one safetensors file: ``indices`` and ``weights``, both [n, k].

    Example:
        ``"{method}.neighbours": {type: lt_pipeline.io.datasets.NeighboursDataset, filepath: data/04_feature/digits_lt/neighbours.safetensors}``
    """

    def load(self) -> Any:
        """Return the graph."""
        from safetensors.torch import load_file

        from lt_pipeline.transport import NeighbourGraph

        return NeighbourGraph(**load_file(self._filepath))

    def save(self, data: Any) -> None:
        """Write the graph atomically."""
        from safetensors.torch import save_file

        from lt_pipeline.files import atomic_file

        with atomic_file(self._filepath) as part:
            save_file(data.state(), part)
