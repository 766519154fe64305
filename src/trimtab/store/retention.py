"""Forgetting: the words of old answers and of what was said about them go, the counts of them stay.

What stays of an answer: which adapter and version gave it, when, to which key, how it ended, its confidence,
score, tokens, dollars and seconds. Of feedback: its kind, who said it, and when.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Table, delete, select, tuple_, update

from trimtab.store import tables
from trimtab.store.transactions import Transactions

SERVING = "serve"  # the kind of servers' runs
ROWS_AT_ONCE = 500  # in one transaction: whoever answers meanwhile waits for no more than that
_ASKED, _SAID, _DRAWN = tables.inferences.c, tables.feedback.c, tables.samples.c
_WORDS_OF_ANSWERS: dict[str, Any] = {
    **{"question": "", "question_hash": "", "messages": [], "candidates": [], "text": "", "answer": None},
    "chosen": None,
}
_WORDS_OF_FEEDBACK: dict[str, Any] = {"question": "", "question_hash": "", "text": "", "value": ""}


@dataclass(frozen=True, slots=True)
class Forgotten:
    """How much was forgotten."""

    answers: int
    feedback: int
    draws: int


class Retention(Transactions):
    """Deletes words that are kept no longer."""

    def forget(self, before: float, *, at: float) -> Forgotten:
        """Deletes the words of answers and feedback from before then, and the draws that servers asked for.

        Draws that another run has used since are that run's, and stay.

        Args:
            before: seconds since the epoch.
            at: now, in seconds since the epoch.
        """
        said_before = _SAID.created_at < datetime.fromtimestamp(before, UTC)
        answers = self._blanked(tables.inferences, _ASKED.created_at < before, _WORDS_OF_ANSWERS, at)
        feedback = self._blanked(tables.feedback, said_before, _WORDS_OF_FEEDBACK, at)
        return Forgotten(answers, feedback, self._undrawn(before))

    def _blanked(self, table: Table, old: ColumnElement[bool], words: dict[str, Any], at: float) -> int:
        (key,) = table.primary_key.columns
        some = select(key).where(old, table.c.forgotten_at.is_(None)).limit(ROWS_AT_ONCE)
        blank = update(table).where(key.in_(some)).values({**words, "forgotten_at": at})
        return self._over_and_over(blank)

    def _undrawn(self, before: float) -> int:
        place = tuple_(_DRAWN.key, _DRAWN.number)
        served = select(tables.runs.c.id).where(tables.runs.c.kind == SERVING)
        old = _DRAWN.created_at < before, _DRAWN.run_id.in_(served)
        some = select(_DRAWN.key, _DRAWN.number).where(*old).limit(ROWS_AT_ONCE)
        return self._over_and_over(delete(tables.samples).where(place.in_(some)))

    def _over_and_over(self, statement: Any) -> int:
        done = 0
        while True:
            with self._write() as connection:
                some = connection.execute(statement).rowcount
            done += some
            if some < ROWS_AT_ONCE:
                return done
