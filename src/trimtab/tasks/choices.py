"""Multiple choice: a letter or the text of a choice; the canonical answer is the choice's text.

When an answer says both, the last stated one counts; an explicit final statement wins over a mere mention.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

from trimtab.tasks.statements import TAIL, cleaned, last_line, statements

LEAD = r"[\s\W]{0,6}(?:(?:the\s)?(?:correct\s|best\s)?(?:option|choice|letter|answer)\W{1,3}){0,2}"
BRACKETED = re.compile(rf"{LEAD}\(([A-Ja-j])\)")
MARKED = re.compile(rf"{LEAD}([A-J])(?:\s{{0,2}}[).:,}}\]]|\s[-=]|\W*$)")
BARE = re.compile(rf"{LEAD}([A-J])(?=\s)")
MENTION = re.compile(r"\(([A-J])\)|(?<![\w'])([A-J])\)|\b(?:option|choice|answer)\s([A-J])\b")
DENIED = re.compile(r"\W{0,6}(?:not|none|neither)\b", re.IGNORECASE)
SEVERAL = re.compile(r"(?:,|\band\b|\bor\b)\s{0,2}(?:and |or )?\(?[A-J](?:[).,}\]]|\W{0,3}$)")
SPACES = re.compile(r"[\W_]+")


def final_choice(choices: Sequence[str], text: str) -> str | None:
    """The text of the choice that the answer ends on, or None."""
    index = _final_index(tuple(normalised(choice) for choice in choices), cleaned(text))
    return None if index is None else choices[index]


def stated_choice(choices: Sequence[str], text: str) -> str | None:
    """The text of the choice in the last explicit statement, else None."""
    keys = tuple(normalised(choice) for choice in choices)
    index = next(_resolved(keys, statements(cleaned(text))), None)
    return None if index is None else choices[index]


def named_choice(choices: Sequence[str], name: str) -> str | None:
    """The choice that a reference names by its text or, failing that, by its letter."""
    keys = [normalised(choice) for choice in choices]
    if normalised(name) in keys:
        return choices[keys.index(normalised(name))]
    index = _letter_index(len(choices), name)
    return None if index is None or len(normalised(name)) > 1 else choices[index]


def normalised(text: str) -> str:
    """Lower case, words only, single spaces: how two wordings are held against each other."""
    return SPACES.sub(" ", text.casefold()).strip()


def _final_index(keys: tuple[str, ...], text: str) -> int | None:
    line = last_line(text)
    readings = itertools.chain(
        _resolved(keys, statements(line)),
        _found(_closing_choice(keys, line)),
        _resolved(keys, statements(text)),
        _found(_only_mention(keys, line[-TAIL:])),
    )
    return next(readings, None)


def _found(index: int | None) -> Iterator[int]:
    return iter(() if index is None else (index,))


def _closing_choice(keys: tuple[str, ...], line: str) -> int | None:
    """The choice that a last line is, or that its marked letter names; prose about a choice is neither."""
    whole = _without_article(normalised(line))
    is_text = any(whole == _without_article(key) for key in keys if key)
    is_marked = BRACKETED.match(line) or MARKED.match(line)
    return _opening_choice(keys, line[:TAIL]) if is_text or is_marked else None


def _resolved(keys: tuple[str, ...], tails: Iterator[str]) -> Iterator[int]:
    for tail in tails:
        if DENIED.match(tail):  # "so the answer is not (E)"
            continue
        index = _opening_choice(keys, tail)
        if index is None:
            index = _only_mention(keys, tail)
        if index is not None:
            yield index


def _opening_choice(keys: tuple[str, ...], tail: str) -> int | None:
    """The choice that a statement opens with: text, or letter unless another choice's text follows."""
    by_text = _opening_text(keys, normalised(tail))
    if by_text is not None:
        return by_text
    match = BRACKETED.match(tail) or MARKED.match(tail) or BARE.match(tail)
    if match is None or SEVERAL.search(tail, match.end(), match.end() + TAIL):
        return None
    index = ord(match[1].upper()) - ord("A")
    rest = normalised(tail[match.end() :])
    corrected = next((other for other, key in enumerate(keys) if key and key == rest), None)
    if corrected is not None:
        return corrected
    is_article = match.re is BARE and match[1] == "A" and rest and not rest.startswith(keys[0] or " ")
    return index if index < len(keys) and not is_article else None


def _opening_text(keys: tuple[str, ...], tail: str) -> int | None:
    """The longest choice that the words open with, an article before either aside."""
    bare = _without_article(tail)
    opened = [
        (len(key), -index)
        for index, key in enumerate(keys)
        if len(key) > 1 and f"{bare} ".startswith(f"{_without_article(key)} ")
    ]
    return -max(opened)[1] if opened else None


def _without_article(words: str) -> str:
    return re.sub(r"^(?:the|an|a) (?=.)", "", words)


def _only_mention(keys: tuple[str, ...], words: str) -> int | None:
    """The one choice that the words mention; None when they mention several or none."""
    letters = {ord(next(filter(None, found))) - ord("A") for found in MENTION.findall(words)}
    padded = f" {normalised(words)} "
    texts = {index for index, key in enumerate(keys) if len(key) > 1 and f" {key} " in padded}
    longest = {i for i in texts if not any(i != j and keys[i] in keys[j] for j in texts)}
    mentioned = {index for index in letters if index < len(keys)} or longest
    return mentioned.pop() if len(mentioned) == 1 else None


def _letter_index(count: int, name: str) -> int | None:
    match = BRACKETED.fullmatch(name.strip()) or MARKED.fullmatch(name.strip())
    index = ord(match[1].upper()) - ord("A") if match else count
    return index if index < count else None
