"""Laws of stopping when sure, and its probability against the urn drawn out branch by branch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.drawing import Waves, answer_question, draw_answers, draw_until_certain
from trimtab.llm.scripted import ScriptedLLM
from trimtab.sequential import LEAST, beta_binomial, certainty, choose_certainty, needed, stopped
from trimtab.stopping import DecisionRule, decide
from trimtab.tasks import by_name
from trimtab.types import Candidate, Question, Sampling, Verdict

MAJORITY = DecisionRule("majority")
VOTE = DecisionRule("weighted_vote")
ARGMAX = DecisionRule("argmax")
answers = st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=8)
confidences = st.floats(0.01, 0.99)


def drawn(finals: Sequence[str | None], right: str = "a") -> list[Candidate]:
    return [
        Candidate(f"{final} {place}", final, verdict=Verdict.RIGHT if final == right else Verdict.WRONG)
        for place, final in enumerate(finals)
    ]


def urn(lead: int, left: int, ours: Fraction, theirs: Fraction) -> Fraction:
    """P(the rival ends with no more votes than the leader): each draw makes its like more likely."""
    if not left:
        return Fraction(lead >= 0)
    share = ours / (ours + theirs)
    won = urn(lead + 1, left - 1, ours + 1, theirs)
    return share * won + (1 - share) * urn(lead - 1, left - 1, ours, theirs + 1)


@given(finals=answers, left=st.integers(1, 6))
def test_certainty_of_a_majority_is_that_of_polyas_urn(finals: list[str | None], left: int) -> None:
    readable = [each for each in finals if each is not None]
    if not readable:
        assert certainty(drawn(finals), MAJORITY, left) == 0.0
        return
    leader = decide(drawn(finals), MAJORITY).answer
    rival = max((readable.count(each) for each in set(readable) - {leader}), default=0)
    ours = readable.count(str(leader))
    expected = urn(ours - rival, left, Fraction(1, 2) + ours, Fraction(1, 2) + rival)
    assert certainty(drawn(finals), MAJORITY, left) == pytest.approx(float(expected), abs=1e-12)


@given(n=st.integers(0, 12), a=st.floats(0.1, 9), b=st.floats(0.1, 9))
def test_the_beta_binomial_adds_up_to_one_and_has_its_mean(n: int, a: float, b: float) -> None:
    found = [beta_binomial(k, n, a, b) for k in range(n + 1)]
    assert math.fsum(found) == pytest.approx(1.0)
    mean = math.fsum(k * p for k, p in enumerate(found))
    assert mean == pytest.approx(n * a / (a + b))


@given(answers, st.sampled_from([MAJORITY, VOTE, ARGMAX]), confidences)
def test_nothing_left_to_draw_is_certain_and_more_left_is_never_more_certain(
    finals: list[str | None], rule: DecisionRule, confidence: float
) -> None:
    pool = [replace(each, score=0.0, confidence=confidence) for each in drawn(finals)]
    found = [certainty(pool, rule, left) for left in range(0, 9, 2)]
    is_readable = any(each is not None for each in finals)
    assert found[0] == (1.0 if is_readable else 0.0)
    assert all(later <= sooner + 1e-9 for sooner, later in pairwise(found))


def test_one_more_draw_of_the_leader_makes_it_more_certain_and_one_of_a_rival_less() -> None:
    now = certainty(drawn(["a", "a", "b"]), MAJORITY, 4)
    assert certainty(drawn(["a", "a", "b", "a"]), MAJORITY, 3) > now
    assert certainty(drawn(["a", "a", "b", "b"]), MAJORITY, 3) < now


def test_confident_draws_are_more_evidence_than_doubtful_ones() -> None:
    sure, unsure = ([replace(each, confidence=c) for each in drawn(["a", "a"])] for c in (0.95, 0.2))
    assert certainty(sure, VOTE, 6) > certainty(unsure, VOTE, 6)


def test_the_best_scored_answer_falls_as_often_as_a_record_is_broken_by_another_answer() -> None:
    pool = [replace(each, score=float(place)) for place, each in enumerate(drawn(["b", "a"]))]
    broken = 4 / (2 + 4)  # the highest of six exchangeable scores is among the last four
    assert certainty(pool, ARGMAX, 4) == pytest.approx(1 - broken * 1.5 / (1.5 + 1.5))


@given(finals=answers, wave=st.integers(1, 3))
def test_a_certainty_of_one_draws_all_and_any_draws_no_more(finals: list[str | None], wave: int) -> None:
    pool = drawn(finals)
    assert needed(pool, replace(MAJORITY, certainty=1.0), wave) == len(pool)
    assert 1 <= needed(pool, MAJORITY, wave) <= len(pool)


def test_all_agreeing_spares_most_and_none_agreeing_spares_nothing() -> None:
    assert needed(drawn("aaaaaaaa"), MAJORITY) == 2
    assert needed(drawn("abcdefgh"), MAJORITY) == 8


def test_what_stopping_early_is_worth_is_counted_over_all_questions() -> None:
    found = stopped([drawn("aaaaaaaa"), drawn("bbbbbbbb"), []], MAJORITY, orders=1)
    assert (found.drawn, found.accuracy, found.difference) == (
        pytest.approx(4 / 3),
        pytest.approx(1 / 3),
        0.0,
    )
    assert found.ratio == pytest.approx(4 / 16)
    with pytest.raises(ValueError, match="no question"):
        stopped([], MAJORITY)


def test_the_certainty_chosen_is_the_cheapest_that_loses_nothing_and_all_draws_where_each_loses() -> None:
    harmless = [drawn("aaaaaaaa")] * 20
    misleading = [drawn("bbaaaaaa")] * 20  # two agree at first, and are wrong
    assert choose_certainty(harmless, MAJORITY) == LEAST
    assert choose_certainty([], MAJORITY) == LEAST
    rare = stopped(misleading, replace(MAJORITY, certainty=LEAST), orders=1)
    assert rare.accuracy == 0.0
    assert choose_certainty(misleading, MAJORITY) > LEAST


# --------------------------------------------------------------------------- drawing wave by wave

QUESTION = Question("q1", "2 + 2?", answer="4")
TASK = by_name("numeric")


def box(*finals: str) -> ScriptedLLM:
    return ScriptedLLM([f"The answer is {final}." for final in finals])


async def test_waves_draw_the_first_part_of_what_would_be_drawn_at_once_and_pay_for_no_more() -> None:
    said = ("4", "4", "4", "4", "5", "5", "5", "5")
    whole = await draw_answers(QUESTION, box(*said), TASK, Sampling(n=8))
    llm = box(*said)
    early = await draw_until_certain(QUESTION, llm, TASK, MAJORITY, Waves(Sampling(n=8)))
    assert early.candidates == whole.candidates[: len(early.candidates)]
    assert len(early.candidates) == 2
    assert early.usage.output_tokens < whole.usage.output_tokens


async def test_the_answer_says_how_many_draws_were_spared() -> None:
    waves = Waves(Sampling(n=8), wave=1)
    answer = await answer_question(QUESTION, box(*("4",) * 8), TASK, MAJORITY, waves)
    assert (answer.answer, answer.candidates, answer.spared) == ("4", 2, 6)
    at_odds = await answer_question(QUESTION, box(*"12345678"), TASK, MAJORITY, waves)
    assert (at_odds.candidates, at_odds.spared) == (8, 0)


async def test_a_certainty_of_one_draws_the_whole_budget_in_waves() -> None:
    rule = replace(MAJORITY, certainty=1.0)
    pool = await draw_until_certain(QUESTION, box(*("4",) * 5), TASK, rule, Waves(Sampling(n=5)))
    assert len(pool.candidates) == 5
