"""The driver's side of the sampling actors: a black box that is asked there, and questions answered there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import asdict

from trimtab.drawing import over_questions
from trimtab.errors import LLMError
from trimtab.scale.pool import Samplers
from trimtab.scale.recipes import Answering
from trimtab.scale.shards import Shard, Shards
from trimtab.types import Answer, AnswerStatus, Completions, Prompt, Question, Sampling, Usage

GATHER_S = 0.002  # how long requests of one moment are gathered into one call
AT_ONCE = 32  # requests of one call
SHARDS, LEAST_ROWS, MOST_ROWS = 200, 16, 1000  # of a run; rows of one

Request = tuple[Prompt, Sampling]


class RemoteLLM:
    """A language model that the sampling actors ask: every draw is in the store before it comes back here.

    Args:
        samplers: who asks.
        name: of the model.
    """

    def __init__(self, samplers: Samplers, name: str) -> None:
        self._samplers, self._name = samplers, name
        self._gathered: list[tuple[Request, asyncio.Future[Completions]]] = []
        self._under_way: set[asyncio.Task[None]] = set()

    @property
    def name(self) -> str:
        """The name of the model."""
        return self._name

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """`sampling.n` completions of the prompt.

        Raises:
            LLMError: what the model raised, where it was asked.
            RunError: the actors that asked have died, one after the other.
        """
        loop = asyncio.get_running_loop()
        if self._gathered and self._gathered[0][1].get_loop() is not loop:
            self._gathered.clear()  # of an event loop that is over
        if not self._gathered:
            loop.call_later(GATHER_S, self._send)
        given: asyncio.Future[Completions] = loop.create_future()
        self._gathered.append(((prompt, sampling), given))
        return await given

    def _send(self) -> None:
        gathered, self._gathered = self._gathered, []
        for start in range(0, len(gathered), AT_ONCE):
            task = asyncio.ensure_future(self._asked(gathered[start : start + AT_ONCE]))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _asked(self, some: Sequence[tuple[Request, asyncio.Future[Completions]]]) -> None:
        try:
            replies = await self._samplers.call("completions", self._name, [request for request, _ in some])
        except Exception as error:  # noqa: BLE001  (whatever it is, it is the askers')
            replies = [error] * len(some)
        for (_, given), reply in zip(some, replies, strict=True):
            if given.done():
                continue
            if isinstance(reply, Exception):
                given.set_exception(reply)
            else:
                given.set_result(reply)


# --------------------------------------------------------------------------- whole questions


def shard_size(rows: int) -> int:
    """Rows of a shard: some two hundred shards a run, neither tiny nor so large that losing one hurts."""
    return min(max(rows // SHARDS, LEAST_ROWS), MOST_ROWS)


async def answered(
    samplers: Samplers,
    shards: Shards,
    questions: Sequence[Question],
    answering: Answering,
    report: Callable[[int, int], None],
) -> None:
    """Every question's answer in the shards; those that are there already are not asked again.

    Raises:
        RefusedError: the key or the model name is at fault.
        RunError: the actors that asked have died, one after the other, or the disk refuses a shard.
    """
    missing = shards.missing()
    done = len(questions) - sum(shard.stop - shard.start for shard in missing)

    async def one(shard: Shard) -> tuple[Shard, list[Answer]]:
        some = list(questions[shard.start : shard.stop])
        return shard, await samplers.call("answers", answering, some)

    ahead = samplers.crew.size * (samplers.crew.in_flight // shards.size + 2)
    async with aclosing(over_questions(missing, one, concurrency=ahead)) as ended:
        async for shard, answers in ended:
            is_final = all(answer.status is not AnswerStatus.FAILED for answer in answers)
            shards.put(shard, [row_of(answer) for answer in answers], is_final=is_final)
            done += len(answers)
            report(done, len(questions))


def row_of(answer: Answer) -> str:
    """An answer as a line of JSON."""
    return json.dumps(asdict(answer), ensure_ascii=False)


def answer_of(row: str) -> Answer:
    """The answer in a line of JSON."""
    known = json.loads(row)
    return Answer(**{**known, "usage": Usage(**known["usage"]), "status": AnswerStatus(known["status"])})


__all__ = ["LLMError", "RemoteLLM", "answer_of", "answered", "row_of", "shard_size"]
