"""What people said about answers: verdicts, preferences and corrections, each kept once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, select

from trimtab.data import Feedback, FeedbackKind, question_hash
from trimtab.errors import InputError
from trimtab.store import tables
from trimtab.store.transactions import Transactions, insertion, now


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
            return tuple(_as_feedback(row) for row in connection.execute(wanted.order_by(table.c.number)))


def _added(connection: Connection, said: Feedback) -> bool:
    table = tables.feedback
    addition = insertion(connection, table).on_conflict_do_nothing(index_elements=["id"])
    counted = addition.values(_feedback_row(said)).execution_options(preserve_rowcount=True)
    if connection.execute(counted).rowcount > 0:
        return True
    there = _as_feedback(connection.execute(select(table).where(table.c.id == said.key)).one())
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
    }


def _as_feedback(row: Row[Any]) -> Feedback:
    return Feedback(row.question, FeedbackKind(row.kind), row.text, row.value, row.source, row.given_id)
