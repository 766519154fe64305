"""Laws of the driver: drawing whole answers, searching step by step, deciding, and many questions at once."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass, field

import pytest

from trimtab.drawing import (
    BeamSettings,
    answer_question,
    beam_search,
    decided,
    draw_answers,
    next_step,
    over_questions,
    with_scores,
)
from trimtab.errors import EndpointError
from trimtab.llm.scripted import ScriptedLLM
from trimtab.stopping import DecisionCalibration, DecisionRule
from trimtab.types import (
    AnswerStatus,
    Candidate,
    Completion,
    Completions,
    Message,
    Pool,
    Prompt,
    Question,
    Sampling,
    Usage,
    Verdict,
)

MAJORITY = DecisionRule("majority")
ARGMAX = DecisionRule("argmax")
QUESTION = Question("q1", "How many?", answer="7", choices=("six", "seven"))


class Lines:
    """A task of lines; the last one says `answer N`."""

    name = "lines"
    is_comparable = True
    step_stops = ("\n",)

    def prompt(self, question: Question, chain: str = "") -> Prompt:
        return Prompt((Message("user", f"{question.text}|{chain}"),), question.id)

    def steps(self, text: str) -> tuple[str, ...]:
        return tuple(text.splitlines(keepends=True))

    def is_finished(self, chain: str) -> bool:
        return chain.split("\n")[-1].startswith("answer ")

    def final_answer(self, question: Question, text: str) -> str | None:
        said = [line.removeprefix("answer ") for line in text.split("\n") if line.startswith("answer ")]
        return said[-1] if said else None

    def verdict(self, question: Question, text: str) -> Verdict:
        answer = self.final_answer(question, text)
        if answer is None:
            return Verdict.UNREADABLE
        return Verdict.RIGHT if answer == question.answer else Verdict.WRONG


@dataclass
class LikesSevens:
    """g: how many sevens the text holds. Remembers what it scored, and refuses to be entered twice."""

    texts: list[str] = field(default_factory=list)
    questions: set[str] = field(default_factory=set)
    threads: set[int] = field(default_factory=set)
    inside: threading.Lock = field(default_factory=threading.Lock)

    def score(self, question: str, texts: list[str]) -> list[float]:
        assert self.inside.acquire(blocking=False), "two scorings at once"
        self.questions.add(question)
        self.texts.extend(texts)
        self.threads.add(threading.get_ident())
        self.inside.release()
        return [float(text.count("7")) for text in texts]

    def score_pairs(self, pairs: list[tuple[str, str]]) -> list[float]:
        return [score for question, text in pairs for score in self.score(question, [text])]


def lines_box(prompt: Prompt, draw: int) -> str:
    """Says one of four lines, by chance of the chain and the draw's number."""
    chain = prompt.messages[0].content.split("|", 1)[1]
    chance = hashlib.sha256(f"{chain}:{draw}".encode()).digest()[0]
    return ["take 7", "take 6", "answer 7", "answer 6"][chance % 4] + "\nmore that was not asked for"


def at_calls(numbers: list[int]) -> dict[int, EndpointError]:
    return {number: EndpointError("the endpoint\nis down", retryable=True) for number in numbers}


# --------------------------------------------------------------------------- whole answers


async def test_answers_drawn_in_one_request_are_read_and_judged_in_the_order_drawn():
    llm = ScriptedLLM(["take 7\nanswer 7", "answer 6", "no idea"])
    pool = await draw_answers(QUESTION, llm, Lines(), Sampling(), 3)
    assert [each.answer for each in pool.candidates] == ["7", "6", None]
    assert [each.verdict for each in pool.candidates] == [Verdict.RIGHT, Verdict.WRONG, Verdict.UNREADABLE]
    assert (llm.calls, pool.usage.calls, pool.question) == (1, 1, QUESTION)


@dataclass
class Noting:
    """A box that notes every request and answers `answer 7`."""

    asked: list[tuple[str, Sampling]] = field(default_factory=list)
    name: str = "noting"

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        self.asked.append((prompt.messages[0].content, sampling))
        return Completions((Completion("answer 7"),) * sampling.n, Usage(calls=1), self.name)


async def test_each_question_has_a_seed_of_its_own_which_is_the_same_in_every_run():
    llm = Noting()
    for question in (QUESTION, Question("q2", "How many?"), QUESTION):
        await draw_answers(question, llm, Lines(), Sampling(n=2, seed=5))
    await draw_answers(QUESTION, llm, Lines(), Sampling(n=2, seed=6))
    first, other, again, reseeded = (sampling.seed for _, sampling in llm.asked)
    assert first == again
    assert len({first, other, reseeded}) == 3
    assert all(0 <= seed < 2**31 for seed in (first, other, reseeded))


