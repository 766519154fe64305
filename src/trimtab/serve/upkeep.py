"""What a server does between requests, again and again: writes back, forgets old words."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

from trimtab.errors import RunError
from trimtab.store import Store

LOGGER = logging.getLogger("trimtab.serve")
WRITE_BACK_S, HOUR_S, DAY_S = 1.0, 3600.0, 86400.0


async def writing_back(store: Store) -> None:
    """Moves, every second, what was written into its place, so that no answer waits for it; never ends."""
    while True:
        await asyncio.sleep(WRITE_BACK_S)
        try:
            await asyncio.to_thread(store.write_back)
        except RunError as error:
            LOGGER.warning("what was written is not in its place yet: %s", error)


async def forgetting(store: Store, keep_days: float) -> None:
    """Forgets, every hour, the words that are older than so many days; never ends."""
    while True:
        await asyncio.to_thread(forget_once, store, keep_days, time.time())
        await asyncio.sleep(HOUR_S)


def forget_once(store: Store, keep_days: float, now: float) -> None:
    """Forgets what is old now; where the store cannot be written, the next hour will do."""
    try:
        gone = store.forget(now - keep_days * DAY_S, at=now)
    except RunError as error:
        LOGGER.warning("nothing was forgotten: %s", error)
        return
    fields = {"answers": gone.answers, "feedback": gone.feedback, "draws": gone.draws}
    if any(fields.values()):
        LOGGER.info("old words were deleted", extra={"fields": fields})


@asynccontextmanager
async def meanwhile(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """These go on beside what stands inside, and end with it."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
