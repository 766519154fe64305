"""`Cached`: no draw is paid for twice, and none is used before it and its cost are in the store.

Where draws are kept is the store's to say; how reads and writes are gathered into few transactions stands in
`grouped`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Protocol

from trimtab.errors import LLMError
from trimtab.llm.grouped import Grouped
from trimtab.types import (
    LLM,
    Call,
    Completion,
    Completions,
    Draws,
    Outcome,
    Prompt,
    Reply,
    SampleStore,
    Sampling,
    Usage,
)


@dataclass(frozen=True, slots=True)
class _Obtained:
    """Draws by number, and what it took to get them."""

    drawn: dict[int, Completion]
    model: str  # empty: nothing was asked of a model
    usage: Usage
    calls: tuple[Call, ...]


class Watching(Protocol):
    """Who is told of draws that cost nothing."""

    def replayed(self, model: str, prompt: Prompt, n: int) -> None:
        """So many draws came from the store."""
        ...


class Cached:
    """A language model whose every draw is in the store before it is returned.

    A request is known by what decides its draws (`request_key`), its draws by their numbers. Those that are
    kept come from the store; only the missing ones are asked for, each once, however many ask at the same
    time. Usage and calls are what this very request has paid: draws from the store, and draws that another
    request is paying for, cost nothing, so that sums over a run count each payment once.

    Fewer completions than asked for may come, where the model inside gives fewer: always the first ones, so
    that the next request can begin where this one ended.

    A call on its way is paid for: a caller who is cancelled goes away only once it has ended and is kept.
    Cancelled once more, the caller goes at once, and what ends the event loop ends the call. A reply that has
    arrived is kept even then.

    Args:
        llm: the model to ask.
        store: where draws and the ledger are kept.
        scope: what tells this model from another of the same name, such as its endpoint.
        bypass: ask for all draws anew. They go into the store where it has none of their number, and the
            ledger has their cost.
        watch: told of the draws that come from the store.
    """

    def __init__(
        self,
        llm: LLM,
        store: SampleStore,
        *,
        scope: str = "",
        bypass: bool = False,
        watch: Sequence[Watching] = (),
    ) -> None:
        self._llm = llm
        self._watch = tuple(watch)
        self._scope = scope
        self._bypass = bypass
        writer = ThreadPoolExecutor(1, thread_name_prefix="trimtab-store")
        self._read: Grouped[Draws, dict[int, Completion]] = Grouped(store.kept, writer)
        self._write: Grouped[Reply, None] = Grouped(_keeping(store), writer)
        self._on_its_way: dict[tuple[str, int], asyncio.Task[_Obtained]] = {}

    @property
    def name(self) -> str:
        """The name of the model inside."""
        return self._llm.name

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """The draws asked for, or the first of them.

        Raises:
            LLMError: what the model inside raised; the calls of its failed attempts are in the ledger, and
                what other parts of the request gave is kept.
            RunError: the store cannot be read or written.
        """
        key = request_key(self.name, prompt, sampling, self._scope)
        numbers = range(sampling.start, sampling.start + sampling.n)
        wanted, found = list(numbers), _Obtained({}, "", Usage(), ())
        while wanted:
            others = {} if self._bypass else self._others(key, wanted)
            own = self._started(key, prompt, sampling, [number for number in wanted if number not in others])
            await _ended({own, *others.values()})
            theirs = {
                number: drawn for task in others.values() for number, drawn in task.result().drawn.items()
            }
            found = _merged(theirs, [found, own.result()])
            wanted = [number for number in others if number not in theirs]  # their model gave fewer
        first = tuple(found.drawn[number] for number in takewhile(found.drawn.__contains__, numbers))
        return Completions(first, found.usage, found.model or self.name, found.calls)

    def _others(self, key: str, numbers: Sequence[int]) -> dict[int, asyncio.Task[_Obtained]]:
        """Who is getting which of these draws already, on this event loop."""
        loop = asyncio.get_running_loop()
        found = ((number, self._on_its_way.get((key, number))) for number in numbers)
        return {number: task for number, task in found if task is not None and task.get_loop() is loop}

    def _started(
        self, key: str, prompt: Prompt, sampling: Sampling, numbers: list[int]
    ) -> asyncio.Task[_Obtained]:
        """A task that gets these draws; whoever else wants one of them waits for it."""
        task = asyncio.create_task(self._obtained(key, prompt, sampling, numbers))
        if not self._bypass:
            self._on_its_way.update(dict.fromkeys(((key, number) for number in numbers), task))
        task.add_done_callback(lambda done: self._arrived(key, numbers, done))
        return task

    def _arrived(self, key: str, numbers: list[int], task: asyncio.Task[_Obtained]) -> None:
        for number in numbers:
            if self._on_its_way.get((key, number)) is task:
                del self._on_its_way[key, number]
        if not task.cancelled():
            task.exception()  # seen: whoever waits has it too, and a caller that went away needs no warning

    async def _obtained(
        self, key: str, prompt: Prompt, sampling: Sampling, numbers: Sequence[int]
    ) -> _Obtained:
        kept = await self._kept(key, numbers)
        if kept:
            for each in self._watch:
                each.replayed(self.name, prompt, len(kept))
        missing = _runs([number for number in numbers if number not in kept])
        parts = [self._bought(key, prompt, replace(sampling, start=run.start, n=len(run))) for run in missing]
        if len(parts) == 1:
            return _merged(kept, [await parts[0]])
        # All of them end, and are kept, before one failure is reported.
        return _merged(kept, await asyncio.gather(*parts, return_exceptions=True))

    async def _kept(self, key: str, numbers: Sequence[int]) -> dict[int, Completion]:
        if self._bypass or not numbers:
            return {}
        return await self._read(Draws(key, numbers[0], numbers[-1] + 1 - numbers[0]))

    async def _bought(self, key: str, prompt: Prompt, sampling: Sampling) -> _Obtained:
        """New draws, and what they cost, in the store."""
        started_at = time.time()
        try:
            given = await self._llm.complete(prompt, sampling)
        except LLMError as error:
            if error.calls:
                await self._write(Reply(key, sampling.start, self.name, (), error.calls))
            raise
        calls = given.calls or self._unlisted(prompt, sampling, given.usage, started_at)
        completions = given.completions[: sampling.n]  # what is beyond has the number of another draw
        await self._write(Reply(key, sampling.start, given.model, completions, calls))
        drawn = dict(enumerate(completions, sampling.start))
        return _Obtained(drawn, given.model, given.usage, given.calls)

    def _unlisted(
        self, prompt: Prompt, sampling: Sampling, usage: Usage, started_at: float
    ) -> tuple[Call, ...]:
        """The ledger's line for a model that counts its usage and lists no calls."""
        if usage == Usage():
            return ()
        call = Call(
            id=uuid.uuid4().hex,
            purpose=prompt.purpose,
            model=self.name,
            endpoint=self._scope,
            payer="",
            outcome=Outcome.PAID,
            usage=usage,
            seconds=time.time() - started_at,
            started_at=started_at,
            n=sampling.n,
        )
        return (call,)


