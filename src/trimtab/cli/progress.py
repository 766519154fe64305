"""Progress on stderr: one live line a stage, with the time left; a plain line now and then in a log file.

With a meter, both say what the calls come to: how many are in flight, tokens a second, dollars.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from trimtab.cli.console import err
from trimtab.types import Usage

LOG_EVERY_S = 30.0
MINUTE_S, HOUR_S = 60, 3600


class Metering(Protocol):
    """What the calls of a run come to: a `Meter`, or the sum of several elsewhere."""

    @property
    def usage(self) -> Usage:
        """The sum over the calls that ended."""
        ...

    @property
    def failed(self) -> int:
        """Calls that gave no completion."""
        ...

    @property
    def in_flight(self) -> int:
        """Calls under way."""
        ...

    @property
    def cache_hits(self) -> int:
        """Draws found in the cache."""
        ...

    @property
    def tokens_per_s(self) -> float:
        """Tokens in and out a second."""
        ...


class Bars:
    """One bar for each stage that has begun."""

    def __init__(
        self,
        progress: Progress,
        meter: Metering | None = None,
        *,
        console: Console = err,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._progress = progress
        self._meter = meter
        self._console = console
        self._clock = clock
        self._bars: dict[str, TaskID] = {}
        self._began: dict[str, tuple[float, int]] = {}  # when a stage was first heard of, and how far it was
        self._logged_at = clock()

    def __call__(self, title: str, done: int, total: int, note: str = "") -> None:
        """Moves the bar of this title."""
        if not self._console.is_terminal:
            return self._log(title, done, total, note)
        if title not in self._bars:
            self._bars[title] = self._progress.add_task(title, total=total, note=note)
        self._progress.update(self._bars[title], completed=done, total=total, note=note)
        return None

    def _log(self, title: str, done: int, total: int, note: str) -> None:
        """A line when a stage ends, and every half minute while it goes on."""
        now = self._clock()
        began_at, began_with = self._began.setdefault(title, (now, done))
        if done != total and now - self._logged_at < LOG_EVERY_S:
            return
        self._logged_at = now
        left_s = time_left_s(now - began_at, done - began_with, total - done)
        parts = [
            f"{title}: {done} of {total}",
            note,
            told(self._meter),
            f"{spelt(left_s)} left" if left_s else "",
        ]
        self._console.print(", ".join(part for part in parts if part), markup=False, soft_wrap=True)


class _Live(Progress):
    """The bars, and beneath them what the calls come to; drawn anew several times a second."""

    meter: Metering | None = None

    def get_renderable(self) -> RenderableType:
        """What the screen shows now."""
        bars = self.make_tasks_table(self.tasks)
        line = told(self.meter)
        return Group(bars, Text(line, style="dim")) if line else bars


@contextmanager
def bars(meter: Metering | None = None) -> Iterator[Bars]:
    """Progress bars on stderr inside this context; with a meter, what the calls come to stands beneath."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with _Live(*columns, console=err, disable=not err.is_terminal) as progress:
        progress.meter = meter
        yield Bars(progress, meter)


def told(meter: Metering | None) -> str:
    """What the calls so far came to, in one line; nothing before the first of them."""
    if meter is None:
        return ""
    usage = meter.usage
    if not (usage.calls or meter.failed or meter.in_flight or meter.cache_hits):
        return ""
    parts = [
        f"{meter.in_flight} in flight",
        f"{usage.calls} calls paid",
        f"{meter.failed} failed" if meter.failed else "",
        f"{meter.cache_hits} draws from the cache" if meter.cache_hits else "",
        f"{meter.tokens_per_s:,.0f} tokens/s",
        _dollars(usage.usd) if usage.calls else "",
    ]
    return ", ".join(part for part in parts if part)


def _dollars(usd: float | None) -> str:
    """Cents where they say enough, finer where they do not."""
    if usd is None:
        return "price unknown"
    return f"${usd:.2f}" if usd >= 1 or usd == 0 else f"${usd:.4f}"


def time_left_s(seconds: float, done: int, to_do: int) -> float | None:
    """How long the rest takes if it goes on as it went; None where nothing can be said or nothing is left."""
    return seconds / done * to_do if done > 0 and seconds > 0 and to_do > 0 else None


def spelt(seconds: float) -> str:
    """A duration as people say it: 45 s, 3 min, 2 h 5 min."""
    if seconds < MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < HOUR_S:
        return f"{seconds / MINUTE_S:.0f} min"
    hours, rest = divmod(round(seconds / MINUTE_S), MINUTE_S)
    return f"{hours} h {rest} min"
