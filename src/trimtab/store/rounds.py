"""What rounds of adaptation did: their candidates, judgements and records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Row, insert, select

from trimtab.errors import RunError
from trimtab.store import tables
from trimtab.store.transactions import Transactions, deletion
from trimtab.types import Candidate, Judgement, Usage, Verdict


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """What one finished round left behind."""

    round: int
    record: Mapping[str, Any]
    adapter: Path | None  # the folder it saved


class Rounds(Transactions):
    """The rounds of all runs."""

    def put_candidates(
        self, run_id: str, round_number: int, question_id: str, candidates: Sequence[Candidate]
    ) -> None:
        """Keep a question's candidates of a round, in their order; earlier ones of it are replaced.

        Raises:
            RunError: a score or confidence is not a number.
        """
        table = tables.candidates
        place = {"run_id": run_id, "round": round_number, "question_id": question_id}
        rows = [{**place, "draw": draw, **_candidate_row(c)} for draw, c in enumerate(candidates)]
        with self._write() as connection:
            connection.execute(deletion(table, place))
            if rows:
                connection.execute(insert(table), rows)

    def candidates(self, run_id: str, round_number: int) -> dict[str, tuple[Candidate, ...]]:
        """The candidates of a round by question id, in the order they were put."""
        table = tables.candidates.c
        wanted = select(tables.candidates).where(table.run_id == run_id, table.round == round_number)
        found: dict[str, list[Candidate]] = {}
        with self._read() as connection:
            for row in connection.execute(wanted.order_by(table.question_id, table.draw)):
                found.setdefault(row.question_id, []).append(_as_candidate(row))
        return {question_id: tuple(candidates) for question_id, candidates in found.items()}

    def put_judgement(self, run_id: str, round_number: int, judgement: Judgement) -> None:
        """Keep a question's judgement of a round; an earlier one of it is replaced."""
        place = {"run_id": run_id, "round": round_number, "question_id": judgement.question_id}
        with self._write() as connection:
            connection.execute(deletion(tables.judgements, place))
            connection.execute(insert(tables.judgements).values(**place, judgement=asdict(judgement)))

    def judgements(self, run_id: str, round_number: int) -> dict[str, Judgement]:
        """The judgements of a round by question id."""
        table = tables.judgements.c
        wanted = select(table.judgement).where(table.run_id == run_id, table.round == round_number)
        with self._read() as connection:
            found = [_as_judgement(value) for value in connection.scalars(wanted.order_by(table.question_id))]
        return {judgement.question_id: judgement for judgement in found}

    def put_round(
        self, run_id: str, round_number: int, record: Mapping[str, Any], adapter: str | Path | None = None
    ) -> None:
        """Keep what a finished round did (anything JSON can say); an earlier record of it is replaced.

        Raises:
            RunError: the record holds something that JSON cannot say, such as NaN.
        """
        place = {"run_id": run_id, "round": round_number}
        folder = None if adapter is None else str(adapter)
        with self._write() as connection:
            connection.execute(deletion(tables.rounds, place))
            connection.execute(insert(tables.rounds).values(**place, record=dict(record), adapter=folder))

    def rounds(self, run_id: str) -> tuple[RoundRecord, ...]:
        """The finished rounds of a run, in their order."""
        table = tables.rounds
        wanted = select(table).where(table.c.run_id == run_id).order_by(table.c.round)
        with self._read() as connection:
            rows = connection.execute(wanted).all()
        return tuple(
            RoundRecord(r.round, r.record, None if r.adapter is None else Path(r.adapter)) for r in rows
        )


def _candidate_row(candidate: Candidate) -> dict[str, Any]:
    for name, value in (("score", candidate.score), ("confidence", candidate.confidence)):
        if value is not None and math.isnan(value):  # SQL would turn it into "not scored"
            raise RunError(f"the {name} of a candidate is not a number; it reads {candidate.text[:80]!r}")
    return asdict(candidate)


def _as_candidate(row: Row[Any]) -> Candidate:
    return Candidate(row.text, row.answer, row.score, row.confidence, Verdict(row.verdict))


def _as_judgement(value: Mapping[str, Any]) -> Judgement:
    lists = {name: tuple(value[name]) for name in ("positives", "negatives", "extra_positives")}
    return Judgement(**{**value, **lists, "usage": Usage(**value["usage"])})
