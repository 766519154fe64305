"""`Filled`: all n completions, whatever the endpoint gives at once.

Stands above the keeping of draws, `Filled(Cached(...))`: each part is a request of its own there, so that
where one part fails the others stay paid for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from trimtab.errors import EndpointError
from trimtab.llm.capabilities import MOST_AT_ONCE, Learned
from trimtab.types import LLM, Completions, Prompt, Sampling


class Filled:
    """A language model that gives as many completions as are asked for.

    What its model takes at once is asked for in one part; more are asked for in parts, all at once. Where
    a part brings fewer than it asked for, the rest is asked for in parts of the size it brought. Each part
    has the numbers of its draws (`Sampling.start`). Usage is the sum over the parts.

    Args:
        llm: the model to ask; it gives at least one completion a call.
        capabilities: what is known of the model, shared with who shapes its requests; they may learn
            that it gives one completion at a time.
        max_n: the most that is asked of it in one call, where nothing is known of it.
    """

    def __init__(self, llm: LLM, *, capabilities: Learned | None = None, max_n: int = MOST_AT_ONCE) -> None:
        self._llm = llm
        self._capabilities = capabilities
        self._max_n = max(1, max_n)

    @property
    def name(self) -> str:
        """The name of the model inside."""
        return self._llm.name

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """`sampling.n` completions of the prompt.

        Raises:
            LLMError: what the model inside raised for the first part that failed; all parts have ended by
                then, and a store beneath holds those that were answered.
        """
        return await self._draws(prompt, sampling, sampling.start, sampling.n, self._most_at_once)

    @property
    def _most_at_once(self) -> int:
        known = self._capabilities.most_at_once if self._capabilities else self._max_n
        return min(known, self._max_n)

    async def _draws(self, prompt: Prompt, asked: Sampling, start: int, n: int, size: int) -> Completions:
        """Draws number `start` to `start + n` of those asked for, in parts of this size."""
        if n <= size:
            return await self._part(prompt, asked, start, n)
        sizes = [(at, min(size, start + n - at)) for at in range(start, start + n, size)]
        parts = await asyncio.gather(
            *(self._part(prompt, asked, at, count) for at, count in sizes),
            return_exceptions=True,  # all of them end before one is reported: none runs on behind an error
        )
        return joined(parts)

    async def _part(self, prompt: Prompt, asked: Sampling, start: int, n: int) -> Completions:
        first = await self._llm.complete(prompt, replace(asked, n=n, start=start))
        given = len(first.completions)
        if given >= n:
            return first
        if given == 0:
            raise EndpointError(f"{self.name} answered without a completion", retryable=True)
        size = min(given, self._most_at_once)
        return joined([first, await self._draws(prompt, asked, start + given, n - given, size)])


def joined(parts: Sequence[Completions | BaseException]) -> Completions:
    """The parts of one request as one reply. Raises the first error among them."""
    good: list[Completions] = []
    for part in parts:
        if isinstance(part, BaseException):
            raise part
        good.append(part)
    return replace(
        good[0],
        completions=tuple(chain.from_iterable(part.completions for part in good)),
        usage=sum((part.usage for part in good[1:]), good[0].usage),
        calls=tuple(chain.from_iterable(part.calls for part in good)),
    )
