"""What may be spent: checked before each call, settled after it.

A call's worst case is set aside before it is made, so that calls in flight together cannot go over a limit
that each of them alone would keep. `Account` counts and knows no event loop; `Budget` is who waits for whom.
Prices are `prices`' business, the ledger is the store's.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from trimtab.errors import BudgetSpentError, ConfigError
from trimtab.types import Message, Usage

REQUEST_TOKENS = 64  # what a chat template adds of its own: Llama 3's and Qwen's write 20 to 30
MESSAGE_TOKENS = 16  # what wraps one message in a chat template, and a little more
NOTHING = Usage()
DOLLAR_GRAIN = 1e-9  # sums of floats are compared with this much room


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that may be spent; None is no limit. Wall time counts from the budget's making."""

    usd: float | None = None
    tokens: int | None = None  # in and out
    calls: int | None = None  # that are paid for
    wall_s: float | None = None


# --------------------------------------------------------------------------- counting


class Account:
    """What one budget has spent and set aside, and which of its limits a further call would go over.

    At all times: what is spent and what is set aside are together within the limits, as long as each call
    is charged at most what was set aside for it. A call that is charged more is still charged.
    """

    def __init__(self, limits: Limits, spent: Usage, name: str) -> None:
        self.limits, self.spent, self.name = limits, spent, name
        self.reserved = NOTHING  # the sum over the holds, kept up rather than summed at each call
        self.in_flight = 0

    def hold(self, worst: Usage) -> None:
        """Set a call's worst case aside."""
        self.in_flight += 1
        self.reserved += worst

    def settle(self, worst: Usage, charged: Usage) -> None:
        """Put what a call has cost in place of what was set aside for it."""
        self.in_flight -= 1
        self.reserved = _less(self.reserved, worst) if self.in_flight else NOTHING
        self.spent += charged

    def has_room(self, worst: Usage) -> bool:
        """True when a call fits beside what is spent and set aside."""
        return self._over(self.spent + self.reserved, worst) is None

    def refusal(self, worst: Usage, elapsed_s: float) -> str | None:
        """Why a call does not fit even if all calls in flight turned out to cost nothing; None if it does."""
        if self.limits.wall_s is not None and elapsed_s >= self.limits.wall_s:
            return f"{self.name} of {self.limits.wall_s:g} s is over"
        return self._over(self.spent, worst)

    def refuse_unpriced(self, worst: Usage) -> None:
        """Raises ConfigError where a limit in dollars cannot be kept: the price of a call is not known."""
        if self.limits.usd is None:
            return
        if worst.calls and worst.usd is None:
            raise ConfigError(
                f"{self.name} is {self.limits.usd:g} dollars, and the price of this call is not known: give "
                "--usd-per-million-in and --usd-per-million-out, or limit tokens or calls instead"
            )
        if self.spent.calls and self.spent.usd is None:
            raise ConfigError(
                f"{self.name} is {self.limits.usd:g} dollars, and of {self.spent.calls} calls that count "
                "towards it some were made without a known price: limit tokens or calls instead"
            )

    def _over(self, before: Usage, worst: Usage) -> str | None:
        """The limit that a call goes over after all before it, in words."""
        limits, spent, total = self.limits, self.spent, before + worst
        if limits.usd is not None and (total.usd or 0.0) > limits.usd + DOLLAR_GRAIN:
            return self._told(f"${limits.usd:g}", f"${spent.usd or 0.0:.6f}", f"${worst.usd or 0.0:.6f}")
        if limits.tokens is not None and _tokens(total) > limits.tokens:
            return self._told(f"{limits.tokens} tokens", f"{_tokens(spent)}", f"{_tokens(worst)}")
        if limits.calls is not None and total.calls > limits.calls:
            return self._told(f"{limits.calls} calls", f"{spent.calls}", f"{worst.calls}")
        return None

    def _told(self, limit: str, spent: str, worst: str) -> str:
        return f"{self.name} is {limit}, of which {spent} are spent, and the next call may take {worst}"


def _tokens(usage: Usage) -> int:
    return usage.input_tokens + usage.output_tokens


def _less(total: Usage, part: Usage) -> Usage:
    usd = None if total.usd is None or part.usd is None else max(0.0, total.usd - part.usd)
    return Usage(
        total.input_tokens - part.input_tokens,
        total.output_tokens - part.output_tokens,
        total.calls - part.calls,
        usd,
    )


# --------------------------------------------------------------------------- waiting


@dataclass(frozen=True, slots=True, eq=False)
class Hold:
    """What is set aside for one call."""

    worst: Usage


