"""The batching scorer: what many questions ask within a few milliseconds is scored together.

Here: gathering, fairness, memory, and who hears of an error. How a batch is scored is the engine's affair
(`engines`); no torch is loaded here.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeAlias, TypeVar, runtime_checkable

from trimtab.energy.lengths import of_one_length
from trimtab.errors import RunError
from trimtab.types import Scorer

Item = TypeVar("Item")
Result = TypeVar("Result")

CHARACTERS_A_TOKEN = 4  # of English text; only sizes a window before its texts are tokenised


@runtime_checkable
class BatchScorer(Protocol):
    """Scores in two moves, so that batches can be cut by length in between."""

    @property
    def tokens(self) -> int:
        """The padded tokens of one batch that it likes best."""
        ...

    @property
    def streams(self) -> int:
        """How many threads may be inside `scores` at once."""
        ...

    def encode(self, pairs: Sequence[tuple[str, str]]) -> Sequence[Sized]:
        """Each (question, text) pair as the batches want it, in order; its `len` is in tokens."""
        ...

    def scores(self, batch: Sequence[Any]) -> list[float]:
        """One score an encoded pair, in order, all in one pass."""
        ...


@dataclass(frozen=True, slots=True)
class ScoringSettings:
    """How requests are gathered."""

    gather_s: float = 0.002  # how long the first request of a quiet moment waits for others
    window: int = 8  # batches picked at once, sorted by length together, or two a stream; more wait longer
    # Pairs of one question picked in its turn: a search's step or less. With one at a time, all searches
    # would be served at the same moment, and then wait for their endpoint together.
    turn: int = 32
    waiting: int = 4096  # pairs at most between asked and scored; who asks for more waits for room
    remembered: int = 100_000  # scores kept, the longest unused dropped first; about 150 bytes each


@dataclass(slots=True)
class ScoringCounts:
    """What became of the pairs asked for: asked = scored + remembered + shared, failed and given up aside."""

    asked: int = 0  # distinct texts of each request
    remembered: int = 0  # answered from memory
    shared: int = 0  # asked for while another request's same pair was under way
    scored: int = 0
    batches: int = 0


@dataclass(eq=False, slots=True)
class _Wanted:
    """A pair under way, and how many requests wait for it."""

    key: bytes
    question: str
    text: str
    score: asyncio.Future[float]
    askers: int = 1

    @property
    def tokens(self) -> int:
        return (len(self.question) + len(self.text)) // CHARACTERS_A_TOKEN + 1


_Batch: TypeAlias = list[tuple[_Wanted, Any]]  # pairs with what the scorer made of them


class BatchingScorer:
    """Scores for many coroutines at once, in a thread for each of the scorer's streams; for one event loop.

    Use it as `async with BatchingScorer(scorer) as scoring: await scoring.scored(question, texts)`.
    Pairs are picked from the questions in turn, a few of each, so that one that asks for much does not hold
    up the others; equal pairs are scored once. An error is raised in the requests whose own pair caused it.
    """

    def __init__(self, scorer: Scorer | BatchScorer, settings: ScoringSettings | None = None) -> None:
        self.settings = settings or ScoringSettings()
        self.counts = ScoringCounts()
        self._scorer = _in_two_moves(scorer)
        self._memory = _Memory(self.settings.remembered)
        self._under_way: dict[bytes, _Wanted] = {}
        self._queues: dict[str, deque[_Wanted]] = {}  # by question, the one whose turn is next first
        self._room = asyncio.Semaphore(self.settings.waiting)
        self._ready: deque[_Batch] = deque()  # cut and not scored yet
        self._cutting = asyncio.Lock()
        self._threads = ThreadPoolExecutor(self._scorer.streams, thread_name_prefix="trimtab-batches")
        self._drivers: set[asyncio.Task[None]] = set()  # one a stream, while there is work for it
        self._in_threads: set[asyncio.Future[Any]] = set()
        self._is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def scored(self, question: str, texts: Sequence[str]) -> list[float]:
        """One score a text, in order; higher is better.

        Raises:
            RunError: the scorer is closed, or was closed meanwhile.
        """
        found: dict[str, float | _Wanted] = {}
        try:
            for text in dict.fromkeys(texts):
                found[text] = await self._found(question, text)
            await _all_scored([each for each in found.values() if isinstance(each, _Wanted)])
            return [_value(found[text]) for text in texts]
        finally:
            for each in found.values():
                self._leave(each)

    async def close(self) -> None:
        """Ends it: requests that still wait get a RunError; no task and no thread is left behind."""
        self._is_closed = True
        for driver in self._drivers:
            driver.cancel()
        await asyncio.gather(*self._drivers, return_exceptions=True)
        self._fail_all(RunError("the scorer was closed before this was scored"))
        await asyncio.gather(*self._in_threads, return_exceptions=True)
        self._threads.shutdown()

    # ------------------------------------------------------------------ asking

    async def _found(self, question: str, text: str) -> float | _Wanted:
        """The pair's score, or the pair under way."""
        key = _key(question, text)
        self.counts.asked += 1
        if (known := self._known(key)) is not None:
            return known
        await self._room.acquire()
        if (known := self._known(key)) is not None:  # it came up while this one waited for room
            self._room.release()
            return known
        if self._is_closed:
            self._room.release()
            raise RunError("the scorer is closed")
        return self._queued(_Wanted(key, question, text, asyncio.get_running_loop().create_future()))

    def _known(self, key: bytes) -> float | _Wanted | None:
        if (score := self._memory.get(key)) is not None:
            self.counts.remembered += 1
            return score
        if (wanted := self._under_way.get(key)) is not None:
            self.counts.shared += 1
            wanted.askers += 1
        return wanted

    def _queued(self, wanted: _Wanted) -> _Wanted:
        self._under_way[wanted.key] = wanted
        self._queues.setdefault(wanted.question, deque()).append(wanted)
        if len(self._drivers) < self._scorer.streams:
            driver = asyncio.create_task(self._drive())
            self._drivers.add(driver)
            driver.add_done_callback(self._driver_ended)
        return wanted

    def _leave(self, found: float | _Wanted) -> None:
        """One request no longer waits; a pair that nobody waits for is given up."""
        if not isinstance(found, _Wanted):
            return
        found.askers -= 1
        if not found.askers and not _is_over(found.score):
            found.score.cancel()
            self._ended(found)

    def _ended(self, wanted: _Wanted) -> None:
        if self._under_way.pop(wanted.key, None) is not None:
            self._room.release()

    # ------------------------------------------------------------------ scoring

    async def _drive(self) -> None:
        """Scores batch after batch until there is none, one of as many as there are streams."""
        try:
            await asyncio.sleep(self.settings.gather_s)
            while batch := await self._next_batch():
                await self._score_batch(batch)
        finally:
            self._drivers -= {asyncio.current_task()}  # at once: a pair that is queued next wants a new one

    async def _next_batch(self) -> _Batch | None:
        async with self._cutting:
            while not self._ready and (window := self._next_window()):
                await self._cut(window)
            return self._ready.popleft() if self._ready else None

    def _next_window(self) -> list[_Wanted]:
        """What is scored next: some pairs of each question in turn, up to so many tokens."""
        window: list[_Wanted] = []
        room = max(self.settings.window, 2 * self._scorer.streams) * self._scorer.tokens
        while self._queues and room > 0:
            taken = [wanted for wanted in self._next_turn() if not wanted.score.cancelled()]
            window += taken
            room -= sum(wanted.tokens for wanted in taken)
        return window

    def _next_turn(self) -> list[_Wanted]:
        question = next(iter(self._queues))
        queue = self._queues.pop(question)
        taken = [queue.popleft() for _ in range(min(self.settings.turn, len(queue)))]
        if queue:
            self._queues[question] = queue  # at the end: all others come first
        return taken

    async def _cut(self, window: list[_Wanted]) -> None:
        encoded = await self._each(self._scorer.encode, [(each.question, each.text) for each in window])
        readable: _Batch = []
        for wanted, came in zip(window, encoded, strict=True):
            if isinstance(came, BaseException):
                self._failed(wanted, came)
            else:
                readable.append((wanted, came))
        lengths = [len(items) for _, items in readable]
        for indices in of_one_length(lengths, self._scorer.tokens, self._scorer.streams):
            self._ready.append([readable[i] for i in indices])

    async def _score_batch(self, batch: _Batch) -> None:
        batch = [pair for pair in batch if not pair[0].score.cancelled()]
        values = await self._each(self._scorer.scores, [encoded for _, encoded in batch])
        self.counts.batches += bool(batch)
        for (wanted, _), value in zip(batch, values, strict=True):
            if isinstance(value, BaseException):
                self._failed(wanted, value)
            else:
                self._settled(wanted, float(value))

    def _settled(self, wanted: _Wanted, score: float) -> None:
        self.counts.scored += 1
        self._memory.put(wanted.key, score)
        if not wanted.score.done():
            wanted.score.set_result(score)
        self._ended(wanted)

    def _failed(self, wanted: _Wanted, error: BaseException) -> None:
        if not wanted.score.done():
            wanted.score.set_exception(error)
        self._ended(wanted)

    async def _each(
        self, work: Callable[[list[Item]], Iterable[Result]], items: list[Item]
    ) -> list[Result | BaseException]:
        """A result for each item, worked out together; when that fails each alone, with its own error."""
        if not items:
            return []
        loop = asyncio.get_running_loop()
        done = loop.run_in_executor(self._threads, lambda: list(work(items)))
        self._in_threads.add(done)
        await asyncio.wait([done])
        self._in_threads.discard(done)
        error = done.exception()
        if error is None:
            return [*done.result()]
        if len(items) == 1:
            return [error]
        return [result for item in items for result in await self._each(work, [item])]

    def _driver_ended(self, driver: asyncio.Task[None]) -> None:
        """An error of the driver itself, which would leave all requests waiting, is theirs."""
        if not driver.cancelled() and (error := driver.exception()) is not None:
            self._fail_all(error)

    def _fail_all(self, error: BaseException) -> None:
        self._queues.clear()
        self._ready.clear()
        for wanted in list(self._under_way.values()):
            self._failed(wanted, error)