async def test_no_seed_stays_no_seed():
    llm = Noting()
    await draw_answers(QUESTION, llm, Lines(), Sampling(n=4))
    assert llm.asked[0][1] == Sampling(n=4)


# --------------------------------------------------------------------------- step by step


async def test_a_search_finds_the_chain_the_scorer_likes_and_scores_no_text_twice():
    llm, scorer = ScriptedLLM(lines_box), LikesSevens()
    pool = await beam_search(QUESTION, llm, Lines(), scorer, BeamSettings(3, 12, 4))
    best = pool.candidates[0]
    assert (best.text, best.score) == ("take 7\n" * 3 + "answer 7", 4.0)
    assert (best.answer, best.verdict) == ("7", Verdict.RIGHT)
    assert max(Counter(scorer.texts).values()) == 1
    assert len(pool.candidates) <= 3


async def test_the_box_is_asked_only_for_unfinished_chains_one_line_at_a_time():
    llm = ScriptedLLM(lines_box)
    pool = await beam_search(QUESTION, llm, Lines(), LikesSevens(), BeamSettings(3, 3, 5))
    chains = [prompt.messages[0].content.split("|", 1)[1] for prompt in llm.prompts]
    assert not any(Lines().is_finished(chain) for chain in chains)
    assert all(chain == "" or chain.endswith("\n") for chain in chains)
    assert len(set(chains)) == len(chains) == llm.calls == pool.usage.calls
    assert not any("not asked for" in chain for chain in chains)


async def test_every_request_of_a_search_has_a_seed_of_its_own():
    class Counting(Noting):
        async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
            await super().complete(prompt, sampling)
            texts = [f"take {number}" for number in range(sampling.n)]
            return Completions(tuple(Completion(text) for text in texts), Usage(calls=1), self.name)

    llm = Counting()
    await beam_search(QUESTION, llm, Lines(), LikesSevens(), BeamSettings(3, 2, 3))
    assert len({sampling.seed for _, sampling in llm.asked}) == len(llm.asked) == 1 + 3 + 3


async def test_a_search_is_the_same_again_whatever_the_timing():
    class Slow:
        name = "slow"

        def __init__(self, seed: int) -> None:
            self.inner, self.seed = ScriptedLLM(lines_box), seed

        async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
            chance = hashlib.sha256(f"{self.seed}{prompt}".encode()).digest()[0]
            await asyncio.sleep(chance / 50_000)
            return await self.inner.complete(prompt, sampling)

    settings = BeamSettings(3, 2, 4, seed=11)
    runs = [await beam_search(QUESTION, Slow(seed), Lines(), LikesSevens(), settings) for seed in range(3)]
    assert runs[0] == runs[1] == runs[2]
    other = await beam_search(QUESTION, Slow(0), Lines(), LikesSevens(), BeamSettings(3, 2, 4, seed=12))
    assert other != runs[0]


async def test_all_requests_of_one_depth_are_in_flight_at_once():
    class Gate:
        """Answers its second depth only when all three requests for it have come."""

        name = "gate"
        waiting = 0

        def __init__(self) -> None:
            self.all_here = asyncio.Event()

        async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
            if prompt.messages[0].content.endswith("|"):
                texts = ("take 1", "take 2", "take 3")
            else:
                self.waiting += 1
                if self.waiting == 3:
                    self.all_here.set()
                await asyncio.wait_for(self.all_here.wait(), 5)
                texts = ("answer 7",)
            return Completions(tuple(Completion(text) for text in texts), Usage(calls=1), self.name)

    pool = await beam_search(QUESTION, Gate(), Lines(), LikesSevens(), BeamSettings(3, 1, 3))
    assert [each.answer for each in pool.candidates] == ["7", "7", "7"]


async def test_when_one_request_of_a_depth_fails_the_others_end_and_its_error_is_raised():
    class Breaks:
        name = "breaks"
        ended = 0

        async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
            if prompt.messages[0].content.endswith("|"):
                texts = ("take 1", "take 2", "take 3")
                return Completions(tuple(Completion(text) for text in texts), Usage(calls=1), self.name)
            if "take 2" in prompt.messages[0].content:
                raise EndpointError("down")
            try:
                await asyncio.sleep(60)
            finally:
                self.ended += 1
            raise AssertionError("was not cancelled")

    box = Breaks()
    with pytest.raises(EndpointError, match="down"):
        await beam_search(QUESTION, box, Lines(), LikesSevens(), BeamSettings(3, 1, 3))
    assert box.ended == 2
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize(
    ("said", "step"),
    [
        (Completion("take 7"), "take 7\n"),  # the stop sequence is put back
        (Completion("take 7\n"), "take 7\n"),  # it was left in
        (Completion("\n\ntake 7\nanswer 7"), "take 7\n"),  # stops were not heeded
        (Completion("answer 7"), "answer 7"),  # nothing follows the final answer
        (Completion("answer 7\nso there"), "answer 7"),
        (Completion("take 7", "length"), "take 7"),  # cut: the next step goes on in mid-line
        (Completion("take 7\ntake", "length"), "take 7\n"),  # cut later: this step is whole
        (Completion(""), ""),
        (Completion(" \n "), ""),
    ],
)
def test_a_step_continues_its_chain_as_a_written_answer_would(said, step):
    assert next_step("take 1\n", said, Lines()) == step


