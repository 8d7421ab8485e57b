"""Handwritten digits that ship with scikit-learn: 1,797 grey 8 x 8 images in 10 classes."""

import numpy as np
import pandas as pd

from lt_pipeline.data.config import SourceConfig
from lt_pipeline.data.images import ImageStore
from lt_pipeline.data.sources.common import from_arrays
from lt_pipeline.data.split import stratified_cut


def read(source: SourceConfig) -> tuple[pd.DataFrame, ImageStore]:
    """Return the digits with a stratified test part; grey values 0..16 become 0..255."""
    from sklearn.datasets import load_digits

    data = load_digits()
    grey = np.round(data.images * (255 / 16)).astype(np.uint8)
    labels = data.target.astype(np.int64)
    _, test = stratified_cut(pd.DataFrame({"label": labels}), source.test_fraction, source.split_seed)
    splits = np.full(len(labels), "train")
    splits[test.index] = "test"
    return from_arrays(np.repeat(grey[..., None], 3, axis=3), labels, splits, [str(digit) for digit in range(10)], "digits", source)
