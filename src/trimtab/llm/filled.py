"""`Filled`: all n completions, whatever the endpoint gives at once.

Stands above the keeping of responses, `Filled(Kept(...))`: each part is a request of its own there, so that
where one part fails the others stay paid for.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

from trimtab.errors import EndpointError
from trimtab.types import LLM, Completions, Prompt, Sampling

MAX_N = 128  # what OpenAI takes in one request


@dataclass(frozen=True, slots=True)
class Part(Sampling):
    """Some of the draws of a larger request. Never sent; tells parts without a seed from one another."""

    whole: int = 1  # draws asked for in all
    start: int = 0  # the place among them of the part's first


class Filled:
    """A language model that gives as many completions as are asked for.

    More than `max_n` are asked for in parts. Where the model inside gives fewer than a part asked for, the
    rest is asked for in parts of the size it gave, all at once. Each part but the first has a seed of its
    own, made of the caller's, and none where the caller gave none. Usage is the sum over the parts.

    Args:
        llm: the model to ask; it gives at least one completion a call.
        max_n: the most that is asked of it in one call.
    """

    def __init__(self, llm: LLM, *, max_n: int = MAX_N) -> None:
        self._llm = llm
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
        if sampling.n <= self._max_n:
            return await self._part(prompt, sampling, 0, sampling.n)
        return await self._draws(prompt, sampling, 0, sampling.n, self._max_n)

    async def _draws(self, prompt: Prompt, asked: Sampling, start: int, n: int, size: int) -> Completions:
        """Draws number `start` to `start + n` of those asked for, in parts of this size."""
        parts = await asyncio.gather(
            *(
                self._part(prompt, asked, at, min(size, start + n - at))
                for at in range(start, start + n, size)
            ),
            return_exceptions=True,  # all of them end before one is reported: none runs on behind an error
        )
        return _joined(parts)

    async def _part(self, prompt: Prompt, asked: Sampling, start: int, n: int) -> Completions:
        first = await self._llm.complete(prompt, _part_of(asked, start, n))
        given = len(first.completions)
        if given >= n:
            return first
        if given == 0:
            raise EndpointError(f"{self.name} answered without a completion", retryable=True)
        return _joined([first, await self._draws(prompt, asked, start + given, n - given, given)])


def _part_of(asked: Sampling, start: int, n: int) -> Sampling:
    """The request for n of the draws; where it asks for all of them, it is the caller's own."""
    if n == asked.n:
        return asked
    seed = asked.seed if start == 0 else _seed(asked.seed, start)
    return Part(n, asked.temperature, asked.max_tokens, asked.stop, seed, asked.n, start)


def _seed(seed: int | None, start: int) -> int | None:
    """Another seed for the draws from number `start` on: with the same one, a server may repeat itself."""
    if seed is None:
        return None
    return int.from_bytes(hashlib.sha256(f"{seed}:{start}".encode()).digest()[:4], "big") >> 1


def _joined(parts: Sequence[Completions | BaseException]) -> Completions:
    joined: list[Completions] = []
    for part in parts:
        if isinstance(part, BaseException):
            raise part
        joined.append(part)
    completions = tuple(chain.from_iterable(part.completions for part in joined))
    return replace(
        joined[0], completions=completions, usage=sum((p.usage for p in joined[1:]), joined[0].usage)
    )