async def test_a_box_that_falls_silent_ends_its_chains():
    llm = ScriptedLLM(lambda prompt, draw: "take 7" if prompt.messages[0].content.endswith("|") else "")
    pool = await beam_search(QUESTION, llm, Lines(), LikesSevens(), BeamSettings(2, 2, 9))
    assert [(each.text, each.answer) for each in pool.candidates] == [("take 7\n", None)]
    assert llm.calls == 2


# --------------------------------------------------------------------------- scoring


async def test_equal_texts_are_scored_once_off_the_event_loop_and_all_get_the_score():
    scorer = LikesSevens()
    pool = Pool(
        QUESTION, (Candidate("7", "7"), Candidate("6", "6"), Candidate("7", "7"), Candidate("77", "7", 9.0))
    )
    scored = await with_scores(pool, scorer, lambda scores: [score / 10 for score in scores])
    assert [each.score for each in scored.candidates] == [1.0, 0.0, 1.0, 9.0]
    assert [each.confidence for each in scored.candidates] == [0.1, 0.0, 0.1, 0.9]
    assert scorer.texts == ["7", "6"]
    assert scorer.questions == {QUESTION.with_choices}
    assert threading.get_ident() not in scorer.threads


async def test_a_scorer_is_never_entered_twice_at_once():
    scorer = LikesSevens()
    pools = [Pool(QUESTION, (Candidate(f"{number} 7", "7"),)) for number in range(20)]
    await asyncio.gather(*(with_scores(pool, scorer) for pool in pools))
    assert len(scorer.texts) == 20
    assert len(scorer.threads) == 1


# --------------------------------------------------------------------------- one answer


async def test_single_step_answers_with_the_highest_score_and_counts_its_cost():
    llm = ScriptedLLM(["answer 6", "take 7\nanswer 7", "answer 6"])
    answer = await answer_question(QUESTION, llm, Lines(), ARGMAX, Sampling(n=3), scorer=LikesSevens())
    assert (answer.id, answer.answer, answer.score, answer.candidates) == ("q1", "7", 2.0, 3)
    assert (answer.text, answer.status, answer.usage.calls) == ("take 7\nanswer 7", AnswerStatus.ANSWERED, 1)


async def test_without_a_scorer_a_majority_still_answers():
    answer = await answer_question(
        QUESTION, ScriptedLLM(["answer 6", "answer 7", "answer 6"]), Lines(), MAJORITY, Sampling(n=3)
    )
    assert (answer.answer, answer.score, answer.confidence) == ("6", None, pytest.approx(2 / 3))


async def test_a_search_decides_over_its_final_beams():
    llm = ScriptedLLM(lines_box)
    answer = await answer_question(
        QUESTION, llm, Lines(), ARGMAX, BeamSettings(3, 3, 5), scorer=LikesSevens()
    )
    assert (answer.answer, answer.status) == ("7", AnswerStatus.ANSWERED)
    assert answer.usage.calls == llm.calls


async def test_a_search_without_a_scorer_is_refused():
    with pytest.raises(ValueError, match="needs a scorer"):
        await answer_question(QUESTION, ScriptedLLM([]), Lines(), MAJORITY, BeamSettings())


async def test_a_failed_question_is_an_answer_with_its_reason_in_one_line_and_what_was_paid():
    llm = ScriptedLLM(lambda prompt, draw: "take 7", failures=at_calls([3]))
    answer = await answer_question(
        QUESTION, llm, Lines(), ARGMAX, BeamSettings(1, 1, 9), scorer=LikesSevens()
    )
    assert (answer.status, answer.answer, answer.candidates) == (AnswerStatus.FAILED, None, 0)
    assert answer.error == "the endpoint is down"
    assert answer.usage.calls == 2


def test_a_pool_without_candidates_has_failed_and_keeps_its_cost():
    answer = decided(Pool(QUESTION, (), Usage(calls=4)), MAJORITY)
    assert (answer.status, answer.usage.calls) == (AnswerStatus.FAILED, 4)
    assert answer.error


