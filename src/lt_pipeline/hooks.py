"""Checks that run before the first node."""

from typing import Any

from kedro.framework.hooks import hook_impl

from lt_pipeline.parameters import check_parameters


class ProjectHooks:
    """Validates all parameters as soon as they are known."""

    @hook_impl
    def after_context_created(self, context: Any) -> None:
        """Refuse unknown keys and values out of range before any data is read."""
        check_parameters(context.params)
