"""The sampler's side of the gate: a limiter and a budget that a `ChatLLM` takes for its own.

What is wanted and what has ended goes to the gate in bundles, so that no request makes a call of its own.
While the gate is open, a turn that ended serves the next request at once, and holds are had ahead of need:
then a request waits for nobody. Nothing here knows Ray.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from types import TracebackType
from typing import Any, Protocol

from trimtab.errors import BudgetSpentError, RunError
from trimtab.llm.budget import Hold
from trimtab.scale.gate import Ended, Mood, News, Told, Wanted
from trimtab.types import Usage

GATHER_S = 0.002  # how long what somebody waits for is gathered into one bundle
LAZY_S = 0.05  # and what nobody waits for
LINGER_S = 0.02  # how long a turn that ended stays here for the next request
AHEAD = 8  # holds at most that are had ahead of need
NOTHING = Usage(usd=0.0)


class AnyGate(Protocol):
    """A `Gate`, here or in an actor."""

    async def tell(self, who: str, told: Told) -> Mood:
        """Takes a bundle."""
        ...

    async def news(self, who: str) -> News:
        """What has been granted."""
        ...


class Line:
    """One sampler's line to the gate.

    Args:
        gate: where it leads.
        who: the sampler's name.
    """

    def __init__(self, gate: AnyGate, who: str) -> None:
        self._gate, self._who = gate, who
        self.mood = Mood()
        self.bundles = 0
        self._numbers = count()
        self._bundle = _Bundle()
        self._waiting: dict[int, asyncio.Future[int]] = {}
        self._of_money: set[int] = set()  # numbers of holds
        self.at_close: list[Callable[[], None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_sending = self._is_listening = False
        self._hurry = asyncio.Event()

    def wanted_turn(self, tokens: int) -> asyncio.Future[int]:
        """The number of a turn, once it has come."""
        number = next(self._numbers)
        self._bundle.turns.append((number, tokens))
        return self._awaited(number)

    def wanted_hold(self, worst: Usage, *, is_ahead: bool = False) -> asyncio.Future[int]:
        """The number of a hold, once it is set aside. Raises what the budget raises.

        Args:
            worst: what is set aside.
            is_ahead: no call needs it yet; it is refused unless it can be had at once.
        """
        number = next(self._numbers)
        self._bundle.holds.append(Wanted(number, worst, is_ahead))
        self._of_money.add(number)
        return self._awaited(number)

    def ended(self, ended: Ended) -> None:
        """A turn was used, or is not wanted any more."""
        self._waiting.pop(ended.turn, None)
        self._bundle.ended.append(ended)
        self._post(is_urgent=ended.is_throttled or not self.mood.is_open)

    def settled(self, number: int, charged: Usage) -> None:
        """What a hold was used for, or that it is not wanted any more."""
        self._waiting.pop(number, None)
        self._of_money.discard(number)
        self._bundle.settled.append((number, charged))
        self._post(is_urgent=not self.mood.is_plenty)

    def charged(self, usage: Usage) -> None:
        """What was charged without a hold."""
        self._bundle.charged += usage
        self._post(is_urgent=False)

    async def open(self) -> None:
        """Hears how free turns and money are, before the first is wanted."""
        self.mood = await self._gate.tell(self._who, Told())

    async def close(self) -> None:
        """Nothing is wanted or left here any more, and everything has been told, when this returns."""
        for give_back in self.at_close:
            give_back()
        for number in list(self._waiting):
            self._not_wanted(number)
        while self._is_sending:
            self._hurry.set()
            await asyncio.sleep(GATHER_S)
        for task in self._tasks:
            task.cancel()

    # ------------------------------------------------------------------ sending and listening

    def _awaited(self, number: int) -> asyncio.Future[int]:
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._post(is_urgent=True)
        if not self._is_listening:
            self._is_listening = True
            self._run(self._listen())
        return future

    def _post(self, *, is_urgent: bool) -> None:
        if is_urgent:
            self._hurry.set()
        if not self._is_sending:
            self._is_sending = True
            self._run(self._send())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._or_fail(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _or_fail(self, work: Coroutine[Any, Any, None]) -> None:
        """Whoever waits hears of it when the gate is gone: without it nothing may be sent."""
        try:
            await work
        except Exception as error:  # noqa: BLE001  (whatever the way to the gate raises: it ends all who wait)
            self._is_sending = self._is_listening = False
            gone = RunError(f"the run's limiter and budget cannot be reached: {error}")
            for future in self._waiting.values():
                _fail(future, gone)
            self._waiting.clear()

    async def _send(self) -> None:
        while not self._bundle.is_empty:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), LAZY_S)
                await asyncio.sleep(GATHER_S)
            self._hurry.clear()
            told, self._bundle = self._bundle.told(), _Bundle()
            self.bundles += 1
            self.mood = await self._gate.tell(self._who, told)
        self._is_sending = False

    async def _listen(self) -> None:
        while self._waiting:
            news = await self._gate.news(self._who)
            self.mood = news.mood
            for number in (*news.turns, *news.holds):
                if not self._given(number):
                    self._not_wanted(number)
            for number, refused in news.refused:
                _fail(self._waiting.pop(number, None), refused)
        self._is_listening = False

    def _not_wanted(self, number: int) -> None:
        if number in self._of_money:
            self.settled(number, NOTHING)
        else:
            self.ended(Ended(number))

    def _given(self, number: int) -> bool:
        """True when somebody still waits for it, and has it now."""
        future = self._waiting.pop(number, None)
        if future is None or future.done():
            return False
        future.set_result(number)
        return True


class _Bundle:
    """A `Told` in the making."""

    def __init__(self) -> None:
        self.turns: list[tuple[int, int]] = []
        self.holds: list[Wanted] = []
        self.ended: list[Ended] = []
        self.settled: list[tuple[int, Usage]] = []
        self.charged = Usage()

    @property
    def is_empty(self) -> bool:
        return not (self.turns or self.holds or self.ended or self.settled) and self.charged == Usage()

    def told(self) -> Told:
        return Told(
            tuple(self.turns), tuple(self.holds), tuple(self.ended), tuple(self.settled), self.charged
        )


def _fail(future: asyncio.Future[int] | None, error: Exception) -> None:
    if future is not None and not future.done():
        future.set_exception(error)


# --------------------------------------------------------------------------- turns


class LeasedLimiter:
    """A limiter whose turns come from the gate.

    Args:
        line: to the gate.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self._waiting: deque[asyncio.Future[int]] = deque()
        self._idle: list[Ended] = []
        self.in_flight = 0
        line.at_close.append(self._give_back)

    def slot(self, tokens: int = 0) -> LeasedSlot:
        """Leave to send a request of at most so many tokens, for an `async with`."""
        return LeasedSlot(self, tokens)

    async def _turn(self, tokens: int) -> int:
        """The number of a turn: one that another request has left, or else one that is wanted of the gate."""
        number = self._left_over()
        if number is None:
            number = await self._next(tokens)
        self.in_flight += 1
        return number

    def _left_over(self) -> int | None:
        if not self._idle or not self._line.mood.is_open:
            return None
        ended = self._idle.pop()
        self._line.ended(replace(ended, is_taken_over=True))
        return ended.turn

    async def _next(self, tokens: int) -> int:
        own = self._line.wanted_turn(tokens)
        mine: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        own.add_done_callback(self._granted)
        try:
            return await mine
        except asyncio.CancelledError:
            self._leave(mine)
            raise

    def _granted(self, own: asyncio.Future[int]) -> None:
        """A turn has come: it is whose turn it is, or nobody's any more."""
        if own.cancelled():
            return
        if own.exception() is not None:
            self._fail_all(own.exception() or RunError("the gate is gone"))
        elif not self._handed_on(own.result()):
            self._line.ended(Ended(own.result()))

    def _handed_on(self, number: int) -> bool:
        """True when somebody waited for a turn and has this one."""
        while self._waiting:
            first = self._waiting.popleft()
            if not first.done():
                first.set_result(number)
                return True
        return False

    def _leave(self, mine: asyncio.Future[int]) -> None:
        """Who waited goes away; a turn that came in the same moment is handed on."""
        if mine.done() and not mine.cancelled() and not self._handed_on(mine.result()):
            self._line.ended(Ended(mine.result()))

    def _fail_all(self, error: BaseException) -> None:
        while self._waiting:
            first = self._waiting.popleft()
            if not first.done():
                first.set_exception(error)

    def _ended(self, ended: Ended) -> None:
        self.in_flight -= 1
        if not self._line.mood.is_open or ended.is_throttled:
            self._line.ended(ended)
        elif self._handed_on(ended.turn):
            self._line.ended(replace(ended, is_taken_over=True))
        else:
            self._idle.append(ended)
            asyncio.get_running_loop().call_later(LINGER_S, self._linger, ended)

    def _linger(self, ended: Ended) -> None:
        """The time of a turn that ended is over, unless it was taken meanwhile."""
        if any(each is ended for each in self._idle):
            self._idle.remove(ended)
            self._line.ended(ended)

    def _give_back(self) -> None:
        for ended in self._idle:
            self._line.ended(ended)
        self._idle.clear()


