r"""Where an answer says that it now gives its final answer: '####', \boxed{…}, 'the answer is …'.

Here lives the finding of such places and the cleaning of markup; what stands there is read by the module of
its kind (numbers, dates, choices, booleans). Every pattern is linear in the length of the text: repeats are
bounded, and no more than TAIL characters are read after a cue.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

TAIL = 300  # a final answer stands close to its cue; bounding the tail keeps reading linear
READ = 100  # how many statements are tried, from the last; no real answer makes as many

CUE = re.compile(
    r"\banswers?\b[^.\n:=]{0,60}?"
    r"(?:\b(?:is|are|was|would be|will be|should be|must be|becomes)\b|[:=])(?:\s{0,3}[:=])?"
    r"|\b(?:correct|right|best|final|suitable|appropriate|likely|logical)[ \t]{1,3}"
    r"(?:one|option|choice|result|statement)\b"
    r"[^.\n:=]{0,60}?(?:\b(?:is|are|would be|will be|should be|must be)\b|[:=])(?:\s{0,3}:)?"
    r"|^[ \t]{0,3}A:",
    re.IGNORECASE | re.MULTILINE,
)
# A match of CUE holds one of these; looking for them first passes over other steps ten times as fast.
SAID = ("answer", "a:", "correct", "right", "best", "final", "suitable", "appropriate", "likely", "logical")
HASHES = re.compile(r"(?<!#)####(?!#)")
BOXED = re.compile(r"\\f?box(?:ed)?\s{0,3}\{")

WORDLESS = re.compile(r"\\(?:left|right|quad|qquad|displaystyle|,|;|!|:)(?![a-zA-Z])|\*\*|__")
TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|boldsymbol)\s{0,3}(?=\{)")
MATH_FENCE = re.compile(r"\\[()\[\]]|(?<!\\)\\ ")
ESCAPED = re.compile(r"\\([$%#&_])")
CALCULATION = re.compile(r"<<[^<>\n]*>>")  # GSM8K's calculator notes: "10 + 5 = <<10+5=15>>15"
MINUS = str.maketrans(
    {"\u2212": "-", "\u2013": "-", "\u2012": "-", "\u00a0": " ", "\u202f": " ", "\u2009": " "}
)
THIN_GROUPS = re.compile(r"(?<=[0-9])[\u00a0\u202f\u2009](?=[0-9]{3}(?![0-9]))")


def cleaned(text: str) -> str:
    """The text without markup that changes no value: bold, LaTeX text commands, escapes, calculator notes."""
    if not text.isascii():
        text = THIN_GROUPS.sub("", text).translate(MINUS)
    text = CALCULATION.sub("", text).replace("{,}", ",") if "<<" in text or "{" in text else text
    if "\\" not in text:  # most text: all that is left is bold
        return text.replace("**", "").replace("__", "")
    text = MATH_FENCE.sub(" ", TEXT_COMMAND.sub("", WORDLESS.sub("", text)))
    return ESCAPED.sub(r"\1", text)


def statements(text: str) -> Iterator[str]:
    """What stands after each cue, the last cue first, at most TAIL characters each."""
    found = [(match.end(), _after(text, match.end())) for match in _cues(text)]
    if "####" in text:
        found += [(match.end(), _after(text, match.end())) for match in HASHES.finditer(text)]
    if "{" in text:
        closing = _closing_braces(text)
        found += [(match.end(), _inside(text, match.end(), closing)) for match in BOXED.finditer(text)]
    return (tail for _, tail in sorted(found, reverse=True)[:READ])


def _cues(text: str) -> Iterator[re.Match[str]]:
    folded = text.casefold()
    return CUE.finditer(text) if any(word in folded for word in SAID) else iter(())


def last_line(text: str) -> str:
    """The last line that is not blank."""
    return text.rstrip().rpartition("\n")[2].strip()


def _after(text: str, start: int) -> str:
    """The rest of the line, or the next line that holds something when the cue ends its own."""
    return text[start : start + TAIL].lstrip(" \t\r\n*:").partition("\n")[0]


def _inside(text: str, start: int, closing: dict[int, int]) -> str:
    return text[start : min(closing.get(start - 1, start + TAIL), start + TAIL)]


def _closing_braces(text: str) -> dict[int, int]:
    closing: dict[int, int] = {}
    opened: list[int] = []
    for match in re.finditer(r"[{}]", text):
        if match.group() == "{":
            opened.append(match.start())
        elif opened:
            closing[opened.pop()] = match.start()
    return closing
