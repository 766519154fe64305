"""Drawing the answers of a round: plain from the black box, or from the adapted model (Eq. 4).

What it means that a question fails, in drawing as in judging, stands here too.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias, TypeVar

from trimtab.drawing import BeamSettings, beam_search, draw_answers, draw_request, over_questions, within
from trimtab.errors import BudgetSpentError, EndpointError, LLMError, RefusedError
from trimtab.pools import scored
from trimtab.search import resampled
from trimtab.types import LLM, Pool, Prompt, Question, Sampling, Scorer, Task

FAILED_SHARE = 0.5  # more failures than this end the round: the black box is down, not hiccuping

Asked = TypeVar("Asked")
Result = TypeVar("Result")


async def over_most(
    asked: Sequence[Asked],
    work: Callable[[Asked], Awaitable[Result]],
    instead: Callable[[Asked], Result],
    *,
    concurrency: int,
    of: int | None = None,
) -> AsyncGenerator[tuple[Result, LLMError | None], None]:
    """Results in the order of completion, each with its error if it failed; what failed gives `instead`.

    Where a limit is reached all are still asked for: what the store keeps costs nothing, and the others fail
    at once. Failures for want of money are no outage, however many: who set the limit has asked for them.

    Args:
        asked: questions, or what stands for them.
        work: asks about one; its LLMError makes it a failed one.
        instead: the result of a failed one.
        concurrency: how many are under way at once.
        of: how many the round has, where some were asked before; failures are counted against these.

    Raises:
        RefusedError: the key or the model name is at fault; asking on would be refused too.
        EndpointError: more than half failed.
    """
    failures: list[LLMError] = []

    async def one(each: Asked) -> tuple[Result, LLMError | None]:
        try:
            return await work(each), None
        except LLMError as error:
            if isinstance(error, RefusedError) and error.is_of_all:
                raise
            return instead(each), error

    async with aclosing(over_questions(asked, one, concurrency=concurrency)) as ended:
        async for result, error in ended:
            failures += [error] if error and not isinstance(error, BudgetSpentError) else []
            _refuse_outage(failures, len(asked) if of is None else of)
            yield result, error


def _refuse_outage(failures: Sequence[LLMError], asked: int) -> None:
    if len(failures) > FAILED_SHARE * asked:
        raise EndpointError(f"{len(failures)} of {asked} questions failed; the last one: {failures[-1]}")


@dataclass(frozen=True, slots=True)
class DrawSettings:
    """How a round's answers are drawn.

    `single`: complete answers. The adapted model is then sampled by importance resampling: `oversample`
    times as many answers as wanted are drawn from the black box, and `draws` of them kept with probabilities
    proportional to exp(g). `beam`: sentence-level search, whose final beams are the draws: at most
    `beam.width` of them, whatever `draws` says, which then counts for plain draws only (the warm start, the
    held-out questions).
    """

    draws: int = 8  # M of Algorithm 1; a round drawn by beam search gives `beam.width` at most
    search: Literal["single", "beam"] = "single"
    oversample: int = 2
    sampling: Sampling = field(default_factory=Sampling)
    beam: BeamSettings = field(default_factory=BeamSettings)
    concurrency: int = 20  # questions in flight
    seed: int = 0
    deadline_s: float | None = None  # of one question


Prepay: TypeAlias = Callable[[Sequence[tuple[Prompt, Sampling]]], Awaitable[object]]


class Drawer:
    """Draws answers to questions, many at once; what fails stays in as an empty pool.

    Args:
        llm: the black box.
        task: what the questions mean.
        scorer: g, for drawing from the adapted model.
        settings: how answers are drawn.
        report: told how many questions are done, of how many.
        prepay: buys the draws of many requests beforehand, so that the black box then finds them (by batch);
            steps of a search are not bought so.
    """

    def __init__(
        self,
        llm: LLM,
        task: Task,
        scorer: Scorer | None,
        settings: DrawSettings,
        report: Callable[[int, int], None] = lambda done, total: None,
        prepay: Prepay | None = None,
    ) -> None:
        self.llm, self.task, self.scorer, self.settings, self.report = llm, task, scorer, settings, report
        self.spent: BudgetSpentError | None = None
        self.prepay = prepay

    def draw(self, questions: Sequence[Question], *, adapted: bool) -> list[Pool]:
        """One pool a question, in order; from the adapted model when `adapted`, else from the black box.

        Raises:
            RefusedError: the key or the model name is at fault; asking on would be refused too.
            EndpointError: more than half of the questions failed.
        """
        if adapted and self.scorer is None:
            raise ValueError("drawing from the adapted model needs a scorer")
        if not adapted or self.scorer is None or self.settings.search == "beam":
            return asyncio.run(self._all(questions, self.settings.draws, adapted))
        pools = asyncio.run(self._all(questions, self.settings.draws * self.settings.oversample, False))
        return [self._resampled(pool) for pool in scored(pools, self.scorer)]

    async def _all(self, questions: Sequence[Question], draws: int, search: bool) -> list[Pool]:
        pools: dict[str, Pool] = {}
        if self.prepay is not None and not search:
            sampling = replace(self.settings.sampling, seed=self.settings.seed)
            await self._prepaid([draw_request(each, self.task, sampling, draws) for each in questions])
        asking = over_most(
            questions,
            lambda question: within(self.settings.deadline_s, self._pool(question, draws, search)),
            lambda question: Pool(question, ()),
            concurrency=self.settings.concurrency,
        )
        async with aclosing(asking) as ended:
            async for pool, error in ended:
                pools[pool.question.id] = pool
                self.spent = error if isinstance(error, BudgetSpentError) else self.spent
                self.report(len(pools), len(questions))
        return [pools[question.id] for question in questions]

    async def _prepaid(self, requests: Sequence[tuple[Prompt, Sampling]]) -> None:
        assert self.prepay is not None
        try:
            await self.prepay(requests)
        except BudgetSpentError as error:  # what was bought by then is found when it is asked for
            self.spent = error

    async def _pool(self, question: Question, draws: int, search: bool) -> Pool:
        seed = self.settings.seed
        if search and self.scorer is not None:
            beam = replace(self.settings.beam, seed=seed)
            return await beam_search(question, self.llm, self.task, self.scorer, beam)
        sampling = replace(self.settings.sampling, seed=seed)
        return await draw_answers(question, self.llm, self.task, sampling, draws)

    def _resampled(self, pool: Pool) -> Pool:
        scores = [each.score or 0.0 for each in pool.candidates]
        kept = resampled(scores, self.settings.draws, seed=_own_seed(self.settings.seed, pool.question.id))
        return replace(pool, candidates=tuple(pool.candidates[index] for index in kept))


def round_seed(base: int, stage: Literal["draw", "draw held-out"], index: int) -> int:
    """The seed of one stage of a round: another for each round's draws, the same for all held-out ones."""
    return base * 1_000_003 + (index if stage == "draw" else 999_983)


def _own_seed(seed: int, question_id: str) -> int:
    """A seed of the question's own, the same in every process."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{question_id}".encode()).digest()[:8], "big")