class Purse(Protocol):
    """Who sets money aside for calls: a `Budget`, or what stands for one elsewhere."""

    async def reserve(self, worst: Usage) -> Hold:
        """Sets aside a call's worst case. Raises BudgetSpentError."""
        ...

    def settle(self, hold: Hold, charged: Usage) -> None:
        """Puts what a call has cost in place of what was set aside for it."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """A call that would fit if others in flight cost less than was set aside for them."""

    budget: Budget
    worst: Usage
    turn: asyncio.Future[Hold]


class Budget:
    """Limits, what has been spent and what is set aside.

    Calls wait in the order they came. One event loop at a time; another may follow it.

    Args:
        limits: the most that may be spent.
        spent: what had been spent before, by earlier parts of the same run for instance.
        name: whose budget it is, as errors say it.
        outer: a budget around this one, such as a key's around a run's: a call must fit into both.
        clock: seconds.

    Raises:
        ConfigError: a limit in dollars, and what was spent before has no known price.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        spent: Usage = NOTHING,
        name: str = "the limit",
        outer: Budget | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._account = Account(limits, spent, name)
        self._account.refuse_unpriced(NOTHING)
        self._outer, self._clock = outer, clock
        self._began = clock()
        self._queue: deque[_Waiting] = outer._queue if outer else deque()
        self._refusal: str | None = None

    @property
    def spent(self) -> Usage:
        """What has been charged so far."""
        return self._account.spent

    @property
    def reserved(self) -> Usage:
        """What is set aside for the calls in flight."""
        return self._account.reserved

    @property
    def is_spent(self) -> str | None:
        """Why a call was refused, once one has been; None before."""
        return self._refusal or (self._outer.is_spent if self._outer else None)

    @property
    def is_limited(self) -> bool:
        """True when this budget or one around it has a limit of any sort."""
        return any(budget._account.limits != Limits() for budget in self._and_outer())

    def fits(self, worst: Usage) -> bool:
        """True when so much could be set aside at once."""
        return not self._queue and self._has_room(worst)

    async def reserve(self, worst: Usage) -> Hold:
        """Sets aside a call's worst case; waits while only calls in flight stand in its way.

        Raises:
            BudgetSpentError: it would not fit even if all calls in flight turned out to cost nothing.
            ConfigError: a limit in dollars, and the call's price is not known.
        """
        self._refuse(worst)
        if not self._queue and self._has_room(worst):
            return self._held(worst)
        waiting = _Waiting(self, worst, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._let_through()
        try:
            return await waiting.turn
        except asyncio.CancelledError:
            self._leave(waiting)
            raise

    def settle(self, hold: Hold, charged: Usage) -> None:
        """Puts what a call has cost in place of what was set aside for it."""
        for budget in self._and_outer():
            budget._account.settle(hold.worst, charged)
        self._let_through()

    def _refuse(self, worst: Usage) -> None:
        for budget in self._and_outer():
            budget._account.refuse_unpriced(worst)
            refusal = budget._account.refusal(worst, budget._clock() - budget._began)
            if refusal is not None:
                budget._refusal = self._refusal = refusal
                raise BudgetSpentError(f"budget spent: {refusal}")

    def _has_room(self, worst: Usage) -> bool:
        return all(budget._account.has_room(worst) for budget in self._and_outer())

    def _held(self, worst: Usage) -> Hold:
        for budget in self._and_outer():
            budget._account.hold(worst)
        return Hold(worst)

    def _let_through(self) -> None:
        """Give their turn to all who come next and fit, or never will."""
        while self._queue and self._queue[0].budget._answers(self._queue[0]):
            self._queue.popleft()

    def _answers(self, waiting: _Waiting) -> bool:
        """True when nobody waits there any more: it was held for, refused, or left behind."""
        if waiting.turn.done() or waiting.turn.get_loop().is_closed():
            return True
        try:
            self._refuse(waiting.worst)
        except (BudgetSpentError, ConfigError) as refused:
            waiting.turn.set_exception(refused)
            return True
        if not self._has_room(waiting.worst):
            return False
        waiting.turn.set_result(self._held(waiting.worst))
        return True

    def _leave(self, waiting: _Waiting) -> None:
        """Who waited goes away; what was held for it in the same moment is given back."""
        turn = waiting.turn
        if turn.done() and not turn.cancelled() and turn.exception() is None:
            self.settle(turn.result(), Usage(usd=0.0))
        else:
            self._let_through()

    def _and_outer(self) -> Iterator[Budget]:
        budget: Budget | None = self
        while budget is not None:
            yield budget
            budget = budget._outer


# --------------------------------------------------------------------------- one call


def worst_case(messages: Sequence[Message], n: int, max_tokens: int) -> Usage:
    """The most that one request can use, unpriced.

    No tokeniser makes more tokens of a text than it has bytes in UTF-8, so this needs none. It is some four
    times what English takes; what was not used is given back when the call ends.
    """
    written = sum(len(message.content.encode("utf-8", "surrogatepass")) for message in messages)
    wrapping = REQUEST_TOKENS + MESSAGE_TOKENS * len(messages)
    return Usage(written + wrapping, n * max_tokens, calls=1)
