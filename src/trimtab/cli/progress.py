"""Progress on stderr: one live line a stage, with the time left. Silent where stderr is no terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from trimtab.cli.console import err


class Bars:
    """One bar for each stage that has begun."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, int] = {}

    def __call__(self, title: str, done: int, total: int, note: str = "") -> None:
        """Moves the bar of this title."""
        if title not in self._bars:
            self._bars[title] = self._progress.add_task(title, total=total, note=note)
        self._progress.update(self._bars[title], completed=done, total=total, note=note)  # type: ignore[arg-type]


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
