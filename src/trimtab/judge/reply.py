"""Reading which letters a judge's reply names. Lenient about the form, strict about the sense."""

from __future__ import annotations

import re
from collections.abc import Sequence

OPENING = r"[\s\"'`*_(\[{<]*(?:(?:answers?|candidates?|options?|responses?|letters?)\b[\s\"'`*_(\[:]*)?"
BETWEEN = r"[\s\"'`*_)\]}]*(?:,|&|;|>|\band\b)\s*(?:and\b)?[\s\"'`*_(\[{]*"
# After the letters: the end, a closing mark, or a reason. Any other word means that no letters were meant
# ("BEST: A clear win"), and "or", a stroke or a range ("A-C") that no choice was made.
CLOSING = r"[\s\"'`*_)\]}>]*(?:$|[.!;:\n]|\s[—–-]+\s+[a-z]{3}|,?\s*(?:because|since|as|for)\b)"
MARKER = re.compile(
    r"\bbest\b[\"'`*_]*(?:\s+(?:answers?|candidates?|options?|responses?|ones?))?\s*(?:[:=]|\bis\b|\bare\b)",
    re.IGNORECASE,
)


def chosen_labels(reply: str, known: Sequence[str], count: int) -> tuple[str, ...]:
    """The labels that the reply names as best, in its order; empty when it cannot be read without guessing.

    Read are 'BEST: C', 'The best answer is (C).', '{"best": ["C", "A"]}', '["C", "A"]' and a bare 'C'.
    Refused are unknown labels, more labels than asked for, a choice left open ('A or B') and statements
    that contradict each other. Fewer than asked for are taken: the best are named first.
    """
    marks = [match.end() for match in MARKER.finditer(reply)]
    found = {_listed(reply[at:], known) for at in marks} if marks else {_listed(reply, known, is_whole=True)}
    found.discard(())
    if len(found) != 1:
        return ()
    (named,) = found
    return named if len(named) <= count else ()


def _listed(text: str, known: Sequence[str], *, is_whole: bool = False) -> tuple[str, ...]:
    """The labels listed at the start of the text; with `is_whole`, nothing else may stand in it."""
    label = "(?:" + "|".join(sorted(known, key=len, reverse=True)) + r")(?![\w'])"
    closing = r"[\s\"'`*_)\]}>.]*$" if is_whole else CLOSING
    match = re.match(f"{OPENING}({label}(?:{BETWEEN}{label})*){closing}", text, re.IGNORECASE)
    named = re.findall(rf"\b{label}", match[1], re.IGNORECASE) if match else []
    return tuple(dict.fromkeys(name.upper() for name in named if name.upper() in known))