def test_a_decision_less_sure_than_asked_abstains_and_shows_what_it_considered():
    pool = Pool(QUESTION, (Candidate("a", "7"), Candidate("b", "6")))
    unsure = decided(pool, MAJORITY, abstain_below=0.51)
    assert (unsure.status, unsure.answer, unsure.text) == (AnswerStatus.ABSTAINED, None, "a")
    assert decided(pool, MAJORITY, abstain_below=0.5).answer == "7"


def test_unsure_answers_that_agree_abstain():
    pool = Pool(QUESTION, (Candidate("a", "7", 0.1, 0.2),) * 8)
    for name in ("argmax", "majority", "weighted_vote", "importance_vote"):
        answer = decided(pool, DecisionRule(name), abstain_below=0.5)
        assert (answer.status, answer.confidence) == (AnswerStatus.ABSTAINED, pytest.approx(0.2))


def test_the_rules_own_calibration_decides_who_abstains():
    pool = Pool(QUESTION, (Candidate("a", "7", 0.1, 0.9),) * 8)
    doubtful = DecisionRule("majority", calibration=DecisionCalibration(intercept=-2.0))
    assert decided(pool, MAJORITY, abstain_below=0.5).status is AnswerStatus.ANSWERED
    assert decided(pool, doubtful, abstain_below=0.5).status is AnswerStatus.ABSTAINED


def test_a_decision_of_unknown_confidence_does_not_abstain():
    pool = Pool(QUESTION, (Candidate("a", "7", 0.1),))
    assert decided(pool, ARGMAX, abstain_below=0.9).status is AnswerStatus.ANSWERED


def test_an_unreadable_pool_is_unreadable_and_not_an_abstention():
    answer = decided(Pool(QUESTION, (Candidate("hm", None),)), MAJORITY, abstain_below=0.9)
    assert (answer.status, answer.answer, answer.text) == (AnswerStatus.UNREADABLE, None, "hm")


# --------------------------------------------------------------------------- many questions


@dataclass
class Work:
    """Sleeps for as many milliseconds as the item says; counts what runs and how each one ended."""

    running: int = 0
    most: int = 0
    started: list[int] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)

    async def __call__(self, item: int) -> int:
        self.running += 1
        self.started.append(item)
        self.most = max(self.most, self.running)
        try:
            if item < 0:
                raise ValueError(f"item {item}")
            await asyncio.sleep(item / 1000)
            self.finished.append(item)
        finally:
            self.running -= 1
        return item


@pytest.mark.parametrize("concurrency", [1, 3, 50])
async def test_every_question_comes_back_once_with_no_more_at_once_than_allowed(concurrency):
    work, items = Work(), [number % 4 for number in range(20)]
    results = [result async for result in over_questions(items, work, concurrency=concurrency)]
    assert sorted(results) == sorted(items)
    assert work.most == min(concurrency, 20)
    assert work.started == items


async def test_results_come_in_the_order_of_completion():
    assert [result async for result in over_questions([60, 30, 1], Work())] == [1, 30, 60]


async def test_questions_are_taken_only_as_there_is_room():
    taken = []

    def questions():
        for number in range(1000):
            taken.append(number)
            yield 0

    async with aclosing(over_questions(questions(), Work(), concurrency=4)) as results:
        async for _ in results:
            break
    assert len(taken) == 4


async def test_a_caller_that_stops_early_leaves_nothing_running():
    work = Work()
    async with aclosing(over_questions([1, 10_000, 10_000], work)) as results:
        assert await anext(results) == 1
    assert (work.running, work.finished) == (0, [1])
    assert len(asyncio.all_tasks()) == 1


async def test_a_cancelled_caller_leaves_nothing_running():
    work = Work()

    async def caller() -> list[int]:
        return [result async for result in over_questions([10_000] * 5, work, concurrency=2)]

    task = asyncio.create_task(caller())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.started == [10_000, 10_000]
    assert work.running == 0
    assert len(asyncio.all_tasks()) == 1


async def test_an_error_in_the_work_is_raised_and_the_rest_is_ended():
    work = Work()
    with pytest.raises(ValueError, match="item -1"):
        [result async for result in over_questions([10_000, -1, -2, 10_000], work)]
    assert (work.running, work.finished) == (0, [])
    assert len(asyncio.all_tasks()) == 1


async def test_no_questions_give_no_results_and_no_concurrency_is_refused():
    assert [result async for result in over_questions([], Work())] == []
    with pytest.raises(ValueError, match="concurrency"):
        await anext(over_questions([1], Work(), concurrency=0))
