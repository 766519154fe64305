"""An evaluation's outcomes question by question, as a file that a later one can be paired with.

The first line says what follows and its SHA-256, so that a file cut short or edited is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from trimtab.errors import InputError
from trimtab.evaluate.comparison import Comparison

RESULTS_NAME = "results.jsonl"
KIND = "trimtab results"


@dataclass(frozen=True, slots=True)
class Results:
    """What an earlier evaluation's method reached on each question."""

    method: str
    outcomes: dict[str, float]  # by question id; over several seeds the mean

    def on(self, question_ids: Sequence[str], where: str) -> list[float]:
        """One outcome a question, in order.

        Raises:
            InputError: some of the questions are not among its own.
        """
        missing = [each for each in question_ids if each not in self.outcomes]
        if missing:
            raise InputError(
                f"{where}: {len(missing)} of {len(question_ids)} questions are not in these results "
                f"({', '.join(missing[:5])}); a paired comparison needs the same questions"
            )
        return [self.outcomes[each] for each in question_ids]


def results_text(comparison: Comparison) -> str:
    """The file's text: a header, and a row for each question asked."""
    names = list(comparison.outcomes)
    rows = zip(*comparison.outcomes.values(), strict=True)
    lines = [
        json.dumps({"id": each, "outcomes": dict(zip(names, row, strict=True))}, ensure_ascii=False)
        for each, row in zip(comparison.ids, rows, strict=True)
    ]
    body = "\n".join(lines) + "\n"
    header = {"kind": KIND, "format": 1, "method": comparison.decided_by, "sha256": _digest(body)}
    return json.dumps(header) + "\n" + body


def is_results(path: Path) -> bool:
    """True for a file that says it is one, whether it is whole or not."""
    with path.open("rb") as file:
        return KIND.encode() in file.readline()


def read_results(path: Path) -> Results:
    """The outcomes of the method that decided.

    Raises:
        InputError: the file is cut short, edited, or of another kind; names it.
    """
    try:
        first, _, body = path.read_text("utf-8").partition("\n")
        header: Any = json.loads(first)
        is_whole = header["kind"] == KIND and header["sha256"] == _digest(body)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no results file of an evaluation: {error}") from None
    if not is_whole:
        raise InputError(f"{path} is damaged: it is not what was written; evaluate again to have it anew")
    return Results(header["method"], _by_id(body, header["method"]))


def _by_id(body: str, method: str) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for row in map(json.loads, body.splitlines()):
        found.setdefault(row["id"], []).append(row["outcomes"][method])
    return {each: fmean(outcomes) for each, outcomes in found.items()}


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode("utf-8", "surrogatepass")).hexdigest()
