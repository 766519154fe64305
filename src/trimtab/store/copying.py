"""A whole store into another, empty one: how a file moves to a server as a team grows, and back.

Rows are read in one snapshot and written in one transaction: a copy that was cut short has left nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select, text

from trimtab.errors import InputError
from trimtab.store.tables import metadata
from trimtab.store.transactions import Transactions

PAGE = 1_000  # rows held at a time


class Copying(Transactions):
    """The part of the store that copies it."""

    def copy_to(
        self, target: Copying, on_rows: Callable[[int, int], None] = lambda done, total: None
    ) -> dict[str, int]:
        """All rows of this store into an empty one; the count of each table that has any.

        Args:
            target: an open store without a row.
            on_rows: told after each page how many rows are written, and of how many.

        Raises:
            InputError: the target holds rows already; they stay as they are.
            RunError: one of the two cannot be read or written; the target stays empty.
        """
        with self._snapshot() as source, target._write() as into:
            target._refuse_unless_empty(into)
            counts = _counts(source)
            written = itertools.accumulate(_written(source, into), initial=0)
            for done in written:
                on_rows(done, sum(counts.values()))
            _number_on(into)
        return counts

    @contextmanager
    def _snapshot(self) -> Iterator[Connection]:
        """A transaction that sees nothing written after its start, on either database."""
        engine = self._reading
        if engine.dialect.name == "postgresql":
            engine = engine.execution_options(isolation_level="REPEATABLE READ")
        with self._explained("read"), engine.begin() as connection:
            yield connection

    def _refuse_unless_empty(self, connection: Connection) -> None:
        held = ", ".join(f"{rows:,} in {name}" for name, rows in _counts(connection).items())
        if held:
            raise InputError(f"{self._place}: holds rows already ({held}); a copy needs an empty store")


def _counts(connection: Connection) -> dict[str, int]:
    """The rows of each table that has any."""
    counts = {
        table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
        for table in metadata.sorted_tables
    }
    return {name: rows for name, rows in counts.items() if rows}


def _written(source: Connection, into: Connection) -> Iterator[int]:
    """Writes all tables, page by page; the rows of each page."""
    for table in metadata.sorted_tables:
        wanted = select(table).order_by(*table.primary_key)
        found = source.execution_options(yield_per=PAGE).execute(wanted)
        for page in found.mappings().partitions(PAGE):
            into.execute(insert(table), [_in_utc(row) for row in page])
            yield len(page)


def _in_utc(row: Mapping[Any, Any]) -> dict[str, Any]:
    """The row with its times in UTC: SQLite keeps no zone, a server would take its own."""
    return {str(name): _utc(value) if isinstance(value, datetime) else value for name, value in row.items()}


def _utc(time: datetime) -> datetime:
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def _number_on(connection: Connection) -> None:
    """Lets the server's counters go on after the highest number that was copied; SQLite finds it itself."""
    if connection.dialect.name != "postgresql":
        return
    for table in metadata.sorted_tables:
        if (column := table.autoincrement_column) is not None:
            name = f"pg_get_serial_sequence('{table.name}', '{column.name}')"
            highest = f"(SELECT max({column.name}) FROM {table.name})"  # noqa: S608
            connection.execute(text(f"SELECT setval({name}, coalesce({highest}, 0) + 1, false)"))
