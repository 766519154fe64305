"""Reading choices, yes or no, dates and words out of answers."""

from __future__ import annotations

import calendar
import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab import tasks
from trimtab.types import Question, Verdict

SOAP = Question(
    "1", "Where is soap sold?", answer="supermarket", choices=("jail", "sink", "supermarket", "a cup")
)
MONTHS = calendar.month_name[1:]


@pytest.mark.parametrize(
    "text",
    [
        "(C)",
        "C",
        "C.",
        "C)",
        "Answer: C",
        "supermarket",
        "C) supermarket.",
        "C: supermarket",
        "The answer is (C).",
        "The answer is supermarket.",
        "The answer is a supermarket.",
        "So the correct option is **C**.",
        "\\boxed{C}",
        "\\boxed{(C) \\text{supermarket}}",
        "\\(\\boxed{C: supermarket}\\)",
        "The answer is A) supermarket",  # both are said: the last stated one counts
        "A supermarket",
        "A sink is no shop. The correct answer is \\boxed{C}.",
        "Answer: (A)\nCritique: jails sell none.\nFinal Answer: C) supermarket",
        "(A) no, (B) no, (D) no.\nThe answer is C\nC) supermarket.",
        "A) jail\nB) sink\nC) supermarket\nD) a cup\nC.",
        "So the answer is (C). It is no sink, so the answer is not (B).",
    ],
)
def test_letter_and_text_name_the_same_choice(text: str) -> None:
    assert tasks.choice().final_answer(SOAP, text) == "supermarket"
    assert tasks.choice().verdict(SOAP, text) is Verdict.RIGHT


@pytest.mark.parametrize(
    "text",
    ["", "I do not know.", "The answer is either (A) jail or (B) sink.", "\\boxed{None of the above}", "(F)"],
)
def test_a_choice_that_is_not_made_is_unreadable(text: str) -> None:
    assert tasks.choice().verdict(SOAP, text) is Verdict.UNREADABLE


def test_a_reference_may_name_its_choice_by_letter() -> None:
    by_letter = Question("1", "?", answer="B", choices=("red", "blue"))
    assert tasks.choice().verdict(by_letter, "The answer is blue.") is Verdict.RIGHT


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("So the answer is no.", "no"),
        ("The answer is: **Yes**", "yes"),
        ("The answer: True.\nYes", "yes"),
        ("A) True\nA.", "yes"),
        ("A) True\nB) False\nSo I take the second.\nB.", "no"),
        ("Therefore, the answer is B) False. It is far away.", "no"),
        ("No, Snoop Dogg does not.", "no"),
        ("Yes at first.\nYes, I thought.\nThe answer is no", "no"),
        ("\\boxed{yes}", "yes"),
        ("#### False", "no"),
        (": No", "no"),
        ("Thus, Hamlet would not have owned one.", None),
        ("There is no evidence for it.", None),
        ("A) True, perhaps.\nnot applicable, as it depends on the year.", None),
        ("Nobody knows.", None),
    ],
)
def test_only_a_stated_yes_or_no_is_read(text: str, expected: str | None) -> None:
    assert tasks.boolean().final_answer(Question("1", "?"), text) == expected


@given(st.dates(min_value=dt.date(1000, 1, 1)))
def test_the_same_date_reads_the_same_however_it_is_written(day: dt.date) -> None:
    name = MONTHS[day.month - 1]
    forms = (
        f"{day.month}/{day.day}/{day.year}",
        f"{day.month:02d}/{day.day:02d}/{day.year}",
        day.isoformat(),
        f"{name} {day.day}, {day.year}",
        f"{name[:3]}. {day.day}th, {day.year}",
        f"{day.day} {name} {day.year}",
        f"the {day.day}th of {name} {day.year}",
    )
    question = Question("1", "?", answer=forms[0])
    for form in forms:
        text = f"Ten days after 01/05/1999 is more.\nThe date today is {form}."
        assert tasks.date().final_answer(question, text) == f"{day.month:02d}/{day.day:02d}/{day.year:04d}"
        assert tasks.date().verdict(question, text) is Verdict.RIGHT


def test_a_date_with_the_day_first_is_read_where_it_can_only_be_that() -> None:
    assert tasks.date().final_answer(Question("1", "?"), "It was 24/12/1899.") == "12/24/1899"


def test_an_impossible_day_was_said_and_is_wrong() -> None:
    question = Question("1", "?", answer="03/01/2021")
    assert tasks.date().verdict(question, "It is 01/01/2021.\nThe date is 02/30/2021.") is Verdict.WRONG


def test_a_refusal_to_name_a_date_is_unreadable() -> None:
    text = "From 12/31/1899 alone we cannot determine the date."
    assert tasks.date().final_answer(Question("1", "?"), text) is None


def test_exact_text_ignores_case_and_outer_punctuation() -> None:
    question = Question("1", "?", answer="New York")
    assert tasks.exact().verdict(question, "Let me see.\nThe answer is **new  york**.") is Verdict.RIGHT
    assert tasks.exact().verdict(question, "York") is Verdict.WRONG


def test_free_text_is_judged_only_where_it_equals_a_reference() -> None:
    question = Question("1", "?", correct_answers=("Nobody knows.",), incorrect_answers=("The moon.",))
    verdict = tasks.free_text().verdict
    assert verdict(question, "Hm.\nThe answer is: nobody knows") is Verdict.RIGHT
    assert verdict(question, "the moon") is Verdict.WRONG
    assert verdict(question, "It is unknown.") is Verdict.UNJUDGED
    assert verdict(question, " ") is Verdict.UNREADABLE
