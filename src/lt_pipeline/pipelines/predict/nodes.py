"""Nodes of the predict pipeline."""

import logging
from pathlib import Path
from typing import Any

import pandas as pd

from lt_pipeline.data.config import SourceConfig
from lt_pipeline.errors import LongTailError
from lt_pipeline.parameters import PredictConfig
from lt_pipeline.training.config import TrainerConfig

logger = logging.getLogger(__name__)


def predict_folder(
    checkpoint: Any, predict: PredictConfig, source: SourceConfig, trainer: TrainerConfig
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return class, probability, five best classes and cost of every image in a folder, twice: for Parquet and for CSV.

    Raises:
        LongTailError: if no folder is given, it holds no image, or an image is broken and ``predict.on_bad_image`` is error.
    """
    from lt_pipeline.data.sources.folder import unlabelled_images
    from lt_pipeline.methods.facts import DataFacts
    from lt_pipeline.pipelines.inference import classify

    if not predict.images:
        raise LongTailError('predict.images is not set: give the folder of images, as in --params="predict.images=FOLDER".')
    shape = DataFacts.model_validate(checkpoint.facts["data"]).image_shape
    like_training = source.model_copy(update={"on_bad_image": predict.on_bad_image, "image_size": shape and shape[0]})
    images = unlabelled_images(Path(predict.images), like_training)
    table = classify(checkpoint, images, trainer, predict.threshold)
    logger.info("%d images classified; the most frequent answer is '%s'.", len(table), table["class"].mode()[0])
    return table, table
