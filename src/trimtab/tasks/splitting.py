"""How an answer falls into steps; joined without a separator the steps are the text again."""

from __future__ import annotations

import itertools
import re

# A sentence ends at . ! ? (with closing quotes or brackets) before white space and something that can open
# the next one, so '3.5', '$1.50' and 'e.g. this' are never cut; the look-behind keeps '.....' linear.
BOUNDARY = re.compile(r"\n\s*|(?<![.!?])[.!?]++[\"'”’)\]*]*+[ \t]++(?=[^a-z\s])")
NEWLINES = re.compile(r"[^\n]*\n|[^\n]+\Z")
SHORTENED = re.compile(
    r"dr|mr|mrs|ms|prof|st|jr|sr|vs|etc|e\.g|i\.e|cf|fig|eq|approx|dept|gen|sen|rep|gov|col|capt|lt|sgt|inc|ltd"
    r"|co|corp|mt|ft|oz|lbs?|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|u\.s|u\.k|[ap]\.m",
    re.IGNORECASE,
)
WORD_BEFORE = re.compile(r"[\w.]*\Z")
WORD_LENGTH = 12  # longer than any abbreviation above


def lines(text: str) -> tuple[str, ...]:
    r"""The lines of the text, each with its '\n'."""
    return tuple(NEWLINES.findall(text))


def sentences(text: str) -> tuple[str, ...]:
    """The sentences and lines of the text; white space stays with the step before it."""
    ends = [match.end() for match in BOUNDARY.finditer(text) if _is_end(text, match)]
    cuts = [0, *ends, len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(cuts) if end > start]
    if len(pieces) > 1 and not pieces[0].strip():
        pieces[:2] = ["".join(pieces[:2])]  # leading white space is no step of its own
    return tuple(pieces)


def _is_end(text: str, match: re.Match[str]) -> bool:
    if match.group()[0] != ".":
        return True
    found = WORD_BEFORE.search(text[max(0, match.start() - WORD_LENGTH) : match.start()])
    word = found.group() if found else ""
    before = match.start() - len(word)
    opens_line = before == 0 or text[before - 1] == "\n"
    is_numbering = word.isdigit() and opens_line  # "1. Count the eggs"
    is_initial = len(word) == 1 and word.isalpha() and word.isupper() and word != "I"
    return not (is_numbering or is_initial or SHORTENED.fullmatch(word) is not None)