def _keeping(store: SampleStore) -> Callable[[Sequence[Reply]], Sequence[None]]:
    def keep(replies: Sequence[Reply]) -> Sequence[None]:
        store.keep(replies)
        return [None] * len(replies)

    return keep


def _runs(numbers: Sequence[int]) -> Iterator[range]:
    """These ascending numbers as ranges without a gap."""
    start = 0
    for at in range(1, len(numbers) + 1):
        if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
            yield range(numbers[start], numbers[at - 1] + 1)
            start = at


def _merged(free: dict[int, Completion], parts: Sequence[_Obtained | BaseException]) -> _Obtained:
    """Draws that cost nothing, and what was bought, together. Raises the first failure among the parts."""
    bought: list[_Obtained] = []
    for part in parts:
        if isinstance(part, BaseException):
            raise part
        bought.append(part)
    return _Obtained(
        free | {number: drawn for part in bought for number, drawn in part.drawn.items()},
        next((part.model for part in bought if part.model), ""),
        sum((part.usage for part in bought), Usage()),
        tuple(call for part in bought for call in part.calls),
    )


async def _ended(tasks: set[asyncio.Task[_Obtained]]) -> None:
    try:
        await asyncio.wait(tasks)
    except asyncio.CancelledError:
        # The loop may end with its cancelled callers, and would take a call with it that still runs.
        await asyncio.wait(tasks)
        raise


def request_key(model: str, prompt: Prompt, sampling: Sampling, scope: str = "") -> str:
    """SHA-256 of all that decides a request's draws.

    How many are asked for and from which number on decides which draws are meant, not what they are. The
    question's id and the purpose are never sent.
    """
    request = {
        "model": model,
        "scope": scope,
        "messages": [[message.role, message.content] for message in prompt.messages],
        "temperature": sampling.temperature,
        "max_tokens": sampling.max_tokens,
        "stop": sampling.stop,
        "seed": sampling.seed,
    }
    written = json.dumps(request, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(written.encode("utf-8", "surrogatepass")).hexdigest()
