"""The closed vocabulary of the embedded black box: pieces of text and their numbers, there and back.

A piece is a word or one digit with the space before it, a mark, or one white space: joined, the pieces of a
text are the text again. What the vocabulary does not hold becomes `<unk>`, and only then something is lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

BOS, EOS, UNK = "<bos>", "<eos>", "<unk>"
SPECIAL = (BOS, EOS, UNK)

_PIECE = re.compile(r" ?[A-Za-z]+| ?[0-9]| ?[^\sA-Za-z0-9]|\s")
_DIGITS = tuple(space + digit for space in ("", " ") for digit in "0123456789")


class Vocabulary:
    """Pieces in the order of their numbers."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self.pieces = tuple(pieces)
        self._number = {piece: number for number, piece in enumerate(self.pieces)}
        self.bos, self.eos, self.unk = (self._number[special] for special in SPECIAL)

    @classmethod
    def of(cls, texts: Iterable[str]) -> Vocabulary:
        """The vocabulary that holds every piece of these texts, and all digits."""
        seen = {piece for text in texts for piece in split(text)}
        return cls([*SPECIAL, *sorted(seen.union(_DIGITS, ["\n"]))])

    def __len__(self) -> int:
        return len(self.pieces)

    def encode(self, text: str) -> list[int]:
        """The numbers of the text's pieces; unknown pieces get the number of `<unk>`."""
        return [self._number.get(piece, self.unk) for piece in split(text)]

    def decode(self, numbers: Iterable[int]) -> str:
        """The text of these pieces."""
        return "".join(self.pieces[number] for number in numbers)


def split(text: str) -> list[str]:
    """The pieces of a text; joined they are the text again."""
    return _PIECE.findall(text)
