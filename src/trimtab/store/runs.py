"""Runs: which there are, with which settings, and how each ended.

No key, token or password is kept: `start_run` blanks them out of the configuration it is given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from trimtab.errors import InputError
from trimtab.redaction import without_url_secrets
from trimtab.store import tables
from trimtab.store.transactions import Transactions, now

RUNNING, FINISHED = "running", "finished"
BLANK = "***"
_SECRET_KEY = re.compile(r"(^|[_-])(api[_-]?key|authorization|password|secret|token)$", re.IGNORECASE)
_URL = re.compile(r"\S*://\S*")


@dataclass(frozen=True, slots=True)
class Run:
    """One run as the store knows it."""

    id: str
    kind: str
    config: Mapping[str, Any]
    status: str
    started_at: datetime | None = field(default=None, compare=False)  # for the first time
    updated_at: datetime | None = field(default=None, compare=False)

    @property
    def is_finished(self) -> bool:
        """True once `finish_run` has been called without a later start."""
        return self.status == FINISHED


class Runs(Transactions):
    """All runs."""

    def start_run(self, run_id: str, kind: str, config: Mapping[str, Any]) -> Run:
        """The run, made or taken up again; its status is then "running".

        Raises:
            InputError: a run of this id is there with another kind or configuration.
        """
        at = now()
        run = Run(run_id, kind, _without_secrets(config), RUNNING, at, at)
        with self._write() as connection:
            known = _run(connection, run_id)
            if known is None:
                connection.execute(insert(tables.runs).values(**_run_row(run)))
            else:
                _refuse_another(known, run)
                _set_status(connection, run_id, RUNNING)
        return run

    def finish_run(self, run_id: str, status: str = FINISHED) -> None:
        """Note how a run ended.

        Raises:
            InputError: there is no such run.
        """
        with self._write() as connection:
            if not _set_status(connection, run_id, status):
                raise InputError(f"{self._place}: no run {run_id!r}")

    def run(self, run_id: str) -> Run | None:
        """The run of this id, if there is one."""
        with self._read() as connection:
            return _run(connection, run_id)

    def runs(self) -> tuple[Run, ...]:
        """All runs, oldest first (ties: by id)."""
        oldest_first = select(tables.runs).order_by(tables.runs.c.created_at, tables.runs.c.id)
        with self._read() as connection:
            return tuple(_as_run(row) for row in connection.execute(oldest_first))

    def forget_run(self, run_id: str) -> None:
        """Forget a run's rounds, candidates and judgements; what was paid for, and what it cost, stays."""
        with self._write() as connection:
            for table in (tables.candidates, tables.judgements, tables.rounds):
                connection.execute(delete(table).where(table.c.run_id == run_id))
            connection.execute(delete(tables.runs).where(tables.runs.c.id == run_id))


def _run(connection: Connection, run_id: str) -> Run | None:
    row = connection.execute(select(tables.runs).where(tables.runs.c.id == run_id)).first()
    return None if row is None else _as_run(row)


def _set_status(connection: Connection, run_id: str, status: str) -> bool:
    change = update(tables.runs).where(tables.runs.c.id == run_id).values(status=status, updated_at=now())
    return connection.execute(change).rowcount > 0


def _refuse_another(known: Run, run: Run) -> None:
    if known.kind != run.kind:
        raise InputError(f"run {run.id!r} is there already, as {known.kind!r}, not {run.kind!r}")
    keys = sorted(known.config.keys() | run.config.keys())
    differing = [key for key in keys if known.config.get(key) != run.config.get(key)]
    if differing:
        raise InputError(f"run {run.id!r} was started with other settings: {', '.join(differing)}")


def _without_secrets(value: Any) -> Any:
    """The value as JSON gives it back, with secrets blanked out, logins and queries of URLs among them."""
    match value:
        case Mapping():
            return {
                str(key): BLANK if _SECRET_KEY.search(str(key)) and inner else _without_secrets(inner)
                for key, inner in value.items()
            }
        case str():
            return _URL.sub(lambda found: without_url_secrets(found[0]), value)
        case list() | tuple():
            return [_without_secrets(inner) for inner in value]
        case Path():
            return str(value)
        case _:
            return value


def _run_row(run: Run) -> dict[str, Any]:
    row = {"id": run.id, "kind": run.kind, "config": run.config, "status": run.status}
    return {**row, "created_at": run.started_at, "updated_at": run.updated_at}


def _as_run(row: Row[Any]) -> Run:
    return Run(row.id, row.kind, row.config, row.status, _utc(row.created_at), _utc(row.updated_at))


def _utc(when: datetime) -> datetime:
    """SQLite gives times back without their zone."""
    return when if when.tzinfo else when.replace(tzinfo=UTC)
