"""The one place where a failed call is tried again. What counts as failed is the client's to say."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from trimtab.errors import LLMError

LONGEST_BACKOFF_S = 30.0
LONGEST_ASKED_S = 120.0  # a server that asks for more than this is not waited for: the user should know now

Reply = TypeVar("Reply")


class AttemptFailedError(Exception):
    """One attempt failed: the error to report, and how long the server asked to be left alone."""

    def __init__(self, error: LLMError, retry_after_s: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after_s = retry_after_s

    @property
    def is_worth_another(self) -> bool:
        """True when the same request may yet succeed, within a wait we are ready for."""
        return self.error.retryable and (self.retry_after_s or 0.0) <= LONGEST_ASKED_S


def wait_s(attempt: int, backoff_s: float, retry_after_s: float | None, chance: float) -> float:
    """Seconds to wait after failed attempt number `attempt` (from 0).

    Full jitter: a uniform share `chance` in [0, 1) of the exponential backoff. What the server asked for
    comes on top, so that those told to wait equally long do not all return at once.
    """
    return (retry_after_s or 0.0) + chance * min(LONGEST_BACKOFF_S, backoff_s * 2.0**attempt)


async def retried(call: Callable[[], Awaitable[Reply]], *, attempts: int, backoff_s: float) -> Reply:
    """The first reply of at most `attempts` calls.

    Raises:
        LLMError: that of the last attempt, or of the first one that is not worth another. It carries no
            context: an SDK's exception holds the request, and the request holds the key.
    """
    for attempt in range(attempts):
        try:
            return await call()
        except AttemptFailedError as error:
            failed = error
        if not failed.is_worth_another:
            break
        if attempt + 1 < attempts:
            await asyncio.sleep(wait_s(attempt, backoff_s, failed.retry_after_s, random.random()))
    raise failed.error
