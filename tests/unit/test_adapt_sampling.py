"""Laws of a round's draws: plain, from the adapted model, and what happens when questions fail."""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from trimtab import tasks
from trimtab.adapt import Drawer, DrawSettings
from trimtab.adapt.sampling import over_most
from trimtab.errors import BudgetSpentError, EndpointError, LLMError, NoRecordError, RefusedError
from trimtab.llm import RecordedLLM, ScriptedLLM
from trimtab.types import (
    Completion,
    Completions,
    Prompt,
    Question,
    Recorded,
    Sample,
    Sampling,
    Usage,
    Verdict,
)

QUESTIONS = [Question(f"q{at}", f"What is {at} + 1?", str(at + 1)) for at in range(6)]
SETTINGS = DrawSettings(draws=3, sampling=Sampling(max_tokens=20), concurrency=4, seed=5)
DOWN = EndpointError("the endpoint is down")
SPENT = BudgetSpentError("budget spent: the limit of this run is 2 calls")


class Favours:
    """Scores the texts that end in one of these answers high."""

    def __init__(self, *answers: str, by: float = 0.0) -> None:
        self.answers, self.by = answers, by

    def score(self, question: str, texts: Sequence[str]) -> list[float]:
        return self.score_pairs([(question, text) for text in texts])

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        return [self.by if text.endswith(self.answers) else 0.0 for _, text in pairs]


def box(**how) -> ScriptedLLM:
    """Draw number `draw` of a question answers with `draw` modulo 10."""
    return ScriptedLLM(lambda prompt, draw: f"Step {draw}.\n#### {draw % 10}", **how)


def drawer(llm, scorer=None, **changes) -> Drawer:
    return Drawer(llm, tasks.numeric(), scorer, replace(SETTINGS, **changes))


def test_every_question_gets_its_draws_in_one_call_and_the_pools_are_in_the_order_asked():
    llm = box()
    pools = drawer(llm).draw(QUESTIONS, adapted=False)
    assert [pool.question for pool in pools] == QUESTIONS
    assert [len(pool.candidates) for pool in pools] == [3] * 6
    assert llm.calls == 6
    assert all(candidate.score is None for pool in pools for candidate in pool.candidates)


