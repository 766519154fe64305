"""Until when a call is worth waiting for: said by who asks the question, heeded by who makes the call.

It travels beside the arguments (in the context), through all wrappers and into the tasks that they start. A
request that is on its way at that time is paid for and is let come to its end; what only waits, for its turn,
for money or for another attempt, is given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType

_UNTIL: ContextVar[float | None] = ContextVar("trimtab_patience_until", default=None)


@contextmanager
def patience(seconds: float | None) -> Iterator[None]:
    """Calls made inside are worth so many seconds from now, or until what was said outside, if sooner."""
    times = [_UNTIL.get(), None if seconds is None else asyncio.get_running_loop().time() + seconds]
    token = _UNTIL.set(min((time for time in times if time is not None), default=None))
    try:
        yield
    finally:
        _UNTIL.reset(token)


class Waits:
    """The waits of one call, which are given up when patience is out.

        async with Waits() as waits:
            ...  # given up
            with waits.on_its_way():
                ...  # let come to its end

    Raises TimeoutError.
    """

    def __init__(self) -> None:
        self._until = _UNTIL.get()
        self._timeout = asyncio.timeout_at(self._until)

    async def __aenter__(self) -> Waits:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._timeout.__aexit__(kind, error, trace)

    @property
    def is_out(self) -> bool:
        """True once patience was out."""
        return self._timeout.expired()

    @contextmanager
    def on_its_way(self) -> Iterator[None]:
        """What is done inside comes to its end, however long ago patience was out."""
        self._timeout.reschedule(None)
        try:
            yield
        finally:
            self._timeout.reschedule(self._until)
