"""Nodes of the data pipeline."""

import logging
from pathlib import Path
from typing import Any

import pandas as pd

from lt_pipeline.data.config import BenchmarkConfig, SourceConfig
from lt_pipeline.data.metadata_config import MetadataConfig

logger = logging.getLogger(__name__)


def read_source(source: SourceConfig) -> tuple[pd.DataFrame, Any]:
    """Return the manifest (one row an image) and the image store of a source."""
    from lt_pipeline.data.sources import ingest

    manifest, images = ingest(source)
    logger.info("%d images in %d classes.", len(manifest), manifest["label"].nunique())
    return manifest, images


def cut_split(manifest: pd.DataFrame, benchmark: BenchmarkConfig, metadata: MetadataConfig, seed: int) -> pd.DataFrame:
    """Return the long-tailed train rows and the test rows (and validation rows, if asked for), in order.

    Metadata are read once here, so that a bad value is named before anything is trained.
    """
    from lt_pipeline.data.metadata import encode_metadata, fit_metadata, join_table, values_to_report
    from lt_pipeline.data.split import class_statistics, make_split, split_hash

    if metadata.table:
        manifest = join_table(manifest, Path(metadata.table), metadata.key)
    split = make_split(manifest, benchmark, seed)
    encode_metadata(split, fit_metadata(split[split["split"] == "train"], metadata))
    values_to_report(split, metadata)
    counts = class_statistics(split).counts
    logger.info(
        "Split %s: %d training images, %d classes from %d to %d images; %d test images.",
        split_hash(split),
        counts.sum(),
        len(counts),
        counts.max(),
        counts.min(),
        (split["split"] == "test").sum(),
    )
    return split


def show_profile(split: pd.DataFrame, benchmark: BenchmarkConfig) -> Any:
    """Return the figure of training images per class, coloured by shot group."""
    import numpy as np

    from lt_pipeline.data.shots import shot_masks
    from lt_pipeline.data.split import class_statistics
    from lt_pipeline.evaluation.figures import class_profile

    statistics = class_statistics(split)
    masks = shot_masks(statistics.counts, benchmark.shot_convention, benchmark.shot_many, benchmark.shot_few)
    table = {
        "class": range(len(statistics.names)),
        "name": statistics.names,
        "train_count": statistics.counts,
        "test_count": np.bincount(split.loc[split["split"] == "test", "label"], minlength=len(statistics.names)),
        "group": np.select(list(masks.values()), list(masks), default=""),
    }
    return class_profile(pd.DataFrame(table))
