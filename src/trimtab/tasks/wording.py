"""Answers that are words: exact text and free text."""

from __future__ import annotations

import re

from trimtab.tasks.statements import cleaned, last_line, statements

SPACES = re.compile(r"\s+")
AROUND = " \t\n\r\"'`“”‘’.,;:!?*$()[]{}"


def normalised(text: str) -> str | None:
    """Lower case, single spaces, no quotes or full stop around it; None when nothing is left."""
    return SPACES.sub(" ", cleaned(text)).strip(AROUND).casefold() or None


def final_wording(text: str) -> str | None:
    """What follows the last explicit statement, else the last line."""
    return stated_wording(text) or normalised(last_line(text))


def final_text(text: str) -> str | None:
    """What follows the last explicit statement, else the whole text: a free answer needs no form."""
    return stated_wording(text) or normalised(text)


def stated_wording(text: str) -> str | None:
    """What follows the last explicit statement ('The answer is …'), else None."""
    stated = next(statements(cleaned(text)), None)
    return None if stated is None else normalised(stated)
