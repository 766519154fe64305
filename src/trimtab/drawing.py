"""The driver: draws answers from a black box, whole or step by step, and decides.

One coroutine a question; every request of one depth is in flight at once, and `over_questions` runs many
questions side by side, none of which waits for another. Scoring is done off the event loop, one batch at a
time, or by a scorer that all questions share. The search itself is a value
in `search`, the rules are in `stopping`, retries are the black box's own (`llm`).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

from trimtab.errors import EndpointError, LLMError, RefusedError
from trimtab.llm.patience import patience
from trimtab.pools import Calibrate
from trimtab.search import (
    Draft,
    Search,
    extended,
    final,
    is_done,
    opened,
    pruned,
    samples_each,
    scored,
    spared,
    to_extend,
    unscored,
)
from trimtab.sequential import certainty
from trimtab.stopping import DecisionRule, decide
from trimtab.types import (
    LLM,
    Answer,
    AnswerStatus,
    Candidate,
    Completion,
    Completions,
    Pool,
    Prompt,
    Question,
    Sampling,
    Scorer,
    Task,
    Usage,
)

Asked = TypeVar("Asked")
Result = TypeVar("Result")


@runtime_checkable
class SharedScorer(Protocol):
    """A scorer of one event loop that gathers what many questions ask, as `energy.BatchingScorer` does."""

    async def scored(self, question: str, texts: Sequence[str]) -> list[float]:
        """One score a text, in order; higher is better."""
        ...


AnyScorer: TypeAlias = Scorer | SharedScorer


@dataclass(frozen=True, slots=True)
class BeamSettings:
    """How to search: the paper's k, n and L, and how one step is sampled."""

    width: int = 3  # k, as in the paper
    samples: int = 3  # n; the released configs take 10, at three times the price
    max_steps: int = 12  # L: 15 for GSM8K, 10 for StrategyQA, 8 for ScienceQA in the released configs
    max_tokens: int = 80  # a step, as in the released configs
    temperature: float | None = 1.0  # as in the paper; None leaves it out
    seed: int | None = 0
    stop_when_sure: bool = False  # end once the finished beams settle the decision


# --------------------------------------------------------------------------- whole answers


async def draw_answers(
    question: Question, llm: LLM, task: Task, sampling: Sampling, n: int | None = None
) -> Pool:
    """`n` complete answers (`sampling.n` if left out), read and judged by the task, in the order drawn.

    Raises:
        LLMError: the black box failed.
    """
    reply = await llm.complete(*draw_request(question, task, sampling, n))
    candidates = [_candidate(question, completion.text, task) for completion in reply.completions]
    return Pool(question, tuple(candidates), reply.usage)


@dataclass(frozen=True, slots=True)
class Waves:
    """A budget of complete answers, drawn wave by wave until the decision is certain (`sequential`)."""

    sampling: Sampling  # n: the whole budget
    wave: int = 2  # drawn at once: 1 spares most and waits longest

    def next(self, drawn: int) -> Sampling:
        """How the wave after so many draws is drawn."""
        return replace(self.sampling, n=min(self.wave, self.sampling.n - drawn), start=drawn)


async def draw_until_certain(
    question: Question,
    llm: LLM,
    task: Task,
    rule: DecisionRule,
    waves: Waves,
    scorer: AnyScorer | None = None,
    calibrate: Calibrate | None = None,
) -> Pool:
    """Complete answers, scored, until the rule's leader reaches `rule.certainty` or the budget is drawn.

    Draws are numbered as `draw_answers` numbers them: the pool is the first part of the one it would draw.

    Raises:
        LLMError: the black box failed; what it gave before is kept and not paid for again.
    """
    pool = Pool(question, (), Usage())
    while (drawn := len(pool.candidates)) < waves.sampling.n:
        wave = await draw_answers(question, llm, task, waves.next(drawn))
        if not wave.candidates:
            break
        pool = replace(pool, candidates=(*pool.candidates, *wave.candidates), usage=pool.usage + wave.usage)
        if scorer is not None:
            pool = await with_scores(pool, scorer, calibrate)
        left = waves.sampling.n - len(pool.candidates)
        if rule.certainty < 1 and certainty(pool.candidates, rule, left) >= rule.certainty:
            break
    return pool


def draw_request(
    question: Question, task: Task, sampling: Sampling, n: int | None = None
) -> tuple[Prompt, Sampling]:
    """What `draw_answers` asks the black box."""
    asked = replace(sampling, n=sampling.n if n is None else n, seed=own_seed(sampling.seed, question.id))
    return task.prompt(question), asked


