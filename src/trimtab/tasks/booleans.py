"""Yes or no: only what is stated counts. 'Thus, Hamlet would not …' states neither and is unreadable."""

from __future__ import annotations

import re

from trimtab.tasks.statements import BOXED, CUE, HASHES, cleaned, last_line

VALUES = {"yes": "yes", "true": "yes", "no": "no", "false": "no"}
WORD = r"(?P<{0}>yes|no|true|false)\b"
HEDGE = (
    r"(?:(?:that|probably|likely|most likely|definitely|simply|technically|clearly"
    r"|therefore|thus|so)\W{1,3})?"
)
LETTER = r"(?:\(?[AB]\)?[).:,]?\W{0,4})?"
CUED = re.compile(
    rf"(?:{CUE.pattern}|{HASHES.pattern}|{BOXED.pattern})"
    rf"[\s\W]{{0,12}}{HEDGE}{LETTER}{WORD.format('cued')}"
    # a line or a sentence that opens with the word and stops there or goes on after a comma
    rf"|(?:^|(?<=[.!?:]\s))[ \t\W]{{0,6}}{LETTER}{WORD.format('opening')}"
    r"(?=[\s\W]{0,3}(?:[,;.!:)*]|$|\n| - ))"
    # "the statement is false"
    r"|\b(?:statement|claim|question|premise|it)\b[^.\n]{0,40}?\b(?:is|would be)\s{1,2}"
    rf"{WORD.format('judged')}(?=\W{{0,3}}(?:[.,;]|$))",
    re.IGNORECASE | re.MULTILINE,
)
# A last line that takes back what was said: "not applicable, as it depends on …"
WITHDRAWN = re.compile(
    r"\W{0,6}(?:not (?:applicable|definitive|clear|certain|enough|possible|sure)"
    r"|neither|inconclusive|uncertain|unclear"
    r"|unknown|undetermined|indeterminate|insufficient|dependent|(?:it )?depends|n/a|cannot)\b",
    re.IGNORECASE,
)
LISTED = re.compile(r"^[ \t\W]{0,4}([AB])\)?[).:]\s{0,3}(yes|no|true|false)\b", re.IGNORECASE | re.MULTILINE)
LONE_LETTER = re.compile(r"\W{0,6}([AB])\W{0,6}")


def whole_boolean(text: str) -> str | None:
    """'yes' or 'no' when the text is one of yes, no, true and false, else None."""
    return VALUES.get(text.strip().rstrip(".").lower())


def final_boolean(text: str) -> str | None:
    """'yes' or 'no', as stated last; None when neither is stated."""
    plain = cleaned(text)
    if WITHDRAWN.match(last_line(plain)):
        return None
    by_letter = _by_letter(plain)
    if by_letter is not None:
        return by_letter
    stated = [_word(match) for match in CUED.finditer(plain)]
    return VALUES[stated[-1].lower()] if stated else None


def stated_boolean(text: str) -> str | None:
    """The value of the last explicit statement ('the answer is yes'), else None."""
    cued = [match["cued"] for match in CUED.finditer(cleaned(text)) if match["cued"]]
    return VALUES[cued[-1].lower()] if cued else None


def _word(match: re.Match[str]) -> str:
    return match["cued"] or match["opening"] or match["judged"]


def _by_letter(text: str) -> str | None:
    """What a lone last 'A.' means when the answer itself lists 'A) True'."""
    lone = LONE_LETTER.fullmatch(last_line(text))
    if lone is None:
        return None
    listed = {letter.upper(): word.lower() for letter, word in LISTED.findall(text)}
    return VALUES.get(listed.get(lone[1].upper(), ""))
