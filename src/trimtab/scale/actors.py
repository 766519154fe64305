"""The actors: the gate, those that ask the black box, and those that work in batches.

All live as long as the run, and none is restarted. Here is what each does; how many there are, where, and
what happens when one dies, stands in `pool`.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from queue import SimpleQueue
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

from trimtab import tasks
from trimtab.drawing import answer_question, over_questions
from trimtab.energy import BatchingScorer
from trimtab.errors import LLMError, RunError, TrimtabError
from trimtab.scale.gate import Gate, Mood, News, Told
from trimtab.scale.leases import LeasedBudget, LeasedLimiter, Line
from trimtab.scale.recipes import (
    Answering,
    BatchRecipe,
    BatchWork,
    Box,
    BoxRecipe,
    Figures,
    LongWork,
    Secrets,
)
from trimtab.types import LLM, Answer, Completions, Prompt, Question, Sampling

SCORED_AT_ONCE = 16_384  # tokens that one sampler sends to be scored together
SCORERS_AWAITED_S = 60.0  # how long a sampler waits for scorers in the place of dead ones
GRACE_S = 10.0  # how long calls on their way may take when a run ends early
LOST = (RayActorError, ObjectLostError)  # the actor is gone, or its node with what it gave
STREAMS = 2  # batches that one sampler has under way at once: more would be smaller


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an actor is, and what it runs."""

    trimtab: str
    host: str
    node: str
    pid: int


def _standing() -> Standing:
    return Standing(
        version("trimtab"), os.uname().nodename, ray.get_runtime_context().get_node_id(), os.getpid()
    )


class GateActor(Gate):
    """The gate, in a process of its own on the driver's machine."""

    async def begin(self) -> Standing:
        """Where it is."""
        return _standing()

    async def figures(self) -> tuple[str | None, int]:
        """Why a call was refused, once one has been; and how many bundles it has heard."""
        return self.is_spent, self.bundles


class RemoteGate:
    """The gate, as seen from another process.

    Args:
        actor: its handle.
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def tell(self, who: str, told: Told) -> Mood:
        """Takes a bundle."""
        mood: Mood = await self._actor.tell.remote(who, told)
        return mood

    async def news(self, who: str) -> News:
        """What has been granted."""
        news: News = await self._actor.news.remote(who)
        return news


# --------------------------------------------------------------------------- asking


class Sampler:
    """Asks the black box, for many questions at once, under the cluster's limiter and budget."""

    def __init__(self) -> None:
        self._box: Box | None = None
        self._line: Line | None = None
        self._room = asyncio.Semaphore(1)
        self._scorers = Scorers()
        self._scoring: BatchingScorer | None = None
        self._is_ending = False

    async def begin(
        self, who: str, gate: Any, recipe: BoxRecipe, secrets: Secrets, in_flight: int
    ) -> Standing:
        """Makes the black boxes; returns where this is.

        Args:
            who: this actor's name at the gate.
            gate: the gate's actor.
            recipe: of the black boxes.
            secrets: for the recipe.
            in_flight: questions that are worked on at once.
        """
        self._line = Line(RemoteGate(gate), who)
        await self._line.open()
        self._box = recipe(LeasedLimiter(self._line), LeasedBudget(self._line), secrets)
        self._room = asyncio.Semaphore(in_flight)
        return _standing()

    async def scored_by(self, scorers: Sequence[Any]) -> None:
        """From now on these actors score."""
        self._scorers.replace(scorers)

    async def answers(self, answering: Answering, questions: Sequence[Question]) -> list[Answer]:
        """An answer a question, in order. Raises RefusedError where no question could be answered."""
        scorer = self._scoring = self._scoring or BatchingScorer(self._scorers)
        one = partial(
            answer_question,
            llm=self._model(None),
            task=tasks.by_name(answering.task),
            rule=answering.rule,
            how=answering.how,
            scorer=scorer,
            calibrate=answering.calibration.confidences if answering.calibration else None,
            abstain_below=answering.abstain_below,
            deadline_s=answering.deadline_s,
        )
        found: dict[str, Answer] = {}
        working = over_questions(
            questions, lambda each: self._in_room(each, one), concurrency=max(1, len(questions))
        )
        async with aclosing(working) as ended:
            async for answer in ended:
                found[answer.id] = answer
        return [found[question.id] for question in questions]

    async def completions(
        self, model: str | None, requests: Sequence[tuple[Prompt, Sampling]]
    ) -> list[Completions | LLMError]:
        """What the model says to each request, or why it does not."""
        llm = self._model(model)

        async def one(prompt: Prompt, sampling: Sampling) -> Completions | LLMError:
            try:
                return await llm.complete(prompt, sampling)
            except LLMError as error:
                return error

        return list(await asyncio.gather(*(one(*request) for request in requests)))

    async def figures(self) -> Figures:
        """What its calls come to."""
        if self._box is None:
            return Figures()
        meter = self._box.meter
        return Figures(meter.usage, meter.failed, meter.in_flight, meter.cache_hits, meter.tokens_per_s)

    async def end(self) -> int:
        """Lets calls on their way come to their end, and lets go of all; returns the bundles it has sent."""
        self._is_ending = True
        waits_until = time.monotonic() + GRACE_S
        while self._box is not None and self._box.meter.in_flight and time.monotonic() < waits_until:
            await asyncio.sleep(0.05)
        if self._scoring is not None:
            await self._scoring.close()
        if self._line is not None:
            await self._line.close()
        if self._box is not None:
            self._box.close()
        return self._line.bundles if self._line else 0

    async def _in_room(self, question: Question, one: Callable[[Question], Awaitable[Answer]]) -> Answer:
        async with self._room:
            if self._is_ending:
                raise RunError("the run has ended")
            return await one(question)

    def _model(self, name: str | None) -> LLM:
        if self._box is None:
            raise RunError("a sampling actor was asked before it had begun")
        return self._box.model(name)


