"""Laws of pools: what a row of recorded answers becomes, and how scores are put on it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab import tasks
from trimtab.pools import recalibrated, recorded_pool, scored
from trimtab.types import Candidate, Pool, Question, Recorded, Sample, Verdict

TEXTS = st.text("abcxyz ", min_size=1, max_size=6)
POOLS = st.lists(st.lists(TEXTS, max_size=4), max_size=5).map(
    lambda rows: [
        Pool(Question(f"q{at}", f"Question {at}?"), tuple(Candidate(text, text) for text in texts))
        for at, texts in enumerate(rows)
    ]
)


class ByLength:
    """Scores a text by its length, and remembers each call."""

    def __init__(self) -> None:
        self.calls: list[list[tuple[str, str]]] = []

    def score(self, question: str, texts: Sequence[str]) -> list[float]:
        return self.score_pairs([(question, text) for text in texts])

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        self.calls.append(list(pairs))
        return [len(text) + len(question) / 1000 for question, text in pairs]


def halved(scores: Sequence[float]) -> list[float]:
    return [score / 2 for score in scores]


def row(answer: str | None, *samples: Sample) -> Recorded:
    return Recorded(Question("q", "What is 2 + 2?", answer), samples)


def test_a_recorded_answer_is_read_and_judged_by_the_task():
    pool = recorded_pool(
        row("4", Sample("It is 4.\n#### 4"), Sample("#### 5"), Sample("I do not know.")), tasks.numeric()
    )
    assert [(each.answer, each.verdict) for each in pool.candidates] == [
        ("4", Verdict.RIGHT),
        ("5", Verdict.WRONG),
        (None, Verdict.UNREADABLE),
    ]
    assert all(each.score is None and each.confidence is None for each in pool.candidates)


def test_the_reference_decides_over_the_label_of_the_source():
    pool = recorded_pool(
        row("4", Sample("#### 4", correct=False), Sample("#### 5", correct=True)), tasks.numeric()
    )
    assert [each.verdict for each in pool.candidates] == [Verdict.RIGHT, Verdict.WRONG]


def test_the_label_of_the_source_decides_where_there_is_no_reference():
    samples = Sample("#### 4", correct=True), Sample("#### 5", correct=False), Sample("#### 6")
    pool = recorded_pool(row(None, *samples), tasks.numeric())
    assert [each.verdict for each in pool.candidates] == [Verdict.RIGHT, Verdict.WRONG, Verdict.UNJUDGED]


def test_candidates_stay_in_the_order_recorded():
    pool = recorded_pool(row("4", *(Sample(f"#### {n}") for n in (9, 3, 4, 3))), tasks.numeric())
    assert [each.answer for each in pool.candidates] == ["9", "3", "4", "3"]


@given(POOLS)
def test_every_candidate_gets_the_score_of_its_own_pair_in_one_call(pools):
    scorer = ByLength()
    found = scored(pools, scorer)
    assert len(scorer.calls) == any(pool.candidates for pool in pools)
    for before, after in zip(pools, found, strict=True):
        slow = [ByLength().score(before.question.with_choices, [each.text])[0] for each in before.candidates]
        assert [each.score for each in after.candidates] == slow
        assert [each.text for each in after.candidates] == [each.text for each in before.candidates]
        assert all(each.confidence is None for each in after.candidates)


def test_a_question_is_scored_with_its_choices():
    question = Question("q", "Which?", "A", choices=("one", "two"))
    scorer = ByLength()
    scored([Pool(question, (Candidate("The answer is (A).", "A"),))], scorer)
    assert scorer.calls == [[("Which?\n(A) one\n(B) two", "The answer is (A).")]]


@given(POOLS)
def test_a_calibration_turns_each_score_into_a_confidence(pools):
    for pool in scored(pools, ByLength(), halved):
        assert [each.confidence for each in pool.candidates] == halved(
            [each.score for each in pool.candidates]
        )


@given(POOLS)
def test_another_calibration_changes_confidences_and_nothing_else(pools):
    plain = scored(pools, ByLength())
    assert recalibrated(plain, halved) == scored(pools, ByLength(), halved)


def test_a_failed_question_stays_in_as_an_empty_pool():
    empty = Pool(Question("q", "?"), ())
    assert scored([empty], ByLength(), halved) == [empty]
    assert recalibrated([empty], halved) == [empty]


def test_what_is_not_scored_cannot_be_calibrated():
    with pytest.raises(ValueError, match="without a score"):
        recalibrated([Pool(Question("q", "?"), (Candidate("a", "a"),))], halved)
