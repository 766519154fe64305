"""Batches handed to a provider: what was asked in each, so that a killed run finds its answers again.

How a batch is submitted and polled, and what its statuses are called, is the client's to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Row, select, update

from trimtab.errors import InputError
from trimtab.store import tables
from trimtab.store.transactions import Transactions, insertion, now
from trimtab.types import Draws


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch of requests at a provider."""

    id: str  # ours
    run_id: str
    payer: str  # name of the environment variable that holds the key
    endpoint: str
    remote_id: str  # the provider's; empty before it has said one
    status: str
    asked: tuple[tuple[str, Draws], ...]  # the provider's name for each request, and the draws it asks for


class Batches(Transactions):
    """The batches of all runs."""

    def put_batch(self, batch: Batch) -> None:
        """Keep a batch; one of the same id is replaced."""
        row = {**_row(batch), "created_at": now(), "updated_at": now()}
        with self._write() as connection:
            addition = insertion(connection, tables.batches)
            fresh = {name: addition.excluded[name] for name in row if name not in ("id", "created_at")}
            connection.execute(addition.on_conflict_do_update(index_elements=["id"], set_=fresh), row)

    def set_batch(self, batch_id: str, status: str, *, remote_id: str | None = None) -> None:
        """Note what became of a batch.

        Raises:
            InputError: there is no such batch.
        """
        change = {"status": status, **({} if remote_id is None else {"remote_id": remote_id})}
        wanted = update(tables.batches).where(tables.batches.c.id == batch_id)
        with self._write() as connection:
            if not connection.execute(wanted.values(**change, updated_at=now())).rowcount:
                raise InputError(f"{self._place}: no batch {batch_id!r}")

    def batches(
        self, run_id: str | None = None, status: str | Sequence[str] | None = None
    ) -> tuple[Batch, ...]:
        """Batches, oldest first: of a run or of all, of a status (or of one of several) or of any."""
        table = tables.batches
        wanted = select(table).order_by(table.c.created_at, table.c.id)
        if run_id is not None:
            wanted = wanted.where(table.c.run_id == run_id)
        if status is not None:
            wanted = wanted.where(table.c.status.in_([status] if isinstance(status, str) else status))
        with self._read() as connection:
            return tuple(_as_batch(row) for row in connection.execute(wanted))


def _row(batch: Batch) -> dict[str, Any]:
    asked = [[name, draws.key, draws.start, draws.n] for name, draws in batch.asked]
    return {**asdict(batch), "asked": asked}


def _as_batch(row: Row[Any]) -> Batch:
    asked = tuple((name, Draws(key, start, n)) for name, key, start, n in row.asked)
    return Batch(row.id, row.run_id, row.payer, row.endpoint, row.remote_id, row.status, asked)
