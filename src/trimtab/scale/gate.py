"""`Gate`: the one limiter and the one budget of a cluster, asked for by number and told of by number.

A sampling actor draws up a bundle of what it wants and what has ended (`Told`), hears what it may do
(`News`), and spends its turns and holds without asking again. Who bundles stands in `leases`; that the gate
lives in an actor of its own, in `actors`. Nothing here knows Ray.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from trimtab.errors import BudgetSpentError, ConfigError
from trimtab.llm.budget import Budget, Hold
from trimtab.llm.limiter import Limiter, Slot
from trimtab.types import Usage

PATIENCE_S = 5.0  # how long a call for news stays open where there is none
PLENTY = 64  # so many worst cases must fit beside all others before any is set aside ahead of need


# --------------------------------------------------------------------------- what is said


@dataclass(frozen=True, slots=True)
class Ended:
    """A turn that was used: how its request went, and whether another took its place at once."""

    turn: int
    is_answered: bool = False
    is_throttled: bool = False
    retry_after_s: float | None = None
    is_taken_over: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """A hold that is wanted."""

    number: int
    worst: Usage
    is_ahead: bool = False  # no call needs it yet


@dataclass(frozen=True, slots=True)
class Told:
    """What a sampler wants, and what has ended, since it last said so."""

    turns: tuple[tuple[int, int], ...] = ()  # number, tokens
    holds: tuple[Wanted, ...] = ()
    ended: tuple[Ended, ...] = ()
    settled: tuple[tuple[int, Usage], ...] = ()  # number of the hold, what was charged
    charged: Usage = field(default_factory=Usage)  # where nothing is limited, and so nothing held


@dataclass(frozen=True, slots=True)
class Mood:
    """How freely turns and holds may be used."""

    is_open: bool = False  # a turn that ended may serve another request at once (`Limiter.is_open`)
    is_limited: bool = True  # there is a limit on what is spent
    is_plenty: bool = False  # holds may be had ahead of need


@dataclass(frozen=True, slots=True)
class News:
    """What was granted and refused since a sampler last heard."""

    turns: tuple[int, ...] = ()
    holds: tuple[int, ...] = ()
    refused: tuple[tuple[int, BudgetSpentError | ConfigError], ...] = ()
    mood: Mood = Mood()


# --------------------------------------------------------------------------- the gate


@dataclass(slots=True)
class _Sampler:
    """What one sampler waits for, has, and was not told yet."""

    slots: dict[int, Slot] = field(default_factory=dict)
    holds: dict[int, tuple[Hold, Usage]] = field(default_factory=dict)
    waiting: dict[tuple[str, int], asyncio.Task[None]] = field(default_factory=dict)
    turns: list[int] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    refused: list[tuple[int, BudgetSpentError | ConfigError]] = field(default_factory=list)
    has_news: asyncio.Event = field(default_factory=asyncio.Event)


class Gate:
    """Says for a whole cluster when a request may be sent, and whether there is money for it.

    Requests of all samplers wait in one queue, in the order in which they were told of.

    Args:
        limiter: of the endpoint.
        budget: of the run, inside its key's.
    """

    def __init__(self, limiter: Limiter, budget: Budget) -> None:
        self._limiter, self._budget = limiter, budget
        self._samplers: dict[str, _Sampler] = {}
        self._largest = Usage()
        self.bundles = 0  # heard so far

    async def tell(self, who: str, told: Told) -> Mood:
        """Takes a bundle; says how freely what was granted may be used."""
        sampler = self._samplers.setdefault(who, _Sampler())
        self.bundles += 1
        for number, tokens in told.turns:
            self._start(sampler, "turn", number, self._turn(sampler, number, tokens))
        for wanted in told.holds:
            self._start(sampler, "hold", wanted.number, self._hold(sampler, wanted))
        # What is wanted waits until what has ended made room for it, and may be withdrawn in the same breath.
        for ended in told.ended:
            await self._end(sampler, ended)
        for number, charged in told.settled:
            self._settle(sampler, number, charged)
        if told.charged != Usage():
            self._budget.settle(await self._budget.reserve(Usage()), told.charged)
        await asyncio.sleep(0)  # what can be granted at once is
        return self._mood()

    async def news(self, who: str) -> News:
        """What the sampler has been granted; waits a while where that is nothing yet."""
        sampler = self._samplers.setdefault(who, _Sampler())
        try:
            await asyncio.wait_for(sampler.has_news.wait(), PATIENCE_S)
        except TimeoutError:
            return News(mood=self._mood())
        news = News(tuple(sampler.turns), tuple(sampler.held), tuple(sampler.refused), self._mood())
        for told in (sampler.turns, sampler.held, sampler.refused):
            told.clear()
        sampler.has_news.clear()
        return news

    async def forget(self, who: str) -> None:
        """A sampler is gone: its turns are free again, and what it held counts as spent.

        Nobody knows what of it was billed; the ledger knows better, once the run is gone on with.
        """
        sampler = self._samplers.pop(who, _Sampler())
        for task in sampler.waiting.values():
            task.cancel()
        for number in list(sampler.slots):
            await self._end(sampler, Ended(number))
        for number, (_, worst) in list(sampler.holds.items()):
            self._settle(sampler, number, worst)

    @property
    def spent(self) -> Usage:
        """What was charged so far, as far as it was told."""
        return self._budget.spent

    @property
    def is_spent(self) -> str | None:
        """Why a call was refused, once one has been."""
        return self._budget.is_spent

    @property
    def in_flight(self) -> int:
        """Turns given and not given back."""
        return self._limiter.in_flight

    # ------------------------------------------------------------------ turns

    async def _turn(self, sampler: _Sampler, number: int, tokens: int) -> None:
        slot = self._limiter.slot(tokens)
        sampler.slots[number] = await slot.__aenter__()
        sampler.turns.append(number)
        sampler.has_news.set()

    async def _end(self, sampler: _Sampler, ended: Ended) -> None:
        slot = sampler.slots.get(ended.turn)
        if slot is None:  # it was not granted yet: nobody wants it any more
            self._withdraw(sampler, "turn", ended.turn)
            return
        if ended.is_answered:
            slot.succeeded()
        if ended.is_throttled:
            slot.throttled(ended.retry_after_s)
        if ended.is_taken_over:
            slot.again()
            return
        del sampler.slots[ended.turn]
        await slot.__aexit__(None, None, None)

    # ------------------------------------------------------------------ money

    async def _hold(self, sampler: _Sampler, wanted: Wanted) -> None:
        number, worst = wanted.number, wanted.worst
        self._largest = max(self._largest, worst, key=lambda usage: usage.input_tokens + usage.output_tokens)
        try:
            sampler.holds[number] = (await self._reserved(wanted), worst)
            sampler.held.append(number)
        except (BudgetSpentError, ConfigError) as refused:
            sampler.refused.append((number, refused))
        sampler.has_news.set()

    async def _reserved(self, wanted: Wanted) -> Hold:
        if wanted.is_ahead and not self._budget.fits(wanted.worst):
            raise BudgetSpentError("not to be had ahead of need")
        return await self._budget.reserve(wanted.worst)

    def _settle(self, sampler: _Sampler, number: int, charged: Usage) -> None:
        if number not in sampler.holds:
            self._withdraw(sampler, "hold", number)
            return
        hold, _ = sampler.holds.pop(number)
        self._budget.settle(hold, charged)

    # ------------------------------------------------------------------ both

    def _start(self, sampler: _Sampler, what: str, number: int, wanted: Coroutine[Any, Any, None]) -> None:
        place = what, number
        task = sampler.waiting[place] = asyncio.create_task(wanted)
        task.add_done_callback(lambda _: sampler.waiting.pop(place, None))

    def _withdraw(self, sampler: _Sampler, what: str, number: int) -> None:
        if task := sampler.waiting.pop((what, number), None):
            task.cancel()

    def _mood(self) -> Mood:
        is_limited = self._budget.is_limited
        return Mood(
            self._limiter.is_open, is_limited, is_limited and self._budget.fits(times(PLENTY, self._largest))
        )


def times(count: int, usage: Usage) -> Usage:
    """So many calls alike."""
    return Usage(
        count * usage.input_tokens,
        count * usage.output_tokens,
        count * usage.calls,
        None if usage.usd is None else count * usage.usd,
    )
