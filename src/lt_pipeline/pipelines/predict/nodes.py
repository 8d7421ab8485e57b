"""Nodes of the predict pipeline."""

from typing import Any

import pandas as pd

from lt_pipeline.data.config import SourceConfig
from lt_pipeline.parameters import PredictConfig
from lt_pipeline.training.config import TrainerConfig


def predict_folder(
    checkpoint: Any, predict: PredictConfig, source: SourceConfig, trainer: TrainerConfig
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return class, probability, five best classes and cost of every image in a folder, twice: for Parquet and for CSV."""
    raise LookupError