class LeasedSlot:
    """Leave for one request: an async context manager that waits for its turn and gives it back."""

    __slots__ = ("_ended", "_limiter", "_tokens")

    def __init__(self, limiter: LeasedLimiter, tokens: int) -> None:
        self._limiter, self._tokens = limiter, tokens
        self._ended: Ended | None = None

    async def __aenter__(self) -> LeasedSlot:
        self._ended = Ended(await self._limiter._turn(self._tokens))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ended is not None:
            self._limiter._ended(self._ended)

    def succeeded(self) -> None:
        """The request was answered: there may be room for more."""
        if self._ended is not None:
            self._ended = replace(self._ended, is_answered=True)

    def throttled(self, retry_after_s: float | None = None) -> None:
        """The request was refused with 429, and the server asked to be left alone for so long."""
        if self._ended is not None:
            self._ended = replace(self._ended, is_throttled=True, retry_after_s=retry_after_s)


# --------------------------------------------------------------------------- money


@dataclass(frozen=True, slots=True)
class _Stocked:
    """A hold that was had ahead of need."""

    number: int
    worst: Usage


class LeasedBudget:
    """A budget whose holds come from the gate; each call has one of its own, as on one machine.

    Args:
        line: to the gate.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self._numbers: dict[Hold, int] = {}
        self._stock: list[_Stocked] = []
        self._coming = 0  # holds ahead of need that are on their way
        self._refusal: str | None = None
        self.spent = Usage()
        line.at_close.append(self._give_back)

    @property
    def is_spent(self) -> str | None:
        """Why a call was refused, once one has been; None before."""
        return self._refusal

    async def reserve(self, worst: Usage) -> Hold:
        """Sets aside a call's worst case; waits while only calls in flight stand in its way.

        Raises:
            BudgetSpentError: it would not fit even if all calls in flight turned out to cost nothing.
            ConfigError: a limit in dollars, and the call's price is not known.
        """
        if not self._line.mood.is_limited:
            return Hold(worst)
        number = self._from_stock(worst)
        if number is None:
            number = await self._asked(worst)
        hold = Hold(worst)
        self._numbers[hold] = number
        self._restock(worst)
        return hold

    def settle(self, hold: Hold, charged: Usage) -> None:
        """Puts what a call has cost in place of what was set aside for it."""
        self.spent += charged
        number = self._numbers.pop(hold, None)
        if number is None:
            self._line.charged(charged)
            return
        self._line.settled(number, charged)
        if not self._numbers or not self._line.mood.is_plenty:
            self._give_back()

    async def _asked(self, worst: Usage) -> int:
        wanted = self._line.wanted_hold(worst)
        try:
            return await wanted
        except BudgetSpentError as refused:
            self._refusal = str(refused)
            raise

    def _from_stock(self, worst: Usage) -> int | None:
        found = next((each for each in self._stock if _covers(each.worst, worst)), None)
        if found is None:
            return None
        self._stock.remove(found)
        return found.number

    def _restock(self, worst: Usage) -> None:
        """As many ahead of need as are in use, up to a few, where there is plenty."""
        if not self._line.mood.is_plenty:
            return
        for _ in range(min(AHEAD, len(self._numbers)) - len(self._stock) - self._coming):
            self._coming += 1
            wanted = self._line.wanted_hold(worst, is_ahead=True)
            wanted.add_done_callback(lambda done: self._stocked(done, worst))

    def _stocked(self, done: asyncio.Future[int], worst: Usage) -> None:
        self._coming -= 1
        if done.cancelled() or done.exception() is not None:
            return  # whoever needs it asks again, and hears why
        self._stock.append(_Stocked(done.result(), worst))
        if not self._numbers:
            self._give_back()

    def _give_back(self) -> None:
        for each in self._stock:
            self._line.settled(each.number, NOTHING)
        self._stock.clear()


def _covers(held: Usage, worst: Usage) -> bool:
    """True when what is set aside is enough for the call; where a price is not known, tokens decide."""
    is_priced = held.usd is not None or worst.usd is None
    return (
        is_priced
        and (held.usd or 0.0) >= (worst.usd or 0.0)
        and held.input_tokens + held.output_tokens >= worst.input_tokens + worst.output_tokens
    )
