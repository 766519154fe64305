"""Drawing completions: many rows decoded at once, each with its own chance.

A row's draws depend on its request (prompt, seed, temperature, top_p) and its place among the request's n,
not on what is decoded beside it: its random numbers come from its own generator, and rows are decoded in
whole blocks, so that rounding does not change with the company either. Not here: the mathematics (`model`),
the wire (`server`).
"""

from __future__ import annotations

import secrets
import threading
import zlib
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from trimtab.llm.embedded.model import BLOCK, Cache, Floats, Ints, Model
from trimtab.types import Completion

MAX_ROWS = 128  # rows decoded at once, and the largest n of a request


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of the model."""

    prompt: str
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 128
    stop: tuple[str, ...] = ()
    seed: int | None = None  # None = drawn anew


@dataclass(frozen=True, slots=True)
class Drawn:
    """A request's completions and what they took."""

    completions: tuple[Completion, ...]
    prompt_tokens: int
    completion_tokens: int


@dataclass(slots=True, eq=False)
class _Job:
    """A request under way."""

    request: Request
    prompt: Ints
    found: list[Completion | None]
    done: Future[Drawn] = field(default_factory=Future)
    spent: int = 0

    def finish(self, row: int, completion: Completion) -> None:
        self.found[row] = completion
        completions = tuple(found for found in self.found if found is not None)
        if len(completions) == len(self.found):
            self.done.set_result(Drawn(completions, len(self.prompt), self.spent))


@dataclass(slots=True, eq=False)
class _Row:
    """One completion being drawn."""

    job: _Job
    index: int
    chances: npt.NDArray[np.float64]
    limit: int
    length: int  # tokens in the cache
    token: int = -1
    drawn: int = 0
    text: str = ""

    def take(self, token: int, model: Model) -> Completion | None:
        """Add a token; the completion when that ends the row."""
        self.token, self.drawn = token, self.drawn + 1
        self.job.spent += 1
        if token == model.vocabulary.eos:
            return Completion(self.text, "stop")
        self.text += model.vocabulary.pieces[token]
        cut = _stopped(self.text, self.job.request.stop)
        if cut is not None:
            return Completion(cut, "stop")
        return Completion(self.text, "length") if self.drawn >= self.limit else None


class Decoder:
    """Decodes the requests it was given, all rows together; not thread-safe."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._cache = Cache(model.config, MAX_ROWS)
        self._rows: list[_Row] = []
        self._waiting: deque[_Job] = deque()

    def add(self, job: _Job) -> None:
        """Take up a request; it joins as soon as all its rows fit."""
        self._waiting.append(job)

    @property
    def is_idle(self) -> bool:
        """True when nothing is left to decode."""
        return not self._rows and not self._waiting

    def step(self) -> None:
        """One further token for every row, after those who wait have joined where they fit."""
        while self._waiting and len(self._rows) + self._waiting[0].request.n <= MAX_ROWS:
            self._join(self._waiting.popleft())
        if self._rows:
            self._advance()

    def _join(self, job: _Job) -> None:
        logits, keys, values = self.model.read(job.prompt)
        start, request = len(self._rows), job.request
        limit = min(request.max_tokens, self.model.config.context - len(job.prompt))
        chances = _chances(request, limit)
        self._cache.fill(start, request.n, keys, values)
        self._rows += [_Row(job, index, chances[index], limit, len(job.prompt)) for index in range(request.n)]
        self._take(start, np.repeat(logits[-1:], request.n, axis=0))

    def _advance(self) -> None:
        padding = -len(self._rows) % BLOCK
        tokens = np.array([row.token for row in self._rows] + [0] * padding)
        positions = np.array([row.length for row in self._rows] + [0] * padding)
        logits = self.model.step(tokens, positions, self._cache)
        for row in self._rows:
            row.length += 1
        self._take(0, logits[: len(self._rows)])

    def _take(self, start: int, logits: Floats) -> None:
        """Draw a token for each row from `start` on; rows that end make room."""
        rows = self._rows[start:]
        logits[:, [self.model.vocabulary.bos, self.model.vocabulary.unk]] = -np.inf
        ended: list[int] = []
        for place, (row, token) in enumerate(zip(rows, _drawn_tokens(rows, logits), strict=True), start):
            completion = row.take(token, self.model)
            if completion is not None:
                row.job.finish(row.index, completion)
                ended.append(place)
        for place in reversed(ended):
            self._leave(place)

    def _leave(self, place: int) -> None:
        last = self._rows.pop()
        if place < len(self._rows):
            self._rows[place] = last
            self._cache.move(len(self._rows), place, last.length)


class Engine:
    """A thread that decodes whatever is submitted, from any thread, in one batch."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._submitted: deque[_Job] = deque()
        self._wake = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="embedded-black-box", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> Future[Drawn]:
        """The request's completions, later."""
        job = job_of(self.model, request)
        with self._wake:
            self._submitted.append(job)
            self._wake.notify()
        return job.done

    def close(self) -> None:
        """Finish what was submitted, then end the thread."""
        with self._wake:
            self._is_closed = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        decoder = Decoder(self.model)
        while self._admit(decoder):
            decoder.step()

    def _admit(self, decoder: Decoder) -> bool:
        """Hand over what was submitted, waiting when there is nothing to do; False when it is over."""
        with self._wake:
            while not self._submitted and decoder.is_idle and not self._is_closed:
                self._wake.wait()
            while self._submitted:
                decoder.add(self._submitted.popleft())
            return not (self._is_closed and decoder.is_idle)


