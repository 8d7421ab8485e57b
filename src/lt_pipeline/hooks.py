"""Checks before the first node, and where to look after the last."""

import logging
from typing import Any

from kedro.framework.hooks import hook_impl

from lt_pipeline.parameters import check_parameters

logger = logging.getLogger(__name__)


class ProjectHooks:
    """Validates all parameters as soon as they are known; points at the report when it is there."""

    @hook_impl
    def after_context_created(self, context: Any) -> None:
        """Refuse unknown keys and values out of range before any data is read."""
        check_parameters(context.config_loader["parameters"])

    @hook_impl
    def after_pipeline_run(self, pipeline: Any, catalog: Any) -> None:
        """Say where the reports lie."""
        for name in sorted(pipeline.outputs()):
            if name.endswith(".report"):
                logger.info("Report: %s", catalog.get(name)._filepath)
