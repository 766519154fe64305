"""Reading numbers out of answers."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab import tasks
from trimtab.tasks.numbers import _stated
from trimtab.types import Question

ASKED = Question("1", "How many?", answer="1000")
READ = tasks.numeric().final_answer

AMOUNTS = st.decimals(min_value=-999_999_999, max_value=999_999_999, places=4, allow_nan=False)
STYLES = (
    "{plain}",
    "{commas}",
    "{trailing}",
    "${commas}",
    "€{plain}",
    "**{commas}**",
    "{plain}%",
    "{plain} percent",
    "{commas} cups",
    "\\boxed{{{plain}}}",
    "\\boxed{{{commas} \\text{{ cups}}}}",
    "\\(\\boxed{{\\${commas}}}\\)",
    "{unicode}",
)
FRAMES = (
    "{}",
    "The answer is {}.",
    "It was 7 and 8.\nThe answer is {} in all 3 cases.",
    "5 * 5 = 25\n#### {}",
    "#### The answer is {}",
    "5 * 5 = 25.\nSo they have {}",
    "Final Answer: {}\n",
)


def written(value: Decimal, style: str) -> str:
    plain = f"{value:f}"
    return style.format(
        plain=plain,
        commas=f"{value:,f}",
        trailing=f"{plain}0",
        unicode=plain.replace("-", "\u2212"),
    )


@given(AMOUNTS, st.sampled_from(STYLES), st.sampled_from(FRAMES))
def test_the_same_number_reads_the_same_however_it_is_written(value: Decimal, style: str, frame: str) -> None:
    expected = READ(ASKED, f"The answer is {value.normalize():f}")
    assert READ(ASKED, frame.format(written(value, style))) == expected
    assert expected is not None
    assert Decimal(expected) == value


@given(st.integers(-10_000, 10_000), st.integers(1, 10_000), st.integers(2, 9))
def test_a_fraction_reads_the_same_in_lowest_terms_and_not(top: int, bottom: int, factor: int) -> None:
    simple = READ(ASKED, f"#### {top}/{bottom}")
    assert READ(ASKED, f"The answer is {top * factor}/{bottom * factor}.") == simple
    latex = f"\\boxed{{{'-' if top < 0 else ''}\\dfrac{{{abs(top)}}}{{{bottom}}}}}"
    assert READ(ASKED, latex.replace("-\\dfrac{", "\\dfrac{-")) == simple


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is 12.50", "12.5"),
        ("The answer is 1/2.", "0.5"),
        ("The answer is 1 1/2 dozen", "1.5"),
        ("The answer is 2½ cups", "2.5"),
        ("The answer is $1,000.", "1000"),
        ("The answer is -$10,000", "-10000"),
        ("a profit of $\\boxed{-$10,000}$.", "-10000"),
        ("The temperature was -3°C.", "-3"),
        ("They paid 20-5", "5"),
        ("20 - 5 = 15 apples", "15"),
        ("#### 50%", "50"),
        ("#### 1e3", "1000"),
        ("\\boxed{\\frac{1}{3}}", "1/3"),
        ("The answer is 3 + 4 = 7 cups", "7"),
        ("The answer is \n\n4.5 hours", "4.5"),
        ("The answer is seventy six.", "76"),
        ("The answer is two hundred ninety six dollars.", "296"),
        ("10 + 5 = <<10+5=15>>15", "15"),
        ("\\boxed{12} because 3 * 4 = 13 - 1", "12"),
        ("The answer is 3.\nWait. The answer is 4.", "4"),
        ("#### 12\n#### 1. Check the work", "12"),
        ("The answer is 1{,}000", "1000"),
        ("The answer is 1\u202f000", "1000"),
        ("The answer is 0", "0"),
        ("The answer is -0.0", "0"),
        ("The answer is .5", "0.5"),
        ("nothing to read", None),
        ("The answer is 5/0", None),
    ],
)
def test_written_forms_of_real_answers_are_read(text: str, expected: str | None) -> None:
    assert READ(ASKED, text) == expected


@given(
    st.text("The answer is:3.\n #{}\\boxed=-*½", max_size=60), st.sampled_from(["\n", "  \n\n", "\t", "\r\n"])
)
def test_white_space_at_the_end_states_nothing(text: str, blank: str) -> None:
    read = _stated.__wrapped__
    assert read(text.rstrip() + blank) == read(text.rstrip())


def test_an_absurdly_long_digit_string_is_no_answer() -> None:
    assert READ(ASKED, "The answer is " + "9" * 10_000) is None
