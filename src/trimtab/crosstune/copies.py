"""Which texts say the same as one that is there already: equal ones, and near copies.

Words only: nothing is read by a model here. What becomes of a copy is `augmentation`'s to decide.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum

Text = str | tuple[str, str]
Grams = frozenset[tuple[str, ...]]

NEAR = 0.5  # Jaccard: one word changed in a sentence of twelve is a near copy, two words are not
GRAM = 3  # words
# Words are runs of letters and digits; where none are put between words, every sign is one.
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"
)


class Likeness(StrEnum):
    """What a text is beside those that are there."""

    NEW = "new"
    DUPLICATE = "duplicate"  # the same words in the same order
    NEAR_COPY = "near_copy"


def words(text: str) -> tuple[str, ...]:
    """The words of a text, whatever their case, punctuation and Unicode form; one of signs alone is one."""
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", text).casefold())) or (text.strip(),)


def grams(text: Text) -> Grams:
    """The runs of three words of a text, or all its words where it has fewer; a pair's are told apart."""
    parts = (text,) if isinstance(text, str) else text
    return frozenset(gram for side, part in enumerate(parts) for gram in _grams_of(words(part), side))


def _grams_of(said: tuple[str, ...], side: int) -> Iterable[tuple[str, ...]]:
    last = max(1, len(said) - GRAM + 1)
    return ((str(side), *said[at : at + GRAM]) for at in range(last))


def jaccard(one: Grams, other: Grams) -> float:
    """The share of what both have in what either has; 0 where neither has anything."""
    either = len(one | other)
    return len(one & other) / either if either else 0.0


class Copies:
    """Texts that are there, so that a copy of one is found without comparing it with each.

    Only texts that share a run of three words can be alike at all: they are found by those runs.

    Args:
        near: from this Jaccard likeness on, a text is a near copy.
    """

    def __init__(self, texts: Iterable[Text] = (), *, near: float = NEAR) -> None:
        self._near = near
        self._exact: set[tuple[tuple[str, ...], ...]] = set()
        self._sizes: list[int] = []
        self._with: dict[tuple[str, ...], list[int]] = {}
        for text in texts:
            self.add(text)

    def add(self, text: Text) -> None:
        """The text is there from now on."""
        found, number = grams(text), len(self._sizes)
        self._exact.add(_exactly(text))
        self._sizes.append(len(found))
        for gram in found:
            self._with.setdefault(gram, []).append(number)

    def likeness(self, text: Text) -> Likeness:
        """What the text is beside those that are there."""
        if _exactly(text) in self._exact:
            return Likeness.DUPLICATE
        own = grams(text)
        shared = Counter(number for gram in own for number in self._with.get(gram, ()))
        most = max((both / (len(own) + self._sizes[at] - both) for at, both in shared.items()), default=0.0)
        return Likeness.NEAR_COPY if most >= self._near else Likeness.NEW


def _exactly(text: Text) -> tuple[tuple[str, ...], ...]:
    parts = (text,) if isinstance(text, str) else text
    return tuple(words(part) for part in parts)
