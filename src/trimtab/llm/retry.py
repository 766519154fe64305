"""The one place where a failed call is tried again. What counts as failed is the client's to say."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from trimtab.errors import LLMError

LONGEST_BACKOFF_S = 30.0
LONGEST_ASKED_S = 120.0  # a server that asks for more than this is not waited for: the user should know now
LONGEST_THROTTLED_S = 600.0  # how long one request goes on being told to slow down
THROTTLED = 429

Reply = TypeVar("Reply")


def wait_s(attempt: int, backoff_s: float, retry_after_s: float | None, chance: float) -> float:
    """Seconds to wait after failed attempt number `attempt` (from 0).

    Full jitter: a uniform share `chance` in [0, 1) of the exponential backoff. What the server asked for
    comes on top, so that those told to wait equally long do not all return at once.
    """
    return (retry_after_s or 0.0) + chance * min(LONGEST_BACKOFF_S, backoff_s * 2.0 ** min(attempt, 60))


async def retried(
    call: Callable[[int], Awaitable[Reply]],
    *,
    attempts: int,
    backoff_s: float,
    longest_throttled_s: float = LONGEST_THROTTLED_S,
) -> Reply:
    """The first reply of at most `attempts` calls; each is told how many were made before it.

    Being told to slow down (429) says nothing of the request itself, and is not counted: a storm is waited
    out, for `longest_throttled_s` after the first such answer. (Before it the request may have waited long
    for its turn.)

    Raises:
        LLMError: that of the last attempt, or of the first one that is not worth another. It carries no
            context: an SDK's exception holds the request, and the request holds the key.
    """
    loop = asyncio.get_running_loop()
    give_up_at: float | None = None
    failures = throttled = 0
    while True:
        try:
            return await call(failures + throttled)
        except LLMError as error:
            failed = error
        is_throttled = failed.status == THROTTLED
        throttled, failures = throttled + is_throttled, failures + (not is_throttled)
        if is_throttled and give_up_at is None:
            give_up_at = loop.time() + longest_throttled_s
        before = (throttled if is_throttled else failures) - 1
        wait = wait_s(before, backoff_s, failed.retry_after_s, random.random())
        is_late = give_up_at is not None and loop.time() + wait > give_up_at
        if (is_late if is_throttled else failures >= attempts) or not is_worth_another(failed):
            raise failed
        await asyncio.sleep(wait)


def is_worth_another(error: LLMError) -> bool:
    """True when the same request may yet succeed, within a wait we are ready for."""
    return error.retryable and (error.retry_after_s or 0.0) <= LONGEST_ASKED_S
