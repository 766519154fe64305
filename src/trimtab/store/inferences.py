"""What a server answered: one row an answer, in the store before the answer has left the server.

Feedback names the answer it is about by the row's id. What was said about it stands in `feedback`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, func, select, update

from trimtab.data import question_hash
from trimtab.store import tables
from trimtab.store.ledger import put_calls
from trimtab.store.transactions import Transactions, put_new
from trimtab.types import Call, Candidate, Usage

ROWS_A_STATEMENT = 40  # of 21 columns: 999 values is what every SQLite takes
_ROWS = tables.inferences.c


class Order(StrEnum):
    """How inferences are listed."""

    NEWEST = "newest"
    LEAST_CONFIDENT = "least_confident"  # those without a confidence last; of equal ones the newest first


@dataclass(frozen=True, slots=True)
class Inference:
    """One answer that was given, and all that it was chosen from."""

    id: str
    created_at: float  # seconds since the epoch
    adapter: str  # empty: the black box itself answered
    version: int
    question: str
    messages: tuple[Mapping[str, Any], ...]  # as they came
    candidates: tuple[Candidate, ...]  # text, answer and score are kept
    text: str
    status: str
    chosen: int | None = 0  # index among the candidates
    answer: str | None = None
    confidence: float | None = None
    score: float | None = None
    task: str = ""
    key_id: str | None = None
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0
    upstream: str = ""
    forgotten_at: float | None = None  # when its words were deleted: it takes no feedback any more


class Inferences(Transactions):
    """All answers that were given."""

    def add_inference(self, inference: Inference) -> None:
        """Keep one answer."""
        self.add_inferences([inference])

    def add_inferences(
        self, inferences: Sequence[Inference], run_id: str = "", calls: Iterable[Call] = ()
    ) -> None:
        """Keep answers, and put what they cost on the keys that asked; one that is there stays as it is.

        Args:
            inferences: the answers.
            run_id: on whose account the calls are.
            calls: those that the answers took and that are not in the ledger yet.
        """
        rows = [_values(inference) for inference in inferences]
        with self._write() as connection:
            put_calls(connection, run_id, calls)
            for start in range(0, len(rows), ROWS_A_STATEMENT):
                put_new(connection, tables.inferences, rows[start : start + ROWS_A_STATEMENT])
            _charge(connection, inferences)

    def inference(self, inference_id: str) -> Inference | None:
        """One answer by its id; None if there is none."""
        wanted = select(tables.inferences).where(_ROWS.id == inference_id)
        with self._read() as connection:
            row = connection.execute(wanted).one_or_none()
        return None if row is None else _as_inference(row)

    def inferences(
        self,
        *,
        adapter: str | None = None,
        order: Order = Order.NEWEST,
        since: float | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> tuple[Inference, ...]:
        """One page of answers.

        Args:
            adapter: of this adapter only; the empty name means the black box itself.
            order: how they are listed.
            since: seconds since the epoch; older ones are left out.
            limit: answers on a page.
            offset: answers on the pages before.
        """
        wanted = select(tables.inferences).where(*_where(adapter, since)).order_by(*_ORDERS[order])
        with self._read() as connection:
            return tuple(map(_as_inference, connection.execute(wanted.limit(limit).offset(offset))))

    def count_inferences(self, *, adapter: str | None = None, since: float | None = None) -> int:
        """How many answers there are."""
        wanted = select(func.count()).select_from(tables.inferences).where(*_where(adapter, since))
        with self._read() as connection:
            found: int = connection.execute(wanted).scalar_one()
        return found


_ORDERS = {
    Order.NEWEST: (_ROWS.created_at.desc(), _ROWS.id),
    Order.LEAST_CONFIDENT: (_ROWS.confidence.is_(None), _ROWS.confidence, _ROWS.created_at.desc(), _ROWS.id),
}


def _where(adapter: str | None, since: float | None) -> list[ColumnElement[bool]]:
    of_adapter = [] if adapter is None else [_ROWS.adapter == adapter]
    return [*of_adapter, *([] if since is None else [_ROWS.created_at >= since])]


def _charge(connection: Connection, inferences: Iterable[Inference]) -> None:
    spent: dict[str, float] = {}
    for each in inferences:
        if each.key_id is not None and each.usage.usd:
            spent[each.key_id] = spent.get(each.key_id, 0.0) + each.usage.usd
    keys = tables.api_keys
    for key_id in sorted(spent):  # in one order, so that two transactions never wait for each other
        charged = update(keys).where(keys.c.id == key_id)
        connection.execute(charged.values(spent_usd=keys.c.spent_usd + spent[key_id]))


def _values(inference: Inference) -> tuple[Any, ...]:
    """The row, in the order of the columns."""
    considered = [{"text": c.text, "answer": c.answer, "score": c.score} for c in inference.candidates]
    return (
        inference.id,
        inference.created_at,
        inference.adapter,
        inference.version,
        inference.key_id,
        inference.question,
        question_hash(inference.question),
        list(inference.messages),
        inference.task,
        inference.chosen,
        considered,
        inference.text,
        inference.answer,
        inference.confidence,
        inference.score,
        inference.status,
        asdict(inference.usage),
        inference.usage.usd,
        inference.seconds,
        inference.upstream,
        inference.forgotten_at,
    )


def _as_inference(row: Row[Any]) -> Inference:
    return Inference(
        id=row.id,
        created_at=row.created_at,
        adapter=row.adapter,
        version=row.version,
        question=row.question,
        messages=tuple(row.messages),
        candidates=tuple(Candidate(c["text"], c["answer"], c["score"]) for c in row.candidates),
        text=row.text,
        status=row.status,
        chosen=row.chosen,
        answer=row.answer,
        confidence=row.confidence,
        score=row.score,
        task=row.task,
        key_id=row.key_id,
        usage=Usage(**row.usage),
        seconds=row.seconds,
        upstream=row.upstream,
        forgotten_at=row.forgotten_at,
    )
