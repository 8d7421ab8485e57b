"""Nodes of the predict pipeline."""

import logging
from pathlib import Path
from typing import Any

import pandas as pd

from lt_pipeline.data.config import SourceConfig
from lt_pipeline.data.metadata_config import MetadataConfig, MetadataGroup, TextGroup
from lt_pipeline.errors import LongTailError
from lt_pipeline.parameters import PredictConfig
from lt_pipeline.training.config import TrainerConfig

logger = logging.getLogger(__name__)


def predict_folder(
    checkpoint: Any, predict: PredictConfig, source: SourceConfig, metadata: MetadataConfig, trainer: TrainerConfig
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return class, probability, five best classes and cost of every image in a folder, twice: for Parquet and for CSV.

    Raises:
        LongTailError: if no folder is given, it holds no image, an image is broken and ``predict.on_bad_image`` is error, or the metadata are not
            those that the network was trained with.
    """
    from dataclasses import replace

    from lt_pipeline.data.sources.folder import unlabelled_images
    from lt_pipeline.methods.facts import DataFacts
    from lt_pipeline.pipelines.inference import classify

    if not predict.images:
        raise LongTailError('predict.images is not set: give the folder of images, as in --params="predict.images=FOLDER".')
    facts = DataFacts.model_validate(checkpoint.facts["data"])
    shape = facts.image_shape
    like_training = source.model_copy(update={"on_bad_image": predict.on_bad_image, "image_size": shape and shape[0]})
    images = unlabelled_images(Path(predict.images), like_training)
    images = replace(images, metadata=_metadata_of(images.sample_ids, facts.metadata, predict, metadata.key))
    table = classify(checkpoint, images, trainer, predict.threshold)
    logger.info("%d images classified; the most frequent answer is '%s'.", len(table), table["class"].mode()[0])
    return table, table


def _metadata_of(ids: list[str], groups: tuple[MetadataGroup, ...], predict: PredictConfig, key: str) -> Any:
    """Return the metadata of images as the network was trained with them; all missing where none are given, None for a network without.

    Raises:
        LongTailError: if they are given to a network that takes none, or do not fit.
    """
    from lt_pipeline.data.metadata import encode_metadata, join_table, no_metadata

    given = bool(predict.metadata or predict.text_files)
    if given and not groups:
        raise LongTailError("predict.metadata is set, but this network was trained on pixels alone; leave it out.")
    texts = {group.name: group for group in groups if isinstance(group.declared, TextGroup)}
    if unknown := sorted(set(predict.text_files) - set(texts)):
        raise LongTailError(f"predict.text_files names '{unknown[0]}'; the network's groups of texts are {', '.join(texts) or 'none'}.")
    if groups and not given:
        logger.info("predict.metadata is not set: the network answers from pixels alone.")
        return no_metadata(len(ids), groups)
    frame = pd.DataFrame({"sample_id": ids})
    if predict.metadata:
        frame = join_table(frame, Path(predict.metadata), key)
    return encode_metadata(frame, [_for_these_images(group, predict) for group in groups])


def _for_these_images(group: MetadataGroup, predict: PredictConfig) -> MetadataGroup:
    declared = group.declared
    if isinstance(declared, TextGroup) and group.name in predict.text_files:
        file, ids = predict.text_files[group.name]
        declared = declared.model_copy(update={"file": file, "ids": ids})
    return group.model_copy(update={"on_bad_value": predict.on_bad_value, "declared": declared})