async def _all_scored(wanted: Sequence[_Wanted]) -> None:
    """Returns when all are scored, or one has failed; never cancels what other requests wait for."""
    if wanted:
        await asyncio.wait([each.score for each in wanted], return_when=asyncio.FIRST_EXCEPTION)
        for each in wanted:
            if each.score.done():
                each.score.result()


def _is_over(future: asyncio.Future[Any]) -> bool:
    """True when it has ended; looks at its error too, which asyncio reports as lost otherwise."""
    if future.done() and not future.cancelled():
        future.exception()
    return future.done()


def _value(found: float | _Wanted) -> float:
    return found.score.result() if isinstance(found, _Wanted) else found


def _key(question: str, text: str) -> bytes:
    """A short name of the pair; its length keeps ("ab", "c") from being ("a", "bc")."""
    whole = f"{len(question)}:{question}{text}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(whole, digest_size=16).digest()


class _Memory:
    """The last so many scores, by key; what was unused longest is dropped first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._scores: OrderedDict[bytes, float] = OrderedDict()

    def get(self, key: bytes) -> float | None:
        if key not in self._scores:
            return None
        self._scores.move_to_end(key)
        return self._scores[key]

    def put(self, key: bytes, score: float) -> None:
        self._scores[key] = score
        self._scores.move_to_end(key)
        if len(self._scores) > self._most:
            self._scores.popitem(last=False)


def _in_two_moves(scorer: Scorer | BatchScorer) -> BatchScorer:
    return scorer if isinstance(scorer, BatchScorer) else _Plain(scorer)


@dataclass(frozen=True, slots=True)
class _Text:
    """A pair that its scorer tokenises itself; its length is a guess."""

    question: str
    text: str

    def __len__(self) -> int:
        return (len(self.question) + len(self.text)) // CHARACTERS_A_TOKEN + 1


@dataclass(frozen=True, slots=True)
class _Plain:
    """A scorer that takes texts only."""

    scorer: Scorer
    tokens: int = 1024
    streams: int = 1

    def encode(self, pairs: Sequence[tuple[str, str]]) -> list[_Text]:
        return [_Text(question, text) for question, text in pairs]

    def scores(self, batch: Sequence[_Text]) -> list[float]:
        return self.scorer.score_pairs([(each.question, each.text) for each in batch])
