"""Recorded rows set aside on disk: memory holds their questions, not the texts of their answers.

The file that rows come from is read once, as it may be a pipe; what they mean is known once all were read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import IO

from trimtab.types import Question, Recorded, Sample


class Spooled:
    """Rows whose answers lie in the file."""

    def __init__(self, rows: Iterable[Recorded], file: IO[str]) -> None:
        self._file = file
        self.questions = tuple(self._set_aside(row) for row in rows)

    def _set_aside(self, row: Recorded) -> Question:
        samples = [(each.text, each.correct, each.model) for each in row.samples]
        self._file.write(json.dumps(samples) + "\n")
        return row.question

    def __iter__(self) -> Iterator[Recorded]:
        """The rows in their order, each read as it is asked for; one reader at a time."""
        self._file.seek(0)
        for question, line in zip(self.questions, self._file, strict=True):
            yield Recorded(question, tuple(Sample(*sample) for sample in json.loads(line)))


@contextmanager
def spooled(rows: Iterable[Recorded]) -> Iterator[Spooled]:
    """The rows, set aside for as long as the context lasts."""
    with TemporaryFile("w+", encoding="utf-8") as file:
        yield Spooled(rows, file)
