"""Reading a source: a manifest and an image store, whatever form the images come in.

Every reader returns a table of what is there (file, row, label, class name, part, metadata); checking, decoding, packing and naming are the same
for all of them and happen here.
"""

from importlib import import_module

import pandas as pd

from lt_pipeline.data.config import SourceConfig
from lt_pipeline.data.images import ImageStore

_READERS = {
    "digits": "digits",
    "fashion_mnist": "idx",
    "cifar10": "cifar",
    "cifar100": "cifar",
    "parquet": "parquet",
    "list_files": "list_files",
    "folder": "folder",
    "table": "table",
    "inaturalist": "inaturalist",
    "cub200": "birds",
    "nabirds": "birds",
    "aircraft": "aircraft",
    "cars": "matlab",
    "flowers": "matlab",
}


def ingest(source: SourceConfig) -> tuple[pd.DataFrame, ImageStore]:
    """Return the manifest (one row an image) and the store (image i belongs to row i) of a source.

    Raises:
        LongTailError: naming what is wrong and where: a missing root, column, file or class, a broken image, a duplicate id, a bad label, a path that
            leaves the root.
    """
    reader = import_module(f"lt_pipeline.data.sources.{_READERS[source.kind]}")
    manifest, store = reader.read(source)
    return manifest, store
