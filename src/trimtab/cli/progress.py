"""Progress on stderr: one live line a stage, with the time left; a plain line now and then in a log file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from trimtab.cli.console import err

LOG_EVERY_S = 30.0


class Bars:
    """One bar for each stage that has begun."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}
        self._logged_at = time.monotonic()

    def __call__(self, title: str, done: int, total: int, note: str = "") -> None:
        """Moves the bar of this title."""
        if not err.is_terminal:
            return self._log(title, done, total, note)
        if title not in self._bars:
            self._bars[title] = self._progress.add_task(title, total=total, note=note)
        self._progress.update(self._bars[title], completed=done, total=total, note=note)
        return None

    def _log(self, title: str, done: int, total: int, note: str) -> None:
        """A line when a stage ends, and every half minute while it goes on."""
        now = time.monotonic()
        if done == total or now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            err.print(f"{title}: {done} of {total}" + (f", {note}" if note else ""), markup=False)


@contextmanager
def bars() -> Iterator[Bars]:
    """Progress bars on stderr inside this context."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=err, disable=not err.is_terminal) as progress:
        yield Bars(progress)
