"""Transactions on an engine, their failures told as ours, and the statement that both databases lack in SQL.

What is read and written in them stands in the modules beside this one, a subject each.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Dialect, Engine, Table, delete
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from trimtab.errors import RunError
from trimtab.store.database import shown

Insert = sqlite.Insert | postgresql.Insert
ROWS_A_STATEMENT = 50  # of up to 19 columns: 999 values is what every SQLite takes


class Transactions:
    """What every part of the store stands on: each of its methods is one transaction."""

    def __init__(self, engine: Engine) -> None:
        self._reading = engine
        self._writing = engine.execution_options(trimtab_writes=True)

    @property
    def _place(self) -> str:
        return shown(self._reading.url)

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with self._explained("read"), self._reading.begin() as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with self._explained("written"), self._writing.begin() as connection:
            yield connection

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error) as error:
            reason = getattr(error, "orig", None) or error
            raise RunError(f"{self._place}: the store cannot be {what}: {reason}") from error


def now() -> datetime:
    """The time of a write."""
    return datetime.now(UTC)


def insertion(connection: Connection, table: Table) -> Insert:
    """An INSERT that can say what to do where the key is taken (ON CONFLICT)."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


def put_new(connection: Connection, table: Table, rows: Sequence[Sequence[Any]]) -> None:
    """Add rows, each with its values in the order of the columns; one whose key is taken is left out.

    Many rows a statement: SQLite's driver lets go of the interpreter at each, and has to wait for it again
    while an event loop is busy in another thread.
    """
    as_bound = _binding(table, connection.dialect)
    for start in range(0, len(rows), ROWS_A_STATEMENT):
        some = rows[start : start + ROWS_A_STATEMENT]
        values = tuple(
            value if bound is None else bound(value)
            for row in some
            for bound, value in zip(as_bound, row, strict=True)
        )
        connection.exec_driver_sql(_insertion_of(table, connection.dialect, len(some)), values)


@lru_cache(maxsize=64)
def _binding(table: Table, dialect: Dialect) -> tuple[Callable[[Any], Any] | None, ...]:
    """What makes a value of each column fit for the driver; None where it is so already."""
    return tuple(column.type.dialect_impl(dialect).bind_processor(dialect) for column in table.columns)


@lru_cache(maxsize=512)
def _insertion_of(table: Table, dialect: Dialect, rows: int) -> str:
    prepared = dialect.identifier_preparer
    columns = ", ".join(prepared.format_column(column) for column in table.columns)
    mark = "?" if dialect.paramstyle == "qmark" else "%s"
    row = f"({', '.join([mark] * len(table.columns))})"
    into = prepared.format_table(table)
    return f"INSERT INTO {into} ({columns}) VALUES {', '.join([row] * rows)} ON CONFLICT DO NOTHING"  # noqa: S608


def deletion(table: Table, place: Mapping[str, Any]) -> Any:
    """A DELETE of the rows at this place."""
    return delete(table).where(*(table.c[column] == value for column, value in place.items()))
