"""Source in; manifest, images, split and the class profile out."""

from lt_pipeline.pipelines.data.pipeline import create_pipeline

__all__ = ["create_pipeline"]