def _candidate(question: Question, text: str, task: Task, score: float | None = None) -> Candidate:
    return Candidate(text, task.final_answer(question, text), score, verdict=task.verdict(question, text))


def own_seed(base: int | None, *parts: str) -> int | None:
    """A seed of its own for each request, the same in every run; None stays None."""
    if base is None:
        return None
    digest = hashlib.sha256("\x1f".join([str(base), *parts]).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:4], "big") >> 1  # 31 bits: what every endpoint takes


# --------------------------------------------------------------------------- step by step


async def beam_search(
    question: Question, llm: LLM, task: Task, scorer: AnyScorer, settings: BeamSettings = BeamSettings()
) -> Pool:
    """The final beams of a sentence-level search as scored candidates: finished ones first, best first.

    Raises:
        LLMError: the black box failed; requests still in flight are cancelled.
    """
    metered = Metered(llm)
    search = await _searched(question, metered, task, scorer, settings, lambda _: False)
    return Pool(question, _beams(question, final(search), task), metered.usage)


async def beam_search_until_certain(
    question: Question,
    llm: LLM,
    task: Task,
    rule: DecisionRule,
    scorer: AnyScorer,
    settings: BeamSettings,
    calibrate: Calibrate | None = None,
) -> tuple[Pool, int]:
    """`beam_search`, ended once the finished beams settle the decision, and the draws so spared at least.

    As in `draw_until_certain`, the beams that are finished count as drawn; whatever happens, no more than
    `width` others can still be chosen from, so that many count as left. Those spared are of one more step.
    """

    def is_certain(search: Search) -> bool:
        over = [draft for draft in search.kept if draft.is_finished]
        finished = with_confidences(_beams(question, over, task), calibrate)
        return rule.certainty < 1 and certainty(finished, rule, search.width) >= rule.certainty

    metered = Metered(llm)
    search = await _searched(question, metered, task, scorer, settings, is_certain)
    return Pool(question, _beams(question, final(search), task), metered.usage), spared(search)


async def _searched(
    question: Question,
    llm: LLM,
    task: Task,
    scorer: AnyScorer,
    settings: BeamSettings,
    is_certain: Callable[[Search], bool],
) -> Search:
    search = opened(settings.width, settings.samples, settings.max_steps)
    while not is_done(search) and not is_certain(search):
        continuations = await _continuations(question, llm, task, search, settings)
        search = extended(search, continuations, task.is_finished)
        scores = await scored_off_loop(scorer, question, unscored(search))
        search = pruned(scored(search, scores))
    return search


def _beams(question: Question, drafts: Iterable[Draft], task: Task) -> tuple[Candidate, ...]:
    return tuple(_candidate(question, draft.text, task, draft.score) for draft in drafts)


async def _continuations(
    question: Question, llm: LLM, task: Task, search: Search, settings: BeamSettings
) -> list[list[str]]:
    """The next steps for each draft to extend; all requests are in flight at once."""

    async def steps_after(chain: str) -> list[str]:
        sampling = Sampling(
            n=samples_each(search),
            temperature=settings.temperature,
            max_tokens=settings.max_tokens,
            stop=task.step_stops,
            seed=own_seed(settings.seed, question.id, str(search.depth), chain),
        )
        reply = await llm.complete(task.prompt(question, chain), sampling)
        return [next_step(chain, completion, task) for completion in reply.completions]

    return await _all_or_none([steps_after(draft.text) for draft in to_extend(search)])


async def _all_or_none(calls: Sequence[Coroutine[Any, Any, Result]]) -> list[Result]:
    """All results in order; when one call fails the others are cancelled and its error is raised as it is."""
    running = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*running)
    finally:
        await _ended(running)


async def _ended(running: Iterable[asyncio.Future[Any]]) -> None:
    """Returns when all have ended; those still running are cancelled."""
    futures = list(running)
    for future in futures:
        future.cancel()
    await asyncio.gather(*futures, return_exceptions=True)


def next_step(chain: str, completion: Completion, task: Task) -> str:
    """The first step of a continuation, such that chain + step is well-formed; empty when nothing is said.

    The stop sequence that ended the step is put back, so that the next step starts where a written answer's
    would; not after the final answer, and not after a step cut off by its length. A box that does not heed
    stop sequences says more than one step: only the first counts, as the others were not scored on their way.
    """
    text = _without_leading(completion.text, task.step_stops)
    if not text.strip():
        return ""
    first, *more = task.steps(text)
    body = _without_trailing(first, task.step_stops)
    if task.is_finished(chain + body):
        return body
    was_stopped = not more and body == first and completion.finish == "stop"
    return first + task.step_stops[0] if was_stopped and task.step_stops else first