def test_the_same_seed_draws_the_same_and_another_seed_others():
    drawn = [drawer(box(), seed=seed).draw(QUESTIONS, adapted=False) for seed in (5, 5, 6)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_the_adapted_model_keeps_draws_of_oversample_times_as_many_answers():
    llm, scorer = box(), Favours("7", by=1.0)
    pools = drawer(llm, scorer, oversample=4).draw(QUESTIONS, adapted=True)
    plain = drawer(box(), draws=12).draw(QUESTIONS, adapted=False)
    assert llm.calls == 6
    for pool, whole in zip(pools, plain, strict=True):
        texts = [candidate.text for candidate in pool.candidates]
        assert len(texts) == 3
        assert not Counter(texts) - Counter(candidate.text for candidate in whole.candidates)
        assert [c.score for c in pool.candidates] == [1.0 if t.endswith("7") else 0.0 for t in texts]


def test_the_adapted_model_draws_by_the_exponential_of_the_score():
    # Two answers, one of them favoured by log 4: it is drawn first in 4 of 5 questions.
    questions = [Question(f"q{at}", f"Question {at}?", "0") for at in range(1500)]
    llm = ScriptedLLM(lambda prompt, draw: f"#### {draw % 2}")
    pools = drawer(llm, Favours("1", by=math.log(4)), draws=1, oversample=2).draw(questions, adapted=True)
    share = sum(pool.candidates[0].answer == "1" for pool in pools) / len(pools)
    assert share == pytest.approx(0.8, abs=0.04)


def test_resampling_is_the_same_in_every_process():
    first, again = (drawer(box(), Favours("7", by=1.0)).draw(QUESTIONS, adapted=True) for _ in range(2))
    assert first == again


def test_a_search_step_by_step_gives_its_final_beams_with_scores():
    def step(prompt: Prompt, draw: int) -> str:
        chain = prompt.messages[-1].content
        return f"#### {draw % 10}" if "Step" in chain.rpartition("?")[2] else f"Step {draw % 10}."

    settings = {"search": "beam", "beam": replace(SETTINGS.beam, width=2, samples=2)}
    pools = drawer(ScriptedLLM(step), Favours("7", by=1.0), **settings).draw(QUESTIONS, adapted=True)
    assert all(1 <= len(pool.candidates) <= 2 for pool in pools)
    assert all(candidate.score is not None for pool in pools for candidate in pool.candidates)


def test_drawing_from_the_adapted_model_needs_a_scorer():
    with pytest.raises(ValueError, match="scorer"):
        drawer(box()).draw(QUESTIONS, adapted=True)


def test_a_failed_question_stays_in_as_an_empty_pool():
    llm = box(failures={2: DOWN, 5: DOWN})
    pools = drawer(llm, concurrency=1).draw(QUESTIONS, adapted=False)
    assert [len(pool.candidates) for pool in pools] == [3, 0, 3, 3, 0, 3]
    assert [pool.question for pool in pools] == QUESTIONS


def test_a_failed_question_stays_in_when_the_adapted_model_is_drawn_from():
    pools = drawer(box(failures={1: DOWN}), Favours("7"), concurrency=1).draw(QUESTIONS, adapted=True)
    assert [len(pool.candidates) for pool in pools] == [0, 3, 3, 3, 3, 3]


def test_half_of_the_questions_may_fail():
    pools = drawer(box(failures=dict.fromkeys((1, 2, 3), DOWN)), concurrency=1).draw(QUESTIONS, adapted=False)
    assert sum(not pool.candidates for pool in pools) == 3


@pytest.mark.parametrize("asked", [1, 2, 6])
def test_more_failures_than_half_end_the_round_at_once(asked):
    llm = box(failures=dict.fromkeys(range(1, 7), DOWN))
    with pytest.raises(EndpointError, match=r"questions failed; the last one: the endpoint is down"):
        drawer(llm, concurrency=1).draw(QUESTIONS[:asked], adapted=False)
    assert llm.calls <= asked // 2 + 2


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_that_is_of_every_question_is_raised_at_once(status):
    refusal = RefusedError("wrong key", status=status)
    llm = box(failures=dict.fromkeys(range(1, 7), refusal))
    with pytest.raises(RefusedError, match="wrong key"):
        drawer(llm, concurrency=1).draw(QUESTIONS, adapted=False)
    assert llm.calls <= 2


def test_a_refusal_of_one_question_is_a_failed_question():
    llm = box(failures={1: RefusedError("too long", status=400)})
    pools = drawer(llm, concurrency=1).draw(QUESTIONS, adapted=False)
    assert [len(pool.candidates) for pool in pools] == [0, 3, 3, 3, 3, 3]


def test_recorded_answers_can_stand_in_for_the_black_box():
    rows = [Recorded(q, tuple(Sample(f"#### {n}") for n in range(4))) for q in QUESTIONS[:4]]
    pools = drawer(RecordedLLM(rows)).draw(QUESTIONS[:4], adapted=False)
    assert all(len(pool.candidates) == 3 for pool in pools)
    assert {c.verdict for pool in pools for c in pool.candidates} == {Verdict.RIGHT, Verdict.WRONG}
    with pytest.raises(EndpointError, match="no answer is recorded"):
        drawer(RecordedLLM([])).draw(QUESTIONS, adapted=False)
    assert issubclass(NoRecordError, Exception)


def test_progress_counts_every_question_up_to_the_last():
    seen: list[tuple[int, int]] = []
    Drawer(box(), tasks.numeric(), None, SETTINGS, lambda done, total: seen.append((done, total))).draw(
        QUESTIONS, adapted=False
    )
    assert seen == [(done, 6) for done in range(1, 7)]


def test_no_questions_are_no_pools():
    assert drawer(box()).draw([], adapted=False) == []
    assert drawer(box(), Favours("7")).draw([], adapted=True) == []


def test_the_black_box_is_sent_no_question_id():
    llm = box()
    drawer(llm).draw(QUESTIONS[:1], adapted=False)
    sent = " ".join(message.content for prompt in llm.prompts for message in prompt.messages)
    assert not re.search(r"\bq0\b", sent)


# --------------------------------------------------------------------------- what may fail


def outcomes(
    failing: dict[int, LLMError], asked: int = 6, of: int | None = None
) -> list[tuple[int, LLMError | None]]:
    """Every number below `asked` doubled, -1 in place of what failed."""

    async def doubled(number: int) -> int:
        if number in failing:
            raise failing[number]
        return 2 * number

    async def run() -> list[tuple[int, LLMError | None]]:
        asking = over_most(range(asked), doubled, lambda _: -1, concurrency=1, of=of)
        return [each async for each in asking]

    return asyncio.run(run())


def test_what_fails_gives_its_stand_in_and_its_error():
    assert outcomes({1: DOWN}, 3) == [(0, None), (-1, DOWN), (4, None)]


def test_failures_are_counted_against_all_of_the_round_not_only_against_what_was_left_to_ask():
    assert outcomes({0: DOWN}, asked=1, of=8) == [(-1, DOWN)]
    with pytest.raises(EndpointError, match="1 of 1 questions failed; the last one: the endpoint is down"):
        outcomes({0: DOWN}, asked=1)


# --------------------------------------------------------------------------- a limit is reached


@pytest.mark.parametrize("spent", [{3, 4, 5, 6}, {1, 2, 3, 4, 5, 6}])
def test_a_spent_budget_is_no_outage_however_many_questions_it_leaves_unasked(spent):
    drawing = drawer(box(failures=dict.fromkeys(spent, SPENT)), concurrency=1)
    pools = drawing.draw(QUESTIONS, adapted=False)
    assert [at for at, pool in enumerate(pools, 1) if not pool.candidates] == sorted(spent)
    assert drawing.spent is SPENT


def test_a_spent_budget_does_not_hide_an_outage():
    assert len(outcomes({0: DOWN, 1: DOWN, 2: DOWN, 3: SPENT, 4: SPENT})) == 6
    with pytest.raises(EndpointError, match="4 of 6 questions failed; the last one: the endpoint is down"):
        outcomes({0: SPENT, 1: DOWN, 2: DOWN, 3: DOWN, 4: SPENT, 5: DOWN})


def test_a_drawer_whose_money_sufficed_says_nothing_of_it():
    drawing = drawer(box(failures={1: DOWN}))
    drawing.draw(QUESTIONS, adapted=False)
    assert drawing.spent is None


def test_what_was_bought_beforehand_is_used_though_the_budget_ended_the_buying():
    async def prepay(requests: Sequence[tuple[Prompt, Sampling]]) -> None:
        assert len(requests) == len(QUESTIONS)
        raise SPENT

    drawing = drawer(box(failures={6: SPENT}), concurrency=1)
    drawing.prepay = prepay
    pools = drawing.draw(QUESTIONS, adapted=False)
    assert [len(pool.candidates) for pool in pools] == [3, 3, 3, 3, 3, 0]
    assert drawing.spent is SPENT


# --------------------------------------------------------------------------- a question's deadline


class Hangs:
    """A black box that never answers one question, and answers the others at once."""

    name = "hangs"

    def __init__(self, about: str) -> None:
        self.about = about
        self.running = 0

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        self.running += 1
        try:
            if prompt.question_id == self.about:
                await asyncio.Event().wait()
            return Completions((Completion("#### 1"),) * sampling.n, Usage(calls=1), self.name)
        finally:
            self.running -= 1


def test_a_question_past_its_deadline_is_a_failed_one_and_nothing_runs_on_behind_it():
    llm = Hangs("q2")
    pools = drawer(llm, deadline_s=0.05).draw(QUESTIONS, adapted=False)
    assert [bool(pool.candidates) for pool in pools] == [True, True, False, True, True, True]
    assert llm.running == 0


def test_more_than_half_of_the_questions_past_their_deadline_are_an_outage():
    llm = Hangs("q0")
    with pytest.raises(EndpointError, match=r"not answered within the question's deadline of 0.05 s"):
        drawer(llm, deadline_s=0.05).draw(QUESTIONS[:1], adapted=False)
