"""The ledger: one line for each HTTP request that a run made, whatever came of it. No line is ever removed.

The lines are written together with the draws they paid for (`samples`); here they are summed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select

from trimtab.store import tables
from trimtab.store.transactions import Transactions, insertion, put_new
from trimtab.types import Call, Outcome, Purpose, Usage

_PAID = tables.calls.c
_SUMS = (
    func.coalesce(func.sum(_PAID.input_tokens), 0),
    func.coalesce(func.sum(_PAID.output_tokens), 0),
    func.coalesce(func.sum(_PAID.calls), 0),
    func.sum(_PAID.usd),
    func.count().filter(_PAID.usd.is_(None) & (_PAID.calls > 0)),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """What the requests of one run cost that had one purpose, model and outcome."""

    run_id: str | None
    purpose: Purpose
    model: str
    outcome: Outcome
    requests: int  # HTTP requests, unpaid ones too; `usage.calls` counts those that may have cost something
    usage: Usage
    seconds: float  # the sum over them; they ran side by side


@dataclass(frozen=True, slots=True)
class Replays:
    """Draws that a run used and an earlier run had paid for."""

    draws: int = 0
    usd: float = 0.0  # what they had cost, as far as known

    def __add__(self, other: Replays) -> Replays:
        return Replays(self.draws + other.draws, self.usd + other.usd)


class Ledger(Transactions):
    """The ledger of all runs."""

    def usage_of(self, run_id: str, outcome: Outcome | None = None) -> Usage:
        """What the run itself has paid; draws that an earlier run had paid for are not in it.

        Args:
            run_id: the run.
            outcome: only the requests that ended so. All are summed without it: the uncertain ones then
                count with their worst case.
        """
        wanted = [_PAID.run_id == run_id]
        return self._usage(*wanted, *([] if outcome is None else [_PAID.outcome == outcome]))

    def usage_of_key(self, payer: str, endpoint: str | None = None) -> Usage:
        """What all runs together have paid with one key, at all endpoints or at one.

        Args:
            payer: name of the environment variable that holds the key.
            endpoint: base URL, as the calls have it.
        """
        wanted = [_PAID.payer == payer]
        return self._usage(*wanted, *([] if endpoint is None else [_PAID.endpoint == endpoint]))

    def costs(self, run_id: str | None = None) -> tuple[Cost, ...]:
        """Costs by run, purpose, model and outcome, in this order; of one run, or of all."""
        by = (_PAID.run_id, _PAID.purpose, _PAID.model, _PAID.outcome)
        wanted = select(*by, *_SUMS, func.count(), func.sum(_PAID.seconds)).group_by(*by).order_by(*by)
        if run_id is not None:
            wanted = wanted.where(_PAID.run_id == run_id)
        with self._read() as connection:
            return tuple(_as_cost(row) for row in connection.execute(wanted))

    def models(self) -> tuple[tuple[str, str], ...]:
        """The models that were ever asked, each with the base URL of its endpoint."""
        by = (_PAID.model, _PAID.endpoint)
        with self._read() as connection:
            return tuple((row[0], row[1]) for row in connection.execute(select(*by).distinct().order_by(*by)))

    def replays(self) -> Mapping[str, Replays]:
        """What each run was spared by draws that others had paid for; runs without any are left out."""
        with self._read() as connection:
            rows = connection.execute(select(tables.replays)).all()
        return {row.run_id: Replays(row.draws, row.usd) for row in rows}

    def _usage(self, *wanted: ColumnElement[bool]) -> Usage:
        with self._read() as connection:
            return _as_usage(connection.execute(select(*_SUMS).where(*wanted)).one())


def put_calls(connection: Connection, run_id: str, calls: Iterable[Call]) -> None:
    """Add lines to the ledger on account of a run; a line that is there stays as it is."""
    in_order = sorted(calls, key=lambda call: call.id)
    put_new(connection, tables.calls, [_call_row(run_id, call) for call in in_order])


def put_replays(connection: Connection, run_id: str, fresh: Replays) -> None:
    """Add to what a run was spared."""
    addition = insertion(connection, tables.replays)
    there = tables.replays.c
    more = {"draws": there.draws + fresh.draws, "usd": there.usd + fresh.usd}
    row = {"run_id": run_id, "draws": fresh.draws, "usd": fresh.usd}
    connection.execute(addition.values(**row).on_conflict_do_update(index_elements=["run_id"], set_=more))


def _call_row(run_id: str, call: Call) -> tuple[Any, ...]:
    usage = call.usage
    return (
        call.id,
        run_id,
        call.purpose.value,
        call.model,
        call.endpoint,
        call.payer,
        call.outcome.value,
        usage.input_tokens,
        usage.output_tokens,
        usage.calls,
        usage.usd,
        call.seconds,
        call.started_at,
        call.attempt,
        call.n,
        call.status,
        call.request_id,
        call.error,
        call.is_batch,
    )


def _as_usage(sums: Sequence[Any]) -> Usage:
    tokens_in, tokens_out, calls, usd, unpriced = sums
    return Usage(int(tokens_in), int(tokens_out), int(calls), None if unpriced else usd)


def _as_cost(row: Sequence[Any]) -> Cost:
    run_id, purpose, model, outcome = row[:4]
    return Cost(run_id, Purpose(purpose), model, Outcome(outcome), row[9], _as_usage(row[4:9]), row[10])
