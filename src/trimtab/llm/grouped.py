"""Group commit: what many coroutines ask of a slow function at the same time, handed to it as one call.

The function here is a transaction: one costs as much as a hundred rows, and none may hold up the event loop.
What is read and written stands in `cached`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Given = TypeVar("Given")

GATHER_S = 0.002  # a busy group waits so long for more; beside a call's 100 ms it is nothing


class _Group(Generic[Asked, Given]):
    """What is handed over in one call, who waits for it on which event loop, and its end."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.waiting: dict[asyncio.AbstractEventLoop, list[tuple[int, asyncio.Future[Given]]]] = {}
        self.done: Future[Sequence[Given]]

    def join(self, asked: Asked) -> asyncio.Future[Given]:
        """What this one is given, to be awaited on the event loop that runs."""
        loop = asyncio.get_running_loop()
        given: asyncio.Future[Given] = loop.create_future()
        self.waiting.setdefault(loop, []).append((len(self.asked), given))
        self.asked.append(asked)
        return given


class Grouped(Generic[Asked, Given]):
    """A function of many things at once, for coroutines that each have one.

    Calls are made one after another in the writer's thread. While one runs, what comes gathers for the next,
    whichever event loop it comes from. What has been put in is carried out, though the event loop that put it
    ends, and before the process does.

    Args:
        function: gives one result for each of the things it is handed, in their order.
        writer: an executor with one thread.
    """

    def __init__(
        self, function: Callable[[Sequence[Asked]], Sequence[Given]], writer: ThreadPoolExecutor
    ) -> None:
        self._function = function
        self._writer = writer
        self._lock = threading.Lock()
        self._open: _Group[Asked, Given] | None = None
        self._is_busy = False  # the last group had more than one: there may be more to wait for

    async def __call__(self, asked: Asked) -> Given:
        """What the function gives for this one. Raises what it raises for the group that this one is in.

        A caller who is cancelled goes once the group has been carried out; cancelled once more, at once.
        """
        group, given = self._joined(asked)
        try:
            return await given
        except asyncio.CancelledError:
            await asyncio.wait([_end(group.done)])
            raise

    def _joined(self, asked: Asked) -> tuple[_Group[Asked, Given], asyncio.Future[Given]]:
        with self._lock:
            group = self._open
            if group is None:
                group = self._open = _Group()
                group.done = self._writer.submit(self._carry_out, group)
                group.done.add_done_callback(partial(_tell_all, group))
            return group, group.join(asked)

    def _carry_out(self, group: _Group[Asked, Given]) -> Sequence[Given]:
        if self._is_busy:
            time.sleep(GATHER_S)
        with self._lock:
            self._open = None
        self._is_busy = len(group.asked) > 1
        return self._function(group.asked)


def _tell_all(group: _Group[Asked, Given], done: Future[Sequence[Given]]) -> None:
    for loop, waiting in group.waiting.items():
        with suppress(RuntimeError):  # that loop is closed: nobody waits there any more
            loop.call_soon_threadsafe(_tell, waiting, done)


def _tell(waiting: Sequence[tuple[int, asyncio.Future[Given]]], done: Future[Sequence[Given]]) -> None:
    error = done.exception()
    for place, given in waiting:
        if given.cancelled():
            continue
        if error is None:
            given.set_result(done.result()[place])
        else:
            given.set_exception(error)


def _end(done: Future[Sequence[Given]]) -> asyncio.Future[None]:
    """The end of a group, for one who does not want what it gives any more."""
    loop = asyncio.get_running_loop()
    end: asyncio.Future[None] = loop.create_future()

    def ended(_: Future[Sequence[Given]]) -> None:
        with suppress(RuntimeError):  # that loop is closed
            loop.call_soon_threadsafe(end.set_result, None)

    done.add_done_callback(ended)
    return end
