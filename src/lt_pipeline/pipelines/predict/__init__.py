"""A folder of images and a trained checkpoint in; classes, probabilities and cost out."""

from lt_pipeline.pipelines.predict.pipeline import create_pipeline

__all__ = ["create_pipeline"]
