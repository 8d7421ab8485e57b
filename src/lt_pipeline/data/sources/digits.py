"""Handwritten digits that ship with scikit-learn: 1,797 grey 8 x 8 images in 10 classes."""

import numpy as np
import pandas as pd

from lt_pipeline.data.config import SourceConfig
from lt_pipeline.data.images import ImageStore
from lt_pipeline.data.longtail import select
from lt_pipeline.data.sources.common import from_arrays


def read(source: SourceConfig) -> tuple[pd.DataFrame, ImageStore]:
    """Return the digits; grey values 0..16 become 0..255.

    The train part has equally many images of every class, as the long-tail profiles assume; all others are the test part, ``test_fraction`` of the
    rarest class and a few more of the others.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    grey = np.round(data.images * (255 / 16)).astype(np.uint8)
    labels = data.target.astype(np.int64)
    per_class = int((1 - source.test_fraction) * np.bincount(labels).min())
    train = select(labels, np.full(10, per_class), "shuffle", source.split_seed)
    splits = np.where(np.isin(np.arange(len(labels)), train), "train", "test")
    return from_arrays(np.repeat(grey[..., None], 3, axis=3), labels, splits, [str(digit) for digit in range(10)], "digits", source)
