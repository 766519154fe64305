"""Laws of a search that wastes nothing: it ends when sure, waits for no other question, shares a scorer."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.drawing import (
    BeamSettings,
    SharedScorer,
    answer_question,
    beam_search,
    beam_search_until_certain,
    over_questions,
    scored_off_loop,
)
from trimtab.energy import BatchingScorer
from trimtab.search import extended, opened, pruned, scored, spared, unscored
from trimtab.stopping import DecisionRule
from trimtab.tasks import by_name
from trimtab.types import Completion, Completions, Prompt, Question, Sampling, Usage

MAJORITY = DecisionRule("majority")
TASK = by_name("numeric")
QUESTION = Question("q1", "How many?", answer="4")
SURE = BeamSettings(width=3, samples=2, max_steps=6, stop_when_sure=True)


class ByHash:
    """g: a number that follows from the text."""

    def score(self, question: str, texts: list[str]) -> list[float]:
        return [hashlib.sha256(text.encode()).digest()[0] / 256 for text in texts]

    def score_pairs(self, pairs: list[tuple[str, str]]) -> list[float]:
        return [score for question, text in pairs for score in self.score(question, [text])]


@dataclass
class Sayings:
    """A box whose next line follows from seed, chain and draw: it goes on, or says 4 or 5."""

    seed: int = 0
    asked: list[tuple[str, int | None]] = field(default_factory=list)
    name: str = "sayings"

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        text = prompt.messages[-1].content
        self.asked.append((text, sampling.seed))
        said = tuple(Completion(self.line(text, draw)) for draw in range(sampling.n))
        return Completions(said, Usage(calls=1), self.name)

    def line(self, text: str, draw: int) -> str:
        chance = hashlib.sha256(f"{self.seed}|{text[-200:]}|{draw}".encode()).digest()
        if chance[0] < 100:
            return f"Take {chance[1] % 5} of them."
        return f"With {chance[1] % 3} left, the answer is {4 if chance[2] < 160 else 5}."


# --------------------------------------------------------------------------- ending when sure


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_a_search_that_stops_when_sure_asks_the_first_part_of_what_a_whole_one_asks(seed):
    whole, early = Sayings(seed), Sayings(seed)
    full = asyncio.run(beam_search(QUESTION, whole, TASK, ByHash(), SURE))
    pool, left = asyncio.run(beam_search_until_certain(QUESTION, early, TASK, MAJORITY, ByHash(), SURE))
    assert early.asked == whole.asked[: len(early.asked)]
    assert (left > 0) == (len(early.asked) < len(whole.asked))
    assert left or pool.candidates == full.candidates


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_what_ends_a_search_early_are_finished_beams_that_agree(seed):
    found = asyncio.run(beam_search_until_certain(QUESTION, Sayings(seed), TASK, MAJORITY, ByHash(), SURE))
    pool, left = found
    finals = [each.answer for each in pool.candidates if TASK.is_finished(each.text)]
    assert not left or (len(finals) == 2 and len(set(finals)) == 1)


async def test_a_certainty_of_one_searches_to_the_end():
    rule = replace(MAJORITY, certainty=1.0)
    whole, left = await beam_search_until_certain(QUESTION, Sayings(3), TASK, rule, ByHash(), SURE)
    assert whole == await beam_search(QUESTION, Sayings(3), TASK, ByHash(), SURE)
    assert left == 0


async def test_a_searched_answer_says_what_was_spared_and_one_that_went_to_the_end_says_nothing():
    early = [
        await answer_question(QUESTION, Sayings(i), TASK, MAJORITY, SURE, scorer=ByHash()) for i in range(9)
    ]
    whole = replace(SURE, stop_when_sure=False)
    full = [
        await answer_question(QUESTION, Sayings(i), TASK, MAJORITY, whole, scorer=ByHash()) for i in range(9)
    ]
    assert any(answer.spared for answer in early)
    assert not any(answer.spared for answer in full)
    fewer = [one.usage.calls < other.usage.calls for one, other in zip(early, full, strict=True)]
    assert fewer == [answer.spared > 0 for answer in early]


def test_a_step_spares_its_draws_and_a_search_that_is_done_spares_none():
    search = opened(width=2, samples=3, max_steps=2)
    assert spared(search) == 6
    search = extended(search, [["go on\n", "end"]], lambda chain: chain.endswith("end"))
    search = pruned(scored(search, [1.0, 0.0]))
    assert spared(search) == 3
    search = extended(search, [["end"]], lambda chain: chain.endswith("end"))
    assert spared(pruned(scored(search, [2.0] * len(unscored(search))))) == 0


# --------------------------------------------------------------------------- nobody waits for another


@dataclass
class Held:
    """A box that answers one question at once and holds back all others."""

    free: str
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    name: str = "held"

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        if self.free not in prompt.messages[-1].content:
            await self.gate.wait()
        said = tuple(Completion(f"Take {draw}.") for draw in range(sampling.n))
        return Completions(said, Usage(calls=1), self.name)


async def test_a_question_takes_all_its_steps_while_another_waits_for_its_first():
    box, ended = Held("free one"), []
    questions = [Question("a", "the held one"), Question("b", "the free one")]

    async with BatchingScorer(ByHash()) as shared:

        async def one(question: Question) -> str:
            await beam_search(question, box, TASK, shared, BeamSettings(2, 2, 5))
            return question.id

        async for done in over_questions(questions, one, concurrency=2):
            ended.append(done)
            box.gate.set()
    assert ended == ["b", "a"]


async def test_beams_that_read_alike_are_asked_about_once():
    llm = Sayings()
    llm.line = lambda text, draw: (
        "Take 1." if "Take" not in text.rpartition("How many?")[2] else f"Take {draw}."
    )
    await beam_search(QUESTION, llm, TASK, ByHash(), BeamSettings(width=3, samples=2, max_steps=2))
    assert len(llm.asked) == 2


# --------------------------------------------------------------------------- one scorer for all


async def test_a_shared_scorer_is_awaited_and_gives_what_the_plain_one_gives():
    texts = ["a", "b", "a"]
    async with BatchingScorer(ByHash()) as shared:
        assert isinstance(shared, SharedScorer)
        assert await scored_off_loop(shared, QUESTION, texts) == ByHash().score("", texts)
        assert shared.counts.asked == 2


@pytest.mark.parametrize("how", [SURE, replace(SURE, stop_when_sure=False), Sampling(n=4)])
async def test_answers_are_the_same_with_a_shared_scorer_and_with_one_of_their_own(how):
    questions = [Question(f"q{i}", f"How many of {i}?", answer="4") for i in range(6)]

    async def answered(scorer, question):
        return await answer_question(question, Sayings(1), TASK, DecisionRule("argmax"), how, scorer=scorer)

    own = [await answered(ByHash(), question) for question in questions]
    async with BatchingScorer(ByHash()) as shared:
        assert await asyncio.gather(*(answered(shared, question) for question in questions)) == own


async def test_a_scorer_that_fails_fails_the_search():
    class Broken(ByHash):
        def score_pairs(self, pairs: list[tuple[str, str]]) -> list[float]:
            raise ArithmeticError("no number")

    async with BatchingScorer(Broken()) as shared:
        with pytest.raises(ArithmeticError, match="no number"):
            await beam_search(QUESTION, Sayings(), TASK, shared, SURE)
