"""Laws of lessons: what people said becomes contrasts, and questions keep their place for good."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trimtab import tasks
from trimtab.adapt.from_feedback import Taught, contrasts_of, shadow, taught
from trimtab.data import Feedback, FeedbackKind, question_hash, split
from trimtab.feedback import GuardSettings
from trimtab.pools import recorded_pool
from trimtab.store import Heard, Inference
from trimtab.types import Candidate, Question, Recorded, Sample, Task, Verdict

NUMERIC, FREE = tasks.numeric(), tasks.by_name("free_text")
GUARDS = GuardSettings(source_share=1.0)
K = FeedbackKind


def learnt_question(place: str = "learn", start: int = 0) -> str:
    """The first question that has this place."""
    for number in range(start, start + 1000):
        text = f"What is {number} + 1?"
        if split([Question("q", text)], {"learn": 0.7, "choose": 0.1, "hold": 0.2}, "feedback")[place]:
            return text
    raise AssertionError


QUESTION = learnt_question()


def answered(
    question: str = QUESTION, key: str = "i1", answers: tuple[str | None, ...] = ("4", "5", "4", None)
) -> Inference:
    drawn = tuple(
        Candidate(f"Way {at}. The answer is {each}." if each else f"Way {at}.", each)
        for at, each in enumerate(answers)
    )
    return Inference(key, 1.0, "demo", 1, question, (), drawn, drawn[0].text, "answered", 0)


def said(
    kind: FeedbackKind,
    text: str,
    value: str = "",
    *,
    source: str = "ann",
    about: str | None = "i1",
    question: str = QUESTION,
) -> Feedback:
    return Feedback(question, kind, text, value, source, None, about)


def lessons(
    *rows: Feedback, task: Task = NUMERIC, inferences: tuple[Inference, ...] = (answered(),), **more
) -> Taught:
    heard = [Heard(at, float(at), each) for at, each in enumerate(rows)]
    return taught(heard, {each.id: each for each in inferences}, task, GUARDS, **more)


SERVED = answered()
TEXTS = [each.text for each in SERVED.candidates]


def test_a_thumb_up_puts_all_candidates_with_that_answer_before_all_others():
    (lesson,) = lessons(said(K.VERDICT, TEXTS[0], "right")).lessons
    assert lesson.contrast.positives == (TEXTS[0], TEXTS[2])
    assert lesson.contrast.negatives == (TEXTS[1], TEXTS[3])


def test_where_answers_do_not_compare_the_text_alone_is_meant():
    (lesson,) = lessons(said(K.VERDICT, TEXTS[0], "right"), task=FREE).lessons
    assert lesson.contrast.positives == (TEXTS[0],)
    assert lesson.contrast.negatives == tuple(TEXTS[1:])


def test_a_thumb_down_alone_teaches_nothing_and_is_counted():
    found = lessons(said(K.VERDICT, TEXTS[0], "wrong"))
    assert (found.lessons, found.counts["one_sided"]) == ((), 1)


def test_a_demonstration_is_a_positive_with_every_candidate_that_ends_like_it():
    (lesson,) = lessons(said(K.CORRECTION, "Better. The answer is 5.")).lessons
    assert set(lesson.contrast.positives) == {"Better. The answer is 5.", TEXTS[1]}
    assert set(lesson.contrast.negatives) == {TEXTS[0], TEXTS[2], TEXTS[3]}


def test_of_a_preference_the_rejected_is_a_negative():
    (lesson,) = lessons(said(K.PREFERENCE, TEXTS[1], TEXTS[0])).lessons
    assert lesson.contrast.positives == (TEXTS[1],)
    assert {TEXTS[0], TEXTS[2]} <= set(lesson.contrast.negatives)


def test_feedback_without_a_served_answer_teaches_by_what_it_says_itself():
    (lesson,) = lessons(said(K.PREFERENCE, "The answer is 5.", "The answer is 6.", about=None)).lessons
    assert lesson.contrast.positives == ("The answer is 5.",)
    assert lesson.contrast.negatives == ("The answer is 6.",)


def test_no_text_stands_on_both_sides():
    rows = [said(K.VERDICT, TEXTS[0], "right"), said(K.VERDICT, TEXTS[2], "wrong", source="bob")]
    for lesson in lessons(*rows, said(K.CORRECTION, f" {TEXTS[1]} ", source="cid"), task=FREE).lessons:
        assert not {t.strip() for t in lesson.contrast.positives} & {
            t.strip() for t in lesson.contrast.negatives
        }


def test_a_question_is_learnt_from_or_chosen_by_or_held_out_whatever_else_was_said():
    places = {place: learnt_question(place) for place in ("learn", "choose", "hold")}
    inferences = tuple(answered(text, key) for key, text in places.items())
    rows = [said(K.VERDICT, TEXTS[0], "right", about=key, question=text) for key, text in places.items()]
    found = lessons(*rows, inferences=inferences)
    assert [each.contrast.question for each in found.lessons] == [places["learn"]]
    assert [each.question.text for each in found.choosing] == [places["choose"]]
    assert [each.question.text for each in found.held_out] == [places["hold"]]
    assert lessons(rows[2], inferences=inferences).held_out == found.held_out


def test_held_out_pools_carry_what_people_found():
    text = learnt_question("hold")
    (pool,) = lessons(
        said(K.VERDICT, TEXTS[0], "wrong", question=text), inferences=(answered(text),)
    ).held_out
    verdicts = [each.verdict for each in pool.candidates]
    assert verdicts == [Verdict.WRONG, Verdict.UNJUDGED, Verdict.WRONG, Verdict.UNJUDGED]


def test_nothing_is_learnt_on_questions_that_are_held_out_elsewhere():
    row = said(K.VERDICT, TEXTS[0], "right")
    assert lessons(row, frozen=[QUESTION]).lessons == ()


def test_who_is_wrong_where_the_answer_is_known_is_not_learnt_from():
    known = [Question(f"k{number}", f"Known {number}?", "1") for number in range(10)]
    lies = [
        said(K.VERDICT, "The answer is 7.", "right", source="eve", about=None, question=k.text) for k in known
    ]
    rows = [*lies, said(K.VERDICT, TEXTS[0], "right", source="eve")]
    assert lessons(*rows).lessons
    found = lessons(*rows, references=known)
    assert (found.lessons, found.guarded.weights["eve"]) == ((), 0.0)


def test_a_lesson_is_as_new_as_the_last_word_on_its_question():
    rows = [said(K.VERDICT, TEXTS[0], "right"), said(K.VERDICT, TEXTS[0], "right", source="bob")]
    assert [each.at for each in lessons(*rows).lessons] == [1.0]


def test_of_two_answers_to_a_question_the_later_is_shown():
    text = learnt_question("hold")
    early, late = answered(text, "early"), replace(answered(text, "late", ("9", "8")), created_at=2.0)
    rows = [
        said(K.VERDICT, late.candidates[0].text, "right", about="late", question=text),
        said(K.VERDICT, early.candidates[0].text, "wrong", about="early", question=text, source="bob"),
    ]
    (pool,) = lessons(*rows, inferences=(early, late)).held_out
    assert [each.answer for each in pool.candidates] == ["9", "8"]


def test_shadow_traffic_holds_nothing_that_was_learnt_from_and_each_question_once():
    held, fresh = learnt_question("hold"), learnt_question("learn", 500)
    inferences = (answered(), answered(held, "h"), answered(fresh, "f"), answered(fresh, "g"))
    rows = [said(K.VERDICT, TEXTS[0], "right"), said(K.VERDICT, TEXTS[0], "right", about="h", question=held)]
    found = lessons(*rows, inferences=inferences)
    pools = shadow(found, inferences)
    assert [pool.question.text for pool in pools] == [held, fresh]
    assert pools[0] is found.held_out[0]
    assert {each.verdict for each in pools[1].candidates} == {Verdict.UNJUDGED}


def test_everything_said_is_accounted_for():
    rows = [said(K.VERDICT, TEXTS[0], "right"), said(K.COMMENT, TEXTS[0], "thanks")]
    counts = lessons(*rows, rows[0]).counts
    assert (counts["given"], counts["repeated"], counts["comments"], counts["lessons"]) == (3, 1, 1, 1)


def test_recorded_answers_are_replayed_as_contrasts_where_they_have_two_sides():
    samples = (Sample("The answer is 2."), Sample("The answer is 3."))
    rows = [Recorded(Question("q", "1 + 1?", "2"), samples), Recorded(Question("r", "1 + 8?", "9"), samples)]
    (found,) = contrasts_of(recorded_pool(each, NUMERIC) for each in rows)
    assert (found.positives, found.negatives) == (("The answer is 2.",), ("The answer is 3.",))


@pytest.mark.parametrize("place", ["learn", "choose", "hold"])
def test_the_place_of_a_question_hangs_on_its_text_alone(place):
    text = learnt_question(place)
    assert question_hash(text) == question_hash(f"  {text} ")
    assert split([Question("other", f" {text} ")], {"learn": 0.7, "choose": 0.1, "hold": 0.2}, "feedback")[
        place
    ]
