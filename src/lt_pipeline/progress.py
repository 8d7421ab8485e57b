"""Progress that a person can follow: a bar on a terminal, a line now and then elsewhere."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

logger = logging.getLogger(__name__)
_SECONDS_BETWEEN_LINES = 5.0


class Advance(Protocol):
    """Tells the progress display that units are done."""

    def __call__(self, units: int, note: str = "") -> None:
        """Add ``units``; ``note`` is shown beside the rate."""


@contextmanager
def progress(title: str, total: int, done: int = 0, unit: str = "images") -> Iterator[Advance]:
    """Show how many of ``total`` units are done, the rate and the time left.

    Args:
        title: what is running.
        total: units of the whole task.
        done: units done before (a resumed task); they do not count for the rate.
        unit: name of the unit.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        with Progress(*columns, console=Console(stderr=True), transient=False) as bar:
            task = bar.add_task(title, total=total, completed=done, rate="", note="")
            start, seen = time.monotonic(), 0

            def advance_bar(units: int, note: str = "") -> None:
                nonlocal seen
                seen += units
                rate = seen / max(time.monotonic() - start, 1e-9)
                bar.update(task, advance=units, rate=f"{rate:,.0f} {unit}/s", note=note)

            yield advance_bar
        return

    start = last = time.monotonic()
    seen, shown = 0, ""

    def advance_lines(units: int, note: str = "") -> None:
        nonlocal seen, last, shown
        seen, shown = seen + units, note or shown
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES or done + seen >= total:
            last, rate = now, seen / max(now - start, 1e-9)
            left = (total - done - seen) / rate
            logger.info(
                "%s %3.0f%%  %s %s/s, %s left  %s", title, 100 * (done + seen) / total, f"{rate:,.0f}", unit, _duration(left), shown
            )

    yield advance_lines


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
