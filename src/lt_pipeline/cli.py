"""The project's own ``kedro run``: what the user can fix is said in one sentence, without a traceback."""

import os
import sys
from importlib.resources import files
from typing import Any

import click
from kedro.framework.cli.project import run as kedro_run

from lt_pipeline.errors import LongTailError, nearest
from lt_pipeline.methods import METHODS


class _Run(click.Command):
    """Kedro's command with errors for people."""

    def invoke(self, context: click.Context) -> Any:
        """Run, and turn what the user can fix into one sentence and exit status 1."""
        try:
            _check_pipelines(context.params)
            _take_published_subset(context.params)
            return super().invoke(context)
        except Exception as error:
            if os.environ.get("LT_TRACEBACK") != "1" and (problem := _problem(error)) is not None:
                click.echo(f"Error: {problem}", err=True)
                sys.exit(1)
            raise


def _check_pipelines(options: dict[str, Any]) -> None:
    known = ["__default__", *(entry.name for entry in files("lt_pipeline.pipelines").iterdir() if (entry / "__init__.py").is_file())]
    for name in filter(None, [options.get("pipeline"), *(options.get("pipelines") or [])]):
        if name not in known:
            raise LongTailError(f"Unknown pipeline '{name}'; there are {', '.join(sorted(known))}.{nearest(name, known)}")


def _take_published_subset(options: dict[str, Any]) -> None:
    """Select the images that the published cell of the method on this benchmark was trained on, unless the user selects."""
    pipelines = {options.get("pipeline"), *(options.get("pipelines") or [])}
    chosen = [method for name in pipelines if (method := METHODS.get(name or "")) and options.get("env") in method.first_images]
    benchmark = options["params"].setdefault("benchmark", {}) if chosen else {}
    if chosen and "selection" not in benchmark:
        benchmark["selection"] = "first"
        click.echo(
            f"{chosen[0].name} takes the first images of each class here, as its published figures do; "
            "--params=benchmark.selection=shuffle takes the subset of the other methods."
        )


def _problem(error: BaseException) -> LongTailError | None:
    """Return the problem behind an error that Kedro may have wrapped."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, LongTailError):
        seen = seen.__cause__ or seen.__context__
    return seen


@click.group(name="lt_pipeline")
def cli() -> None:
    """Commands of the project."""


run = _Run(
    kedro_run.name, callback=kedro_run.callback, params=kedro_run.params, help=kedro_run.help, context_settings=kedro_run.context_settings
)
cli.add_command(run)
