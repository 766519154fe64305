"""Dates in text, as MM/DD/YYYY.

An impossible day (02/30) is still what was said, so it is read and is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from trimtab.tasks.statements import TAIL, cleaned, last_line, statements

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
NAME = (
    r"(?P<{0}>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
ORDINAL = r"(?:st|nd|rd|th)?"
REFUSAL = re.compile(r"\b(?:cannot|can't|unable to|not possible to|impossible to)\b", re.IGNORECASE)
DATE = re.compile(
    r"(?<![0-9/])(?:"
    r"(?P<month>[0-9]{1,2})(?P<sep>[/.-])(?P<day>[0-9]{1,2})(?P=sep)(?P<year>[0-9]{4})"
    r"|(?P<iyear>[0-9]{4})(?P<isep>[/.-])(?P<imonth>[0-9]{1,2})(?P=isep)(?P<iday>[0-9]{1,2})"
    rf"|\b{NAME.format('nmonth')}\s{{1,3}}(?P<nday>[0-9]{{1,2}}){ORDINAL}(?:\s{{0,3}},\s{{0,3}}|\s{{1,3}})(?P<nyear>[0-9]{{4}})"
    rf"|(?P<dday>[0-9]{{1,2}}){ORDINAL}(?:\s{{1,3}}of)?[\s-]{{1,3}}{NAME.format('dmonth')}[\s,-]{{1,3}}(?P<dyear>[0-9]{{4}})"
    r")(?![0-9/])",
    re.IGNORECASE,
)


def dates(text: str) -> Iterator[str]:
    """All full dates of the text as MM/DD/YYYY, in order."""
    for match in DATE.finditer(text):
        written = _canonical(match)
        if written is not None:
            yield written


def whole_date(text: str) -> str | None:
    """The canonical date when the text is nothing but one date, else None."""
    match = DATE.fullmatch(text.strip().removesuffix("."))
    return _canonical(match) if match else None


def final_date(text: str) -> str | None:
    """The date of the last explicit statement, else the last date in the text."""
    stated = stated_date(text)
    if stated is not None or REFUSAL.search(last_line(text)[:TAIL]):
        return stated
    return next(iter(reversed(list(dates(cleaned(text))))), None)


def stated_date(text: str) -> str | None:
    """The date of the last explicit statement ('the answer is …'), else None."""
    return next((date for tail in statements(cleaned(text)) for date in dates(tail)), None)


def _canonical(match: re.Match[str]) -> str | None:
    month, day, year = _parts(match)
    if month > 12 >= day:  # 24/12/1899 can only mean the day first
        month, day = day, month
    return f"{month:02d}/{day:02d}/{year:04d}" if 1 <= month <= 12 and 1 <= day <= 31 else None


def _parts(match: re.Match[str]) -> tuple[int, int, int]:
    groups = match.groupdict()
    for kind in ("", "i"):
        if groups[f"{kind}month"]:
            return int(groups[f"{kind}month"]), int(groups[f"{kind}day"]), int(groups[f"{kind}year"])
    kind = "n" if groups["nmonth"] else "d"
    return _month(groups[f"{kind}month"]), int(groups[f"{kind}day"]), int(groups[f"{kind}year"])


def _month(name: str) -> int:
    return MONTHS.index(name[:3].lower()) + 1