def complete(model: Model, requests: Iterable[Request]) -> list[Drawn]:
    """The completions of these requests, decoded together in this thread.

    Raises:
        ValueError: A prompt leaves no room in the context, or n is out of range.
    """
    decoder = Decoder(model)
    jobs = [job_of(model, request) for request in requests]
    for job in jobs:
        decoder.add(job)
    while not decoder.is_idle:
        decoder.step()
    return [job.done.result() for job in jobs]


def job_of(model: Model, request: Request) -> _Job:
    """A request with its prompt read.

    Raises:
        ValueError: The prompt leaves no room in the context, or n is out of range.
    """
    prompt = model.tokens(request.prompt)
    if len(prompt) >= model.config.context:
        raise ValueError(
            f"the prompt has {len(prompt)} tokens; the context holds {model.config.context} with the answer"
        )
    if not 1 <= request.n <= MAX_ROWS:
        raise ValueError(f"n is {request.n}; it can be 1 to {MAX_ROWS}")
    job = _Job(request, prompt, [None] * request.n)
    job.done.set_running_or_notify_cancel()  # a caller that goes away cannot cancel it under the decoder
    return job


def _chances(request: Request, limit: int) -> npt.NDArray[np.float64]:
    """Uniform numbers (n, limit): for one seed, the first rows are the same whatever n is."""
    seed = secrets.randbits(63) if request.seed is None else request.seed
    asked = zlib.crc32(request.prompt.encode())
    return np.stack(
        [
            np.random.default_rng([abs(seed), int(seed < 0), asked, row]).random(limit)
            for row in range(request.n)
        ]
    )


def _drawn_tokens(rows: Sequence[_Row], logits: Floats) -> list[int]:
    """A token for each row; at temperature 0 the likeliest, of equals the first."""
    asked = [row.job.request for row in rows]
    chances = np.array([row.chances[row.drawn] for row in rows])
    temperatures = np.array([request.temperature for request in asked])
    divisors = np.where(temperatures > 0, temperatures, 1.0)[:, None]
    scaled = (logits - logits.max(axis=-1, keepdims=True)) / divisors
    shares = np.exp(scaled)
    if any(request.top_p < 1 for request in asked):
        shares = _nucleus(shares, np.array([request.top_p for request in asked]))
    summed = shares.cumsum(axis=-1)
    drawn = (summed <= chances[:, None] * summed[:, -1:]).sum(axis=-1)
    greedy = logits.argmax(axis=-1)
    tokens: list[int] = np.where(temperatures > 0, drawn, greedy).tolist()
    return tokens


def _nucleus(shares: npt.NDArray[np.float64], top_p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Shares with the tail beyond top_p set to nothing; the likeliest token always stays."""
    order = np.argsort(-shares, axis=-1, kind="stable")
    ranked = np.take_along_axis(shares, order, axis=-1)
    before = ranked.cumsum(axis=-1) - ranked
    ranked[before >= top_p[:, None] * ranked.sum(axis=-1, keepdims=True)] = 0
    kept = np.empty_like(shares)
    np.put_along_axis(kept, order, ranked, axis=-1)
    return kept


def _stopped(text: str, stops: Sequence[str]) -> str | None:
    """The text before the earliest stop, or None when none is in it."""
    places = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    return text[: min(places)] if places else None
