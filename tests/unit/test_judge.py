"""SEL: ground truth, people, combination, and what a judgement becomes for training."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.data import Feedback, FeedbackKind
from trimtab.judge import Combined, GroundTruth, Human, contrast, select
from trimtab.types import Candidate, Judge, Judgement, Prompt, Question, Usage, Verdict

QUESTION = Question("q", "How many?", answer="4", rationale="2 + 2 = 4. The answer is 4.")


class LastWord:
    """A task whose final answer is the last word; the word "none" cannot be read."""

    name = "last_word"
    is_comparable = True
    step_stops: tuple[str, ...] = ()

    def prompt(self, question: Question, chain: str = "") -> Prompt:
        return Prompt((), question.id)

    def steps(self, text: str) -> tuple[str, ...]:
        return (text,)

    def is_finished(self, chain: str) -> bool:
        return True

    def final_answer(self, question: Question, text: str) -> str | None:
        word = text.rstrip(".").split()[-1]
        return None if word == "none" else word

    def verdict(self, question: Question, text: str) -> Verdict:
        if question.answer is None:
            return Verdict.UNJUDGED
        read = self.final_answer(question, text)
        if read is None:
            return Verdict.UNREADABLE
        return Verdict.RIGHT if read == question.answer else Verdict.WRONG


class Fixed:
    """A judge that has made up its mind."""

    def __init__(
        self,
        source: str,
        positives: tuple[int, ...] = (),
        negatives: tuple[int, ...] = (),
        extra: tuple[str, ...] = (),
    ) -> None:
        self.judgement = Judgement(
            "q", positives, negatives, source, extra, unreadable=1, usage=Usage(calls=1)
        )

    @property
    def name(self) -> str:
        return self.judgement.source

    async def judge(self, question: Question, candidates: Sequence[Candidate]) -> Judgement:
        return self.judgement


def drawn(*texts: str) -> list[Candidate]:
    return [Candidate(text, None) for text in texts]


def judged(judge: Judge, candidates: Sequence[Candidate], question: Question = QUESTION) -> Judgement:
    return asyncio.run(judge.judge(question, candidates))


# ------------------------------------------------------------------------------------ ground truth


def test_right_draws_are_positives_and_wrong_or_unreadable_ones_negatives():
    judgement = judged(GroundTruth(LastWord()), drawn("so 4", "so 5", "so none", "surely 4"))
    assert (judgement.positives, judgement.negatives) == ((0, 3), (1, 2))
    assert judgement.source == "ground_truth"


def test_without_a_reference_nothing_is_judged():
    judgement = judged(GroundTruth(LastWord()), drawn("so 4", "so 5"), Question("q", "How many?"))
    assert (judgement.positives, judgement.negatives, judgement.extra_positives) == ((), (), ())


def test_a_verdict_that_the_candidate_carries_is_taken():
    candidates = [
        Candidate("so 5", "5", verdict=Verdict.RIGHT),
        Candidate("so 4", "4", verdict=Verdict.WRONG),
    ]
    judgement = judged(GroundTruth(LastWord()), candidates)
    assert (judgement.positives, judgement.negatives) == ((0,), (1,))


def test_the_reference_solution_is_a_positive_only_if_it_reads_as_the_reference():
    wrong = Question("q", "How many?", answer="4", rationale="I think 5.")
    assert judged(GroundTruth(LastWord()), drawn("so 4")).extra_positives == (QUESTION.rationale,)
    assert judged(GroundTruth(LastWord()), drawn("so 4"), wrong).extra_positives == ()
    assert judged(GroundTruth(LastWord(), use_rationale=False), drawn("so 4")).extra_positives == ()


# ------------------------------------------------------------------------------------ people


def said(kind: FeedbackKind, text: str, value: str = "") -> Feedback:
    return Feedback(QUESTION.text, kind, text, value)


def right(text: str) -> Feedback:
    return said(FeedbackKind.VERDICT, text, "right")


def wrong(text: str) -> Feedback:
    return said(FeedbackKind.VERDICT, text, "wrong")


def human(*rows: Feedback) -> Human:
    return Human(lambda question: [row for row in rows if row.question == question])


def test_right_texts_are_positives_wrong_ones_negatives_and_the_rest_is_left_out():
    judge = human(right("so 4"), wrong(" so 5\n"))
    judgement = judged(judge, drawn("so 4", "so 5", "so 6", " so 4 "))
    assert (judgement.positives, judgement.negatives) == ((0, 3), (1,))
    assert judgement.source == "human"


def test_feedback_on_another_question_is_not_heard():
    assert judged(human(right("so 4")), drawn("so 4"), Question("q", "How much?")).positives == ()


@given(st.integers(0, 4), st.integers(0, 4))
def test_the_majority_of_verdicts_holds_and_a_tie_leaves_the_text_out(votes_for, votes_against):
    rows = [right("so 4")] * votes_for + [wrong("so 4")] * votes_against
    judgement = judged(human(*rows), drawn("so 4"))
    assert judgement.positives == ((0,) if votes_for > votes_against else ())
    assert judgement.negatives == ((0,) if votes_for < votes_against else ())


def test_a_preference_speaks_for_one_text_and_against_the_other():
    judgement = judged(human(said(FeedbackKind.PREFERENCE, "so 4", "so 5")), drawn("so 5", "so 4"))
    assert (judgement.positives, judgement.negatives) == ((1,), (0,))


def test_a_correction_is_a_further_positive_unless_others_call_it_wrong():
    corrected = said(FeedbackKind.CORRECTION, "so it is 4")
    judgement = judged(human(wrong("so 5"), corrected), drawn("so 5"))
    assert (judgement.extra_positives, judgement.negatives) == (("so it is 4",), (0,))
    assert judged(human(corrected, wrong("so it is 4")), drawn("so 5")).extra_positives == ()


def test_a_correction_that_was_drawn_is_a_positive_draw():
    judgement = judged(human(said(FeedbackKind.CORRECTION, "so 4")), drawn("so 4"))
    assert (judgement.positives, judgement.extra_positives) == ((0,), ())


def test_a_text_people_call_right_is_a_positive_even_if_it_was_not_drawn_again():
    judgement = judged(human(right("so 4"), wrong("so 5")), drawn("so 5"))
    assert (judgement.extra_positives, judgement.negatives) == (("so 4",), (0,))


# ------------------------------------------------------------------------------------ combined


def test_ground_truth_and_an_ais_preference_add_up():
    judgement = judged(
        Combined(Fixed("ground_truth", (0,), (2,), ("reference",)), Fixed("ai", (1,), (0, 2))), drawn(*"abc")
    )
    assert (judgement.positives, judgement.negatives) == ((0, 1), (2,))
    assert judgement.extra_positives == ("reference",)
    assert judgement.source == "combined"
    assert (judgement.unreadable, judgement.usage) == (2, Usage(calls=2))


@pytest.mark.parametrize("firm", ["ground_truth", "human"])
def test_what_ground_truth_or_a_person_calls_wrong_is_no_positive_however_much_an_ai_likes_it(firm):
    judgement = judged(Combined(Fixed("ai", (0,), (1,)), Fixed(firm, (1,), (0,))), drawn("a", "b"))
    assert (judgement.positives, judgement.negatives) == ((1,), (0,))


def test_where_ground_truth_and_a_person_disagree_the_candidate_is_left_out():
    judge = Combined(Fixed("ground_truth", (0,), ()), Fixed("human", (), (0,)), Fixed("ai", (0,), ()))
    judgement = judged(judge, drawn("a"))
    assert (judgement.positives, judgement.negatives) == ((), ())


SIDES = st.lists(st.sampled_from("pn-"), min_size=4, max_size=4)


@given(SIDES, SIDES, SIDES)
def test_no_candidate_is_on_both_sides_of_a_combination(truth, person, ai):
    judges = [
        Fixed(source, *(tuple(at for at, mark in enumerate(marks) if mark == side) for side in "pn"))
        for source, marks in (("ground_truth", truth), ("human", person), ("ai", ai))
    ]
    judgement = judged(Combined(*judges), drawn(*"abcd"))
    for at in range(4):
        marks = (truth[at], person[at], ai[at])
        assert (at in judgement.positives) == ("p" in marks and "n" not in marks[:2])
        assert not (at in judgement.positives and at in judgement.negatives)
        assert at in judgement.positives or at in judgement.negatives or "n" not in marks or "p" in marks


# ------------------------------------------------------------------------------------ selection


def judgement_of(positives: tuple[int, ...], negatives: tuple[int, ...], *extra: str) -> Judgement:
    return Judgement("q", positives, negatives, "test", extra)


def test_a_contrast_holds_the_selected_draws_and_extras_against_the_others():
    unit = contrast(QUESTION, drawn("a", "b", "c"), judgement_of((0,), (1,), "reference"))
    assert unit is not None
    assert (unit.question_id, unit.question) == ("q", "How many?")
    assert (unit.positives, unit.negatives) == (("a", "reference"), ("b",))


def test_an_encoder_reads_the_choices_with_the_question():
    question = Question("q", "Which?", choices=("red", "blue"))
    unit = contrast(question, drawn("a", "b"), judgement_of((0,), (1,)))
    assert unit is not None
    assert unit.question == "Which?\n(A) red\n(B) blue"


@pytest.mark.parametrize("sides", [((), (0,)), ((0,), ()), ((), ())])
def test_there_is_no_contrast_with_an_empty_side(sides):
    assert contrast(QUESTION, drawn("a"), judgement_of(*sides)) is None


def test_a_text_on_both_sides_of_a_judgement_is_a_positive():
    unit = contrast(QUESTION, drawn("a", "a ", "b"), judgement_of((0,), (1, 2)))
    assert unit is not None
    assert (unit.positives, unit.negatives) == (("a",), ("b",))


def test_earlier_positives_stay_until_a_judgement_holds_them_negative():
    judgement = judgement_of((0,), (1, 2))
    assert select(("kept", "b", "a"), drawn("a", "b", "c"), judgement) == ("kept", "a")
    unit = contrast(QUESTION, drawn("a", "b", "c"), judgement, earlier=("kept", "b"))
    assert unit is not None
    assert (unit.positives, unit.negatives) == (("kept", "a"), ("b", "c"))


def test_a_blank_draw_is_never_a_positive():
    assert select((), drawn(" ", "a"), judgement_of((0, 1), ())) == ("a",)


TEXTS = st.text("ab ", max_size=2)


@given(st.lists(TEXTS, max_size=6), st.lists(TEXTS, max_size=3), st.lists(TEXTS, max_size=3), st.data())
def test_no_text_is_twice_in_a_contrast_nor_on_both_sides(texts, extra, earlier, data):
    marks = data.draw(st.lists(st.sampled_from("pn-"), min_size=len(texts), max_size=len(texts)))
    positives, negatives = (tuple(at for at, mark in enumerate(marks) if mark == side) for side in "pn")
    unit = contrast(QUESTION, drawn(*texts), judgement_of(positives, negatives, *extra), earlier)
    if unit is not None:
        held = [text.strip() for text in unit.positives + unit.negatives]
        assert len(held) == len(set(held))
        assert unit.positives
        assert unit.negatives
