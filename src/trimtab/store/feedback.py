"""What people said about answers, each thing kept once. What follows from it is decided elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, func, select

from trimtab.data import Feedback, FeedbackKind, question_hash
from trimtab.errors import InputError
from trimtab.store import tables
from trimtab.store.transactions import Transactions, insertion, now


@dataclass(frozen=True, slots=True)
class Heard:
    """One thing that was said, and when."""

    number: int  # in the order of arrival
    at: float  # seconds since the epoch
    said: Feedback


class FeedbackGiven(Transactions):
    """The feedback on all questions."""

    def add_feedback(self, rows: Sequence[Feedback]) -> int:
        """How many of the rows were new; what was said before is said once.

        Raises:
            InputError: an id of the same source, question and kind stands with other words; none is added.
        """
        with self._write() as connection:
            return sum(_added(connection, said) for said in rows)

    def feedback_for(self, question_text: str) -> tuple[Feedback, ...]:
        """What was said about a question, in the order it came."""
        table = tables.feedback
        wanted = select(table).where(table.c.question_hash == question_hash(question_text))
        with self._read() as connection:
            return tuple(as_feedback(row) for row in connection.execute(wanted.order_by(table.c.number)))

    def heard(self) -> tuple[Heard, ...]:
        """Everything that was said and whose words are still there, in the order it came."""
        table = tables.feedback
        wanted = select(table).where(table.c.forgotten_at.is_(None)).order_by(table.c.number)
        with self._read() as connection:
            rows = connection.execute(wanted)
            return tuple(Heard(row.number, _seconds(row.created_at), as_feedback(row)) for row in rows)

    def count_feedback(self, source: str, *, since: float) -> int:
        """How many things a source has said since then, in seconds since the epoch."""
        table = tables.feedback
        recent = table.c.created_at >= datetime.fromtimestamp(since, UTC)
        wanted = select(func.count()).select_from(table).where(recent, table.c.source == source)
        with self._read() as connection:
            found: int = connection.execute(wanted).scalar_one()
        return found


def _added(connection: Connection, said: Feedback) -> bool:
    table = tables.feedback
    addition = insertion(connection, table).on_conflict_do_nothing(index_elements=["id"])
    counted = addition.values(_feedback_row(said)).execution_options(preserve_rowcount=True)
    if connection.execute(counted).rowcount > 0:
        return True
    there = as_feedback(connection.execute(select(table).where(table.c.id == said.key)).one())
    if (there.text, there.value) != (said.text, said.value):
        raise InputError(
            f"feedback {said.id!r} of {said.source!r} is there already with other words; "
            "give it another id, or another 'source' where another person said it"
        )
    return False


def _feedback_row(said: Feedback) -> dict[str, Any]:
    return {
        "id": said.key,
        "given_id": said.id,
        "question_hash": question_hash(said.question),
        "question": said.question,
        "kind": said.kind,
        "text": said.text,
        "value": said.value,
        "source": said.source,
        "created_at": now(),
        "inference_id": said.inference_id,
    }


def as_feedback(row: Row[Any]) -> Feedback:
    """What a row of the table says."""
    kind = FeedbackKind(row.kind)
    return Feedback(row.question, kind, row.text, row.value, row.source, row.given_id, row.inference_id)


def _seconds(at: datetime) -> float:
    """Seconds since the epoch; SQLite gives times back without their zone, which is UTC."""
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