class Scorers:
    """The actors that score, as a scorer of batches for `BatchingScorer`: each batch goes to the idlest."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[Any, int] = {}

    @property
    def tokens(self) -> int:
        """The tokens of one batch that it likes best."""
        return SCORED_AT_ONCE

    @property
    def streams(self) -> int:
        """How many batches may be under way at once."""
        return STREAMS

    def replace(self, handles: Sequence[Any]) -> None:
        """From now on these."""
        with self._lock:
            self._under_way = {each: self._under_way.get(each, 0) for each in handles}

    def encode(self, pairs: Sequence[tuple[str, str]]) -> list[Pair]:
        """The pairs as they are sent."""
        return [Pair(*pair) for pair in pairs]

    def scores(self, batch: Sequence[Pair]) -> list[float]:
        """One score a pair, in order. Raises RunError when nobody is there to score."""
        waits_until = time.monotonic() + SCORERS_AWAITED_S
        while time.monotonic() < waits_until:
            with self._idlest() as scorer:
                try:
                    return self._scored(scorer, batch)
                except LOST:
                    time.sleep(0.2)  # whoever keeps the pool replaces the dead one
        raise RunError(f"no scoring actor has answered for {SCORERS_AWAITED_S:g} s")

    def _scored(self, scorer: Any, batch: Sequence[Pair]) -> list[float]:
        if scorer is None:
            raise RayActorError
        found: list[float] = told_apart(scorer.work.remote([(each.question, each.text) for each in batch]))
        return found

    @contextmanager
    def _idlest(self) -> Iterator[Any]:
        with self._lock:
            scorer = min(self._under_way, key=lambda each: self._under_way[each], default=None)
            self._add(scorer, 1)
        try:
            yield scorer
        finally:
            with self._lock:
                self._add(scorer, -1)

    def _add(self, scorer: Any, count: int) -> None:
        if scorer in self._under_way:
            self._under_way[scorer] += count


@dataclass(frozen=True, slots=True)
class Pair:
    """A question and a text; the scoring actor tokenises it, and puts like lengths together itself."""

    question: str
    text: str

    def __len__(self) -> int:
        return 1


def told_apart(reference: Any) -> Any:
    """What a remote call gives; an error of ours is raised as itself, not in Ray's wrapping."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise own_error(error) from None


def own_error(error: RayTaskError) -> BaseException:
    """The error of ours inside, or Ray's own with what it wraps."""
    return error.cause if isinstance(error.cause, TrimtabError) else error


# --------------------------------------------------------------------------- work in batches


class BatchActor:
    """Works through batches one after another: scores pairs, classifies texts."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="trimtab-batches")
        self._do: BatchWork | None = None
        self._waiting = 0

    async def begin(self, recipe: BatchRecipe) -> Standing:
        """Loads what the work needs; returns where this is."""
        self._do = await asyncio.get_running_loop().run_in_executor(self._thread, recipe)
        return _standing()

    async def work(self, items: Sequence[Any]) -> list[Any]:
        """A result an item, in order."""
        if self._do is None:
            raise RunError("a batch actor was asked before it had begun")
        do = self._do
        self._waiting += len(items)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: list(do(items)))
        finally:
            self._waiting -= len(items)

    async def waiting(self) -> int:
        """Items that are worked on or wait for it."""
        return self._waiting


# --------------------------------------------------------------------------- one long piece of work


class LongActor:
    """Does one long piece of work, such as a training; what it says on the way is streamed."""

    def begin(self) -> Standing:
        """Where this is."""
        return _standing()

    def work(self, do: LongWork) -> Iterator[tuple[str, Any]]:
        """What it says, channel and text, as it is said; at the end ("result", what it gives)."""
        said: SimpleQueue[tuple[str, str] | None] = SimpleQueue()
        with ThreadPoolExecutor(1, thread_name_prefix="trimtab-long") as thread:
            done = thread.submit(do, lambda channel, text: said.put((channel, text)))
            done.add_done_callback(lambda _: said.put(None))
            while (heard := said.get()) is not None:
                yield heard
            yield "result", done.result()
