"""Scores that were worked out before, a file for each scorer: an evaluation goes on, and repeats quickly.

A score is known by the question and the text it is of. The file grows part by part; a run that was killed
loses the part it was at. Which scorer a file is of, and where it stands, its maker says.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from trimtab.errors import InputError
from trimtab.types import Scorer

PART = 256  # pairs scored between two writes: a second or so on one core

Pair = tuple[str, str]
Report = Callable[[int, int], None]


class KeptScores:
    """A scorer that works nothing out twice, in this run or another.

    Args:
        make: makes the scorer within; not called while every score asked for is kept.
        path: the file of its scores, made if missing.
        report: told how many of the missing scores are worked out, of how many.

    Raises:
        InputError: the file is damaged; a last line cut short is no damage, and is dropped.
    """

    def __init__(
        self, make: Callable[[], Scorer], path: Path, report: Report = lambda done, total: None
    ) -> None:
        self._make = make
        self._path = path
        self._report = report
        self._scorer: Scorer | None = None
        self._kept = _read(path)

    def score(self, question: str, texts: Sequence[str]) -> list[float]:
        """One score a text, in order."""
        return self.score_pairs([(question, text) for text in texts])

    def score_pairs(self, pairs: Sequence[Pair]) -> list[float]:
        """One score a pair, in order; the missing ones are worked out and kept part by part."""
        keys = [_key(pair) for pair in pairs]
        missing = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in self._kept}
        done = 0
        for part in _parts(sorted(missing, key=lambda key: len("".join(missing[key])))):
            self._work_out({key: missing[key] for key in part})
            done += len(part)
            self._report(done, len(missing))
        return [self._kept[key] for key in keys]

    def _work_out(self, part: dict[str, Pair]) -> None:
        if self._scorer is None:
            self._scorer = self._make()
        scores = dict(zip(part, self._scorer.score_pairs(list(part.values())), strict=True))
        _append(self._path, scores)
        self._kept.update(scores)


def _key(pair: Pair) -> str:
    return hashlib.sha256("\x1f".join(pair).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _parts(keys: Sequence[str]) -> Iterator[list[str]]:
    waiting = iter(keys)
    while part := list(islice(waiting, PART)):
        yield part


def _append(path: Path, scores: dict[str, float]) -> None:
    """One write, so that two evaluations at once leave whole lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"of": key, "score": score}) + "\n" for key, score in scores.items()]
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(lines))


def _read(path: Path) -> dict[str, float]:
    if not path.exists():
        return {}
    written = path.read_bytes()
    whole, _, torn = written.rpartition(b"\n")
    if torn:
        with path.open("r+b") as file:
            file.truncate(len(written) - len(torn))
    return dict(_line(path, number, line) for number, line in enumerate(whole.splitlines(), start=1))


def _line(path: Path, number: int, line: bytes) -> tuple[str, float]:
    try:
        row: Any = json.loads(line)
        key, score = row["of"], float(row["score"])
    except (ValueError, KeyError, TypeError):
        key, score = "", math.nan
    if not key or not math.isfinite(score):
        raise InputError(f"{path}:{number} is damaged; delete the file to have its scores worked out anew")
    return str(key), score
