"""Kedro's settings for this project."""

import warnings

from lt_pipeline.hooks import ProjectHooks
from lt_pipeline.io.config_loader import ProjectConfigLoader

warnings.filterwarnings("ignore", message="Option .--pipeline. is deprecated")

HOOKS = (ProjectHooks(),)
DISABLE_HOOKS_FOR_PLUGINS = ("kedro-telemetry",)
CONFIG_LOADER_CLASS = ProjectConfigLoader
CONFIG_LOADER_ARGS = {"base_env": "base", "default_run_env": "digits_lt", "merge_strategy": {"parameters": "soft"}}
