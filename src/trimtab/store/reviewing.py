"""What raters have looked at: who waits to be reviewed, what one has said, and taking it back.

A review is all that one rater said of one answer on the review pages: rows of `feedback` under the rater's
source and the answer's id. What such rows mean stands in `serve.review`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import (
    ColumnElement,
    Connection,
    Text,
    and_,
    delete,
    distinct,
    exists,
    func,
    or_,
    select,
    type_coerce,
)

from trimtab.data import Feedback
from trimtab.store import tables
from trimtab.store.feedback import as_feedback
from trimtab.store.inferences import Inference, _as_inference
from trimtab.store.transactions import Transactions

RATER = "review:"  # what the source of a review begins with
_ASKED = tables.inferences.c
_SAID = tables.feedback.c
_ORDER = (_ASKED.confidence.is_(None), _ASKED.confidence, _ASKED.created_at.desc(), _ASKED.id)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one rater has come."""

    done: int
    left: int
    today: int


class Reviewing(Transactions):
    """The queue, least confident first, and the reviews."""

    def next_to_review(self, source: str, *, after: str | None = None) -> Inference | None:
        """The adapted answer that this rater has not reviewed and of which the server was least sure.

        Args:
            source: the rater.
            after: id of an answer; only those behind it in the queue.
        """
        with self._read() as connection:
            behind = [] if after is None else _behind(connection, after)
            wanted = select(_ASKED.id).where(*_waiting(source), *behind).order_by(*_ORDER).limit(1)
            found = select(tables.inferences).where(_ASKED.id == wanted.scalar_subquery())
            row = connection.execute(found).one_or_none()
        return None if row is None else _as_inference(row)

    def review_queue(self, source: str, *, limit: int, offset: int = 0) -> tuple[Inference, ...]:
        """One page of the answers that wait for this rater, least confident first."""
        wanted = select(tables.inferences).where(*_waiting(source)).order_by(*_ORDER)
        with self._read() as connection:
            rows = connection.execute(wanted.limit(limit).offset(offset)).all()
        return tuple(map(_as_inference, rows))

    def review(self, source: str, inference_id: str) -> tuple[Feedback, ...]:
        """What a rater said of one answer, in the order said; empty if nothing."""
        wanted = select(tables.feedback).where(*_of(source, inference_id)).order_by(_SAID.number)
        with self._read() as connection:
            return tuple(map(as_feedback, connection.execute(wanted)))

    def withdraw_review(self, source: str, inference_id: str | None = None) -> str | None:
        """Takes back what a rater said of an answer, by default of the last one; returns the answer's id.

        Only this rater's own words go. None where there is nothing to take back.
        """
        with self._write() as connection:
            found = inference_id or _last(connection, source)
            if found is None:
                return None
            gone = connection.execute(delete(tables.feedback).where(*_of(source, found)))
            return found if gone.rowcount else None

    def review_progress(self, source: str, *, since: float) -> Progress:
        """How many answers this rater has reviewed, in all and since then, and how many wait."""
        reviewed = select(func.count(distinct(_SAID.inference_id))).where(_SAID.source == source)
        recent = _SAID.created_at >= datetime.fromtimestamp(since, UTC)
        left = select(func.count()).select_from(tables.inferences).where(*_waiting(source))
        with self._read() as connection:
            counts = [
                connection.execute(each).scalar_one() for each in (reviewed, left, reviewed.where(recent))
            ]
        return Progress(*map(int, counts))

    def shared_reviews(self, *, limit: int) -> tuple[tuple[Inference, Mapping[str, Sequence[Feedback]]], ...]:
        """The answers that several raters have reviewed, newest first, and what each of them said."""
        by_raters = type_coerce(_SAID.source, Text).like(f'"{RATER}%')
        several = (
            select(_SAID.inference_id)
            .where(by_raters, _SAID.inference_id.is_not(None))
            .group_by(_SAID.inference_id)
            .having(func.count(distinct(_SAID.source)) > 1)
        )
        newest = _ASKED.created_at.desc(), _ASKED.id
        still_there = _ASKED.id.in_(several), _ASKED.forgotten_at.is_(None)
        wanted = select(tables.inferences).where(*still_there).order_by(*newest).limit(limit)
        with self._read() as connection:
            inferences = tuple(map(_as_inference, connection.execute(wanted)))
            ids = [each.id for each in inferences]
            said = select(tables.feedback).where(by_raters, _SAID.inference_id.in_(ids))
            rows = tuple(map(as_feedback, connection.execute(said.order_by(_SAID.number))))
        return tuple((each, _by_rater(rows, each.id)) for each in inferences)


def _waiting(source: str) -> list[ColumnElement[bool]]:
    """An adapted answer with candidates, of which this rater has said nothing."""
    reviewed = exists().where(_SAID.inference_id == _ASKED.id, _SAID.source == source)
    return [_ASKED.adapter != "", _ASKED.candidates != [], ~reviewed]


def _behind(connection: Connection, inference_id: str) -> list[ColumnElement[bool]]:
    """What stands behind an answer in the order of the queue; everything, where there is no such answer."""
    place = select(_ASKED.confidence, _ASKED.created_at).where(_ASKED.id == inference_id)
    row = connection.execute(place).one_or_none()
    if row is None:
        return []
    older = or_(
        _ASKED.created_at < row.created_at,
        and_(_ASKED.created_at == row.created_at, _ASKED.id > inference_id),
    )
    if row.confidence is None:
        return [_ASKED.confidence.is_(None), older]
    surer = _ASKED.confidence > row.confidence
    return [or_(surer, _ASKED.confidence.is_(None), and_(_ASKED.confidence == row.confidence, older))]


def _of(source: str, inference_id: str) -> list[ColumnElement[bool]]:
    return [_SAID.source == source, _SAID.inference_id == inference_id]


def _last(connection: Connection, source: str) -> str | None:
    by_source = select(_SAID.inference_id).where(_SAID.source == source, _SAID.inference_id.is_not(None))
    return connection.execute(by_source.order_by(_SAID.number.desc()).limit(1)).scalar_one_or_none()


def _by_rater(rows: Sequence[Feedback], inference_id: str) -> dict[str, list[Feedback]]:
    found: dict[str, list[Feedback]] = {}
    for each in rows:
        if each.inference_id == inference_id:
            found.setdefault(each.source, []).append(each)
    return found
