"""Numbers in text: 'the same number however written' gives the same string.

Here lives the reading of one number and of the final number of an answer. Cues and markup are `statements`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache

from trimtab.tasks.statements import cleaned, statements

LONGEST = 100  # digits; longer runs are no answer, and Python refuses to convert the longest

WHOLE = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
NUMBER = re.compile(
    r"(?<![\w.,])"  # not the tail of another number or of a name
    r"(?P<open>[-+]?[ ]?[$€£¥]?[ ]?[-+]?)"
    r"(?:(?P<mixed>[0-9]{1,9}) (?P<mtop>[0-9]{1,9})/(?P<mbottom>[0-9]{1,9})(?![0-9/])"
    rf"|(?P<top>{WHOLE}(?:\.[0-9]+)?)/(?P<bottom>{WHOLE}(?:\.[0-9]+)?)(?![0-9/])"
    rf"|(?P<plain>{WHOLE}(?:\.[0-9]+)?|\.[0-9]+)(?:[eE](?P<exponent>[-+]?[0-9]{{1,2}})(?![0-9A-Za-z]))?)"
)
FRACTION = re.compile(r"\\[dtc]?frac\s{0,3}\{\s{0,3}([^{}\n]{1,40})\}\s{0,3}\{\s{0,3}([^{}\n]{1,40})\}")
VULGAR = {"½": " 1/2", "¼": " 1/4", "¾": " 3/4", "⅓": " 1/3", "⅔": " 2/3", "⅛": " 1/8", "⅕": " 1/5"}
HEADING = re.compile(
    r"[0-9]{1,2}[.)] +[A-Z*]"
)  # "#### 1. Count the eggs" opens a section, it answers nothing

SPELLED = {
    "zero": 0,
    "one": 1,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "eleven": 11,
    "twelve": 12,
    "thirteen": 13,
    "fourteen": 14,
    "fifteen": 15,
    "sixteen": 16,
    "seventeen": 17,
    "eighteen": 18,
    "nineteen": 19,
    "twenty": 20,
    "thirty": 30,
    "forty": 40,
    "fifty": 50,
    "sixty": 60,
    "seventy": 70,
    "eighty": 80,
    "ninety": 90,
}
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
WORDS = re.compile(r"[a-z]+")


def canonical(value: Fraction) -> str:
    """The one string of a value: a plain decimal where that is exact, else the reduced fraction."""
    places = _places(value.denominator)
    if places is None:
        return f"{value.numerator}/{value.denominator}"
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    sign = "-" if value < 0 else ""
    return sign + (f"{digits[:-places]}.{digits[-places:]}" if places else digits)


def numbers(text: str) -> Iterator[Fraction]:
    """The values of all numbers written in digits, in order; a fraction over zero is none."""
    for match in NUMBER.finditer(_plain(text)):
        value = _value(match)
        if value is not None:
            yield value


def whole_number(text: str) -> str | None:
    """The canonical number when the text is nothing but one number (with currency or percent), else None."""
    plain = _plain(text).strip().removesuffix(".").removesuffix("%").strip()
    match = NUMBER.fullmatch(plain)
    value = _value(match) if match else None
    return None if value is None else canonical(value)


def final_number(text: str) -> str | None:
    """The canonical final number: the last explicit statement of one, else the last number in the text."""
    plain = _plain(text)
    stated = stated_number(text)
    if stated is not None:
        return stated
    values = list(numbers(plain))
    return canonical(values[-1]) if values else None


def stated_number(text: str) -> str | None:
    """The canonical number of the last explicit statement ('####', boxed, 'the answer is'), else None."""
    return _stated(text.rstrip())


@lru_cache(maxsize=1024)
def _stated(text: str) -> str | None:
    """A search asks of each chain several times, with and without the line break that ends its last step."""
    for tail in statements(_plain(text)):
        if HEADING.match(tail):
            continue
        value = _of_statement(tail)
        if value is not None:
            return canonical(value)
    return None


def _of_statement(tail: str) -> Fraction | None:
    """'3 + 4 = 7 cups' is 7; otherwise the first number; otherwise the number its words spell."""
    first = next(numbers(tail.rpartition("=")[2]), None)
    if first is None:
        first = next(numbers(tail), None)
    return _spelled(tail) if first is None else first


def _plain(text: str) -> str:
    if not text.isascii():
        for sign, written in VULGAR.items():
            text = text.replace(sign, written)
    return cleaned(FRACTION.sub(r" \1/\2", text) if "\\" in text else text)


def _value(match: re.Match[str]) -> Fraction | None:
    if len(match.group()) > LONGEST:
        return None
    groups = match.groupdict()
    value = _magnitude(groups)
    return None if value is None else (-value if _is_negative(match) else value)


def _magnitude(groups: dict[str, str | None]) -> Fraction | None:
    if groups["mixed"]:
        part = _quotient(groups["mtop"] or "", groups["mbottom"] or "")
        return None if part is None else int(groups["mixed"]) + part
    if groups["top"]:
        return _quotient(groups["top"], groups["bottom"] or "")
    return _decimal(groups["plain"] or "") * Fraction(10) ** int(groups["exponent"] or 0)


def _quotient(top: str, bottom: str) -> Fraction | None:
    divisor = _decimal(bottom)
    return _decimal(top) / divisor if divisor else None


def _decimal(written: str) -> Fraction:
    return Fraction(written.replace(",", "").replace(" ", ""))


def _is_negative(match: re.Match[str]) -> bool:
    """True for '-5', '-$5' and '$-5'; the dash of '20-5', '20 - 5' and '(3)-5' subtracts."""
    opened = match.group("open")
    if "-" not in opened:
        return False
    before = match.string[max(0, match.start() - 3) : match.start()]
    is_attached = "- " not in opened
    if before.endswith(" ") and is_attached:  # "was -3" is negative, "20 -5" is not
        return not before.rstrip().endswith((*"0123456789)]}%",))
    before = before.rstrip()
    return not (before and (before[-1].isalnum() or before[-1] in ")]}%"))


def _places(denominator: int) -> int | None:
    """How many decimals write 1/denominator exactly; None when none do."""
    twos = fives = 0
    while denominator % 2 == 0:
        denominator, twos = denominator // 2, twos + 1
    while denominator % 5 == 0:
        denominator, fives = denominator // 5, fives + 1
    return max(twos, fives) if denominator == 1 else None


def _spelled(tail: str) -> Fraction | None:
    """The number that words spell at its first run of number words ('seventy six' is 76)."""
    total, current, seen = 0, 0, False
    for word in WORDS.findall(tail.lower()):
        if word in SPELLED:
            current += SPELLED[word]
        elif word == "hundred" and seen:
            current *= 100
        elif word in SCALES and seen:
            total, current = total + current * SCALES[word], 0
        elif seen and word != "and":
            break
        else:
            continue
        seen = True
    return Fraction(total + current) if seen else None
