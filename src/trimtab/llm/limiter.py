"""`Limiter`: who may send next. Shared by all that call one endpoint: questions, judges, augmentation.

How much may be sent is `admission`'s to say. Here requests wait for their turn, in the order they came.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Protocol, TypeAlias

from trimtab.llm.admission import Admission, Sent

Turn: TypeAlias = "asyncio.Future[Sent]"


class Leave(Protocol):
    """Leave for one request, once its turn has come: told how the request went."""

    def succeeded(self) -> None:
        """The request was answered: there may be room for more."""
        ...

    def throttled(self, retry_after_s: float | None = None) -> None:
        """The request was refused with 429, and the server asked to be left alone for so long."""
        ...


class Turns(Protocol):
    """Who says when a request may be sent: a `Limiter`, or what stands for one elsewhere."""

    def slot(self, tokens: int = 0) -> AbstractAsyncContextManager[Leave]:
        """Leave to send a request of at most so many tokens, for an `async with`."""
        ...


class Slot:
    """Leave for one request: an async context manager that waits for its turn and gives it back."""

    __slots__ = ("_limiter", "_loop", "_sent", "_tokens")

    def __init__(self, limiter: Limiter, tokens: int) -> None:
        self._limiter = limiter
        self._tokens = tokens
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sent: Sent | None = None

    async def __aenter__(self) -> Slot:
        self._loop = asyncio.get_running_loop()
        self._sent = await self._limiter._turn(self._loop, self._tokens)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._limiter._ended(self._loop)

    def succeeded(self) -> None:
        """The request was answered: there may be room for more."""
        self._limiter._succeeded()

    def throttled(self, retry_after_s: float | None = None) -> None:
        """The request was refused with 429, and the server asked to be left alone for so long."""
        if self._sent is not None:
            self._limiter._throttled(self._sent, retry_after_s)

    def again(self) -> None:
        """Another request was sent in the place of the one that ended, which `Limiter.is_open` allows."""
        self._sent = self._limiter._again(self._tokens)


class Limiter:
    """Lets as many requests through as the endpoint admits, in the order they came.

    It begins with `start` requests in flight and grows while that is what holds requests back. An episode of
    429s cuts the window to 0.8, once, and paces what is sent at a little less than what was admitted; both
    come back with time and feel their way on (`admission`). Retry-After stops all sending. A stray 429 among
    many answers, and other failures, change nothing.

    One event loop at a time; another may follow it, and what the one before left behind does not count.

    Args:
        start: requests in flight at the beginning.
        most: requests in flight at any time.
        requests_per_minute: ceiling on requests, in any minute.
        tokens_per_minute: ceiling on tokens, in any minute; a request's are those its slot was asked with.
        clock: gives seconds.
    """

    def __init__(
        self,
        *,
        start: int = 20,
        most: int = 200,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._admission = Admission(
            start=start,
            most=most,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._in_flight = 0
        self._queue: OrderedDict[Turn, int] = OrderedDict()  # with their tokens, in the order they came
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf

    @property
    def in_flight(self) -> int:
        """Slots given and not given back."""
        return self._in_flight

    @property
    def allowed(self) -> int:
        """How many may be in flight now."""
        return int(self._admission.window.value)

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return len(self._queue)

    @property
    def is_open(self) -> bool:
        """True when a request may take the place of one that ended without asking first.

        Nobody waits, no ceiling is set, nothing was refused yet: what counts is how many are in flight.
        """
        return not self._queue and self._admission.is_unpaced(self._clock())

    def slot(self, tokens: int = 0) -> Slot:
        """Leave to send a request of at most so many tokens, for an `async with`."""
        return Slot(self, tokens)

    # ------------------------------------------------------------------ what slots call

    async def _turn(self, loop: asyncio.AbstractEventLoop, tokens: int) -> Sent:
        if loop is not self._loop:
            self._move_to(loop)
        now = self._clock()
        if not self._queue and self._admission.opens_at(now, tokens, self._in_flight) <= now:
            return self._send(now, tokens)
        turn: Turn = loop.create_future()
        self._queue[turn] = tokens
        self._let_through()
        try:
            return await turn
        except asyncio.CancelledError:
            self._leave(loop, turn)
            raise

    def _leave(self, loop: asyncio.AbstractEventLoop, turn: Turn) -> None:
        if self._queue.pop(turn, None) is not None:
            self._let_through()  # whoever comes next may need less room
        elif turn.done() and not turn.cancelled():
            self._ended(loop)  # its turn had come in the same moment

    def _ended(self, loop: asyncio.AbstractEventLoop | None) -> None:
        if loop is self._loop:  # else it was left behind by an event loop before
            self._in_flight -= 1
            self._let_through()

    def _again(self, tokens: int) -> Sent:
        return self._admission.sent(self._clock(), tokens)

    def _succeeded(self) -> None:
        self._admission.succeeded(self._clock(), self._in_flight)

    def _throttled(self, sent: Sent, retry_after_s: float | None) -> None:
        self._admission.throttled(self._clock(), sent, self._in_flight, retry_after_s)

    # ------------------------------------------------------------------ the queue

    def _let_through(self) -> None:
        """Give their turn to all whose time has come; set an alarm for the first whose has not."""
        now = self._clock()
        while self._queue:
            turn, tokens = next(iter(self._queue.items()))
            opens_at = self._admission.opens_at(now, tokens, self._in_flight)
            if opens_at > now:
                self._set_alarm(now, opens_at)
                return
            del self._queue[turn]
            if not turn.cancelled():
                turn.set_result(self._send(now, tokens))
        self._admission.idle(now)
        self._set_alarm(now, math.inf)

    def _send(self, now: float, tokens: int) -> Sent:
        self._in_flight += 1
        return self._admission.sent(now, tokens)

    def _set_alarm(self, now: float, opens_at: float) -> None:
        if opens_at == self._alarm_at and opens_at > now:
            return
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if opens_at < math.inf and self._loop is not None:
            self._alarm = self._loop.call_later(opens_at - now, self._ring)
        self._alarm_at = opens_at

    def _ring(self) -> None:
        self._alarm, self._alarm_at = None, math.inf
        self._let_through()

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Forget the event loop before: its requests have ended with it."""
        self._loop = loop
        self._in_flight = 0
        self._queue.clear()
        self._alarm, self._alarm_at = None, math.inf