def _without_leading(text: str, stops: Sequence[str]) -> str:
    while stop := next((stop for stop in stops if stop and text.startswith(stop)), ""):
        text = text.removeprefix(stop)
    return text


def _without_trailing(text: str, stops: Sequence[str]) -> str:
    while stop := next((stop for stop in stops if stop and text.endswith(stop)), ""):
        text = text.removesuffix(stop)
    return text


# --------------------------------------------------------------------------- scoring

# One thread for all scoring: a model is not made to be entered twice, and the loop stays with the network.
_SCORING = ThreadPoolExecutor(max_workers=1, thread_name_prefix="trimtab-scoring")


async def scored_off_loop(scorer: AnyScorer, question: Question, texts: Sequence[str]) -> list[float]:
    """One score a text, in order, worked out in the scoring thread or by the shared scorer's own.

    Equal texts are scored once.
    """
    unique = list(dict.fromkeys(texts))
    if not unique:
        return []
    if isinstance(scorer, SharedScorer):
        scores = await scorer.scored(question.with_choices, unique)
    else:
        loop = asyncio.get_running_loop()
        scores = await loop.run_in_executor(_SCORING, scorer.score, question.with_choices, unique)
    known = dict(zip(unique, scores, strict=True))
    return [known[text] for text in texts]


async def with_scores(pool: Pool, scorer: AnyScorer, calibrate: Calibrate | None = None) -> Pool:
    """The pool with every candidate's score, and its confidence if a calibration is given.

    Candidates that carry a score keep it.
    """
    texts = [candidate.text for candidate in pool.candidates if candidate.score is None]
    known = dict(zip(texts, await scored_off_loop(scorer, pool.question, texts), strict=True))
    candidates = [
        replace(each, score=known[each.text]) if each.score is None else each for each in pool.candidates
    ]
    return replace(pool, candidates=with_confidences(candidates, calibrate))


def with_confidences(candidates: Sequence[Candidate], calibrate: Calibrate | None) -> tuple[Candidate, ...]:
    """Scored candidates with the confidences that their scores stand for; None without a calibration."""
    scores = [each.score for each in candidates if each.score is not None]
    confidences = [float(each) for each in calibrate(scores)] if calibrate and scores else None
    return tuple(
        replace(each, confidence=None if confidences is None else confidences[at])
        for at, each in enumerate(candidates)
    )


# --------------------------------------------------------------------------- one answer


