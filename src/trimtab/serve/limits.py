"""How much at once: caps on one request, places for those under way, and what one key may ask.

A server never lets a queue grow: who finds no place is told when to come again (429 with Retry-After).
Places are a worker's own; what one key may ask is counted in the store, for all workers together.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from trimtab.errors import RunError
from trimtab.serve.errors import ApiError, spent
from trimtab.serve.wire import ChatCall
from trimtab.store import ApiKey, Store

LOGGER = logging.getLogger("trimtab.serve")
LEASE_S = 60.0  # after which a place that nobody prolongs is a dead worker's
PROLONG_S = 15.0


@dataclass(frozen=True, slots=True)
class Caps:
    """The most that is taken; more is refused with 400, 413 or 429."""

    body_bytes: int = 1 << 20
    messages: int = 256
    n: int = 16  # answers of one request
    tokens: int = 4096  # of one answer
    texts: int = 256  # that one request has scored or classified
    in_flight: int = 256  # requests under way, in one worker
    waiting: int = 256  # that wait for a place
    wait_s: float = 30.0  # for a place

    def check(self, call: ChatCall) -> None:
        """Raises ApiError (400) where a call asks for more than is given."""
        asked = {"messages": len(call.messages), "n": call.n or 1, "max_tokens": call.longest or 0}
        most = {"messages": self.messages, "n": self.n, "max_tokens": self.tokens}
        for name, count in asked.items():
            if count > most[name]:
                raise ApiError(
                    400, f"{name}: at most {most[name]} here; {count} came", param=name, code="over_limit"
                )

    def check_texts(self, count: int) -> None:
        """Raises ApiError (400) where there are none, or too many."""
        if not 1 <= count <= self.texts:
            raise ApiError(400, f"1 to {self.texts} texts are taken at once; {count} came", code="over_limit")


class Gate:
    """Places for requests under way; those that find none wait in turn, and not too many of them.

    Args:
        caps: how many places, and how many may wait how long.
        of_keys: places of the keys that may have so many requests under way and no more.
    """

    def __init__(self, caps: Caps, of_keys: KeyPlaces) -> None:
        self._caps, self._of_keys = caps, of_keys
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.in_flight = 0

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""
        return len(self._waiting)

    @asynccontextmanager
    async def place(self, key: ApiKey | None) -> AsyncIterator[None]:
        """A place among those under way. Raises ApiError (429) where there is none."""
        async with self._of_keys.place(key):
            await self._turn()
            try:
                yield
            finally:
                self._leave()

    async def _turn(self) -> None:
        if self.in_flight < self._caps.in_flight and not self._waiting:
            self.in_flight += 1
            return
        if len(self._waiting) >= self._caps.waiting:
            raise _busy()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._caps.wait_s):
                await turn
        except (TimeoutError, asyncio.CancelledError) as gone:
            self._gone(turn)
            if isinstance(gone, TimeoutError):
                raise _busy() from None
            raise

    def _gone(self, turn: asyncio.Future[None]) -> None:
        """Who goes away while waiting leaves the queue, or gives back the place that it was just given."""
        if turn.cancelled():
            with suppress(ValueError):
                self._waiting.remove(turn)
        else:
            self._leave()

    def _leave(self) -> None:
        """Gives the place to who has waited longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.in_flight -= 1


def _busy() -> ApiError:
    return ApiError(
        429, "the server has as much to do as it can take; ask again", code="busy", retry_after_s=1
    )


class KeyPlaces:
    """What each key has under way, over all workers on the store.

    Args:
        store: where that is counted.
        clock: seconds since the epoch.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock
        self._held: set[str] = set()

    @asynccontextmanager
    async def place(self, key: ApiKey | None) -> AsyncIterator[None]:
        """One more of this key. Raises ApiError (429) where it has as many as it may."""
        if key is None or key.concurrency is None:
            yield
            return
        place = uuid.uuid4().hex
        self._held.add(place)
        try:
            if not await asyncio.to_thread(self._taken, key.id, place, key.concurrency):
                raise ApiError(
                    429,
                    "this key has as many requests under way as it may",
                    code="concurrency",
                    retry_after_s=1,
                )
            yield
        finally:
            self._held.discard(place)
            await asyncio.shield(asyncio.to_thread(self._store.leave_place, place))

    def _taken(self, key_id: str, place: str, most: int) -> bool:
        now = self._clock()
        return self._store.take_place(key_id, place, most, at=now, until=now + LEASE_S)

    async def prolonged(self) -> None:
        """Prolongs, again and again, what is held here; never ends."""
        while True:
            await asyncio.sleep(PROLONG_S)
            if held := list(self._held):
                try:
                    await asyncio.to_thread(self._store.hold_places, held, self._clock() + LEASE_S)
                except RunError as error:
                    LOGGER.warning("places of keys are not prolonged: %s", error)


class Rates:
    """How often each key asks: so many requests a minute, those saved up in a quiet minute included.

    Args:
        store: where that is counted, for all workers.
        clock: seconds since the epoch.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock
        self._not_before: dict[str, float] = {}  # a flood of what would be refused does not reach the store

    async def admit(self, key: ApiKey) -> None:
        """Counts a request in. Raises ApiError (429) where the key has none left."""
        if key.requests_per_minute is None:
            return
        now = self._clock()
        wait_s = self._not_before.get(key.id, now) - now
        if wait_s <= 0:
            wait_s = await asyncio.to_thread(self._store.admit_key, key.id, key.requests_per_minute, now)
            self._not_before[key.id] = now + wait_s
        if wait_s > 0:
            raise ApiError(429, "this key asks more often than it may", code="rate", retry_after_s=wait_s)


@asynccontextmanager
async def within_budget(store: Store, key: ApiKey | None, worst_usd: float | None) -> AsyncIterator[None]:
    """Sets a request's worst case aside on a key that has a limit in dollars, and gives it back at the end.

    What the request did cost is charged as it is kept (`Store.add_inferences`). A process that is killed in
    between has charged too much, never too little.

    Raises:
        ApiError: 429 where it does not fit, 403 where no price is known.
    """
    if key is None or key.max_usd is None:
        yield
        return
    if worst_usd is None:
        raise ApiError(
            403, "this key is limited in dollars, and this model's price is not known", code="no_price"
        )
    if not await asyncio.to_thread(store.reserve_on_key, key.id, worst_usd):
        raise spent("what this key may spend is spent, or nearly: this request's worst case does not fit")
    try:
        yield
    finally:
        await asyncio.shield(asyncio.to_thread(store.charge_key, key.id, -worst_usd))