class Metered:
    """A black box that adds up what its calls cost, so that a failed question's cost is known too."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        self.usage = Usage()

    @property
    def name(self) -> str:
        """The name of the model inside."""
        return self._llm.name

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """What the model inside answers. Raises what it raises."""
        reply = await self._llm.complete(prompt, sampling)
        self.usage += reply.usage
        return reply


async def answer_question(
    question: Question,
    llm: LLM,
    task: Task,
    rule: DecisionRule,
    how: Sampling | Waves | BeamSettings,
    *,
    scorer: AnyScorer | None = None,
    calibrate: Calibrate | None = None,
    abstain_below: float = 0.0,
    deadline_s: float | None = None,
) -> Answer:
    """One question's answer, whatever happens to the black box on the way.

    Args:
        question: what is asked.
        llm: the black box.
        task: what the question means.
        rule: how candidates become one answer.
        how: `sampling.n` complete answers, as many of them as it takes, or a search step by step.
        scorer: g, its own or shared with other questions; a search needs one, and so does every rule but
            majority.
        calibrate: scores to P(correct).
        abstain_below: abstain when the decision's confidence is below this.
        deadline_s: the longest time for its draws (see `within`).

    Raises:
        ValueError: a search without a scorer.
        RefusedError: the key or the model name is at fault, so that no question could be answered.
    """
    metered = Metered(llm)
    try:
        found = await considered(
            question,
            metered,
            task,
            rule,
            how,
            scorer=scorer,
            calibrate=calibrate,
            abstain_below=abstain_below,
            deadline_s=deadline_s,
        )
        return found.answer
    except LLMError as error:
        if isinstance(error, RefusedError) and error.is_of_all:
            raise
        return _failed(question, str(error), metered.usage)


@dataclass(frozen=True, slots=True)
class Considered:
    """An answer, and the candidates that it was chosen from."""

    answer: Answer
    pool: Pool


async def considered(
    question: Question,
    llm: LLM,
    task: Task,
    rule: DecisionRule,
    how: Sampling | Waves | BeamSettings,
    *,
    scorer: AnyScorer | None = None,
    calibrate: Calibrate | None = None,
    abstain_below: float = 0.0,
    deadline_s: float | None = None,
) -> Considered:
    """What `answer_question` answers, with its candidates, where the black box does answer.

    Raises:
        LLMError: it does not.
        ValueError: a search without a scorer.
    """
    drawing = _drawn(question, llm, task, rule, how, scorer, calibrate)
    pool, not_drawn = await within(deadline_s, drawing)
    if scorer is not None:
        pool = await with_scores(pool, scorer, calibrate)
    answer = decided(pool, rule, abstain_below)
    return Considered(replace(answer, spared=not_drawn), pool)


async def within(deadline_s: float | None, work: Awaitable[Result]) -> Result:
    """What the work gives; at the deadline it is cancelled.

    A call that is on its way then is paid for: it is waited for and kept, and not tried again.

    Raises:
        EndpointError: it was not done by then.
    """
    if deadline_s is None:
        return await work
    try:
        with patience(deadline_s):
            async with asyncio.timeout(deadline_s):
                return await work
    except TimeoutError:
        raise EndpointError(f"not answered within the question's deadline of {deadline_s:g} s") from None


async def _drawn(
    question: Question,
    llm: LLM,
    task: Task,
    rule: DecisionRule,
    how: Sampling | Waves | BeamSettings,
    scorer: AnyScorer | None,
    calibrate: Calibrate | None,
) -> tuple[Pool, int]:
    """The candidates, and how many draws were spared by stopping early."""
    if isinstance(how, Sampling):
        return await draw_answers(question, llm, task, how), 0
    if isinstance(how, Waves):
        pool = await draw_until_certain(question, llm, task, rule, how, scorer, calibrate)
        return pool, how.sampling.n - len(pool.candidates)
    if scorer is None:
        raise ValueError("a search step by step needs a scorer")
    if how.stop_when_sure:
        return await beam_search_until_certain(question, llm, task, rule, scorer, how, calibrate)
    return await beam_search(question, llm, task, scorer, how), 0


def decided(pool: Pool, rule: DecisionRule, abstain_below: float = 0.0) -> Answer:
    """The answer that a pool's candidates make under the rule.

    A decision whose confidence is known and below `abstain_below` abstains: its text still shows what was
    considered, its answer is None.
    """
    if not pool.candidates:
        return _failed(pool.question, "the black box gave no answer", pool.usage)
    decision = decide(pool.candidates, rule)
    status = _status(decision.answer, decision.confidence, abstain_below)
    return Answer(
        id=pool.question.id,
        text=decision.candidate.text,
        answer=decision.answer if status is AnswerStatus.ANSWERED else None,
        score=decision.candidate.score,
        confidence=decision.confidence,
        candidates=len(pool.candidates),
        usage=pool.usage,
        status=status,
    )


def _status(answer: str | None, confidence: float | None, abstain_below: float) -> AnswerStatus:
    if answer is None:
        return AnswerStatus.UNREADABLE
    is_unsure = confidence is not None and confidence < abstain_below
    return AnswerStatus.ABSTAINED if is_unsure else AnswerStatus.ANSWERED


def _failed(question: Question, error: str, usage: Usage) -> Answer:
    line = " ".join(error.split())
    return Answer(question.id, "", None, None, None, 0, usage, AnswerStatus.FAILED, line)


# --------------------------------------------------------------------------- many questions


async def over_questions(
    questions: Iterable[Asked], work: Callable[[Asked], Awaitable[Result]], *, concurrency: int = 20
) -> AsyncGenerator[Result, None]:
    """Results in the order of completion, at most `concurrency` of them being worked on.

    Questions are taken from the iterable as there is room. When work raises, or the caller stops early (with
    `contextlib.aclosing`, or cancelled), what still runs is cancelled and has ended before this returns.

    Raises:
        ValueError: concurrency below 1.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency is 1 or more; {concurrency} came")
    waiting = iter(questions)
    running: dict[asyncio.Future[Result], None] = {}  # in the order started
    try:
        while _started(running, work, islice(waiting, concurrency - len(running))):
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for future in [each for each in running if each in done]:
                yield future.result()
                del running[future]
    finally:
        await _ended(running)


def _started(
    running: dict[asyncio.Future[Result], None],
    work: Callable[[Asked], Awaitable[Result]],
    questions: Iterable[Asked],
) -> bool:
    """True when anything runs after these were started too."""
    for question in questions:
        running[asyncio.ensure_future(work(question))] = None
    return bool(running)
