"""Opening a database: the URL, SQLite's settings, and the schema brought up to date.

What is kept in it, and how it is asked for, stands in `store`.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, QueuePool, create_engine, event, inspect, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from trimtab.errors import InputError

VERSION_TABLE = "trimtab_schema"
BUSY_TIMEOUT_S = 30.0  # how long one process waits for another's write; ours take milliseconds
MEMORY = "sqlite://"
LOG_PAGES = {"FULL": 1000, "NORMAL": 16384}  # of SQLite's log before a write empties it; its default is 1000
Synchronous: TypeAlias = Literal["FULL", "NORMAL"]
_MIGRATIONS = Path(__file__).parent / "migrations"
_ONE_AT_A_TIME = threading.Lock()  # alembic's context is global to the process


def open_database(url_or_path: str | Path, *, survives_power_cut: bool = True) -> Engine:
    """An engine on a database whose tables are of this version.

    Args:
        url_or_path: a database URL, or the file of an SQLite database.
        survives_power_cut: SQLite only: each write is flushed to the disk itself (some 5 ms) before it
            returns. Without it a write outlives the death of the process, but maybe not of the machine, and
            seldom waits for the disk at all where somebody calls `write_back` now and then.

    Raises:
        InputError: the address cannot be used, or what is there is not a store of this version or older.
    """
    url = _url(url_or_path)
    engine = _engine(url, "FULL" if survives_power_cut else "NORMAL")
    try:
        _bring_up_to_date(engine)
    except DBAPIError as error:
        engine.dispose()
        raise InputError(f"{shown(url)}: cannot be opened as a store: {error.orig}") from None
    except InputError:
        engine.dispose()
        raise
    return engine


def write_back(engine: Engine) -> None:
    """Moves what SQLite's log holds into the database's file, on the disk, while others read and write.

    What is left for a write that finds the log full is then little. A server database sees to that by itself.
    """
    path = engine.url.database
    if engine.dialect.name == "sqlite" and path not in (None, "", ":memory:"):
        with closing(sqlite3.connect(str(path), timeout=BUSY_TIMEOUT_S)) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")


def shown(url: URL) -> str:
    """The address as messages may show it: without the password."""
    if url.get_backend_name() == "sqlite":
        return url.database or "the store in memory"
    return url.render_as_string(hide_password=True)


def _url(url_or_path: str | Path) -> URL:
    if "://" not in str(url_or_path):
        return _file_url(Path(url_or_path))
    try:
        url = make_url(str(url_or_path))
    except ArgumentError:
        raise InputError("the store's URL cannot be read; e.g. postgresql://user@host/database") from None
    if url.drivername in ("postgres", "postgresql"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername == "sqlite" and url.database not in (None, "", ":memory:"):
        return _file_url(Path(str(url.database)))
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise InputError(f"{shown(url)}: a store is a file (SQLite) or a postgresql:// URL, nothing else")
    return url


def _file_url(path: Path) -> URL:
    if path.is_dir():
        raise InputError(f"{path}: is a folder; the store needs a file, e.g. {path / 'trimtab.db'}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: its folder cannot be made: {error.strerror}") from None
    return URL.create("sqlite", database=str(path))


def _engine(url: URL, synchronous: Synchronous) -> Engine:
    try:
        if url.get_backend_name() == "sqlite":
            return _sqlite_engine(url, synchronous)
        return create_engine(url, pool_pre_ping=True)
    except (NoSuchModuleError, ModuleNotFoundError):
        raise InputError(
            f"{shown(url)}: no driver for it; a file path is SQLite, and PostgreSQL needs psycopg: "
            "pip install 'psycopg[binary]'"
        ) from None


def _sqlite_engine(url: URL, synchronous: Synchronous) -> Engine:
    """One connection, handed from thread to thread: SQLite has one writer anyway, and memory is one store."""
    arguments = {"check_same_thread": False, "timeout": BUSY_TIMEOUT_S}
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=0,
        pool_timeout=2 * BUSY_TIMEOUT_S,
        connect_args=arguments,
    )
    event.listen(engine, "connect", partial(_set_up_sqlite, synchronous))
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(synchronous: Synchronous, connection: Any, record: Any) -> None:
    connection.isolation_level = None  # the driver begins no transaction of its own: _begin_sqlite does
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute(f"PRAGMA synchronous={synchronous}")
    cursor.execute(f"PRAGMA wal_autocheckpoint={LOG_PAGES[synchronous]}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """Writers take the lock at once; waiting for it later, after a read, is not possible in SQLite."""
    writes = connection.get_execution_options().get("trimtab_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def migrations() -> Config:
    """What alembic's commands need to know; they also want a `connection` among its attributes."""
    config = Config(attributes={"version_table": VERSION_TABLE})
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


def _bring_up_to_date(engine: Engine) -> None:
    """Runs the missing steps in one transaction, so that a killed opening leaves nothing half made."""
    config = migrations()
    script = ScriptDirectory.from_config(config)
    with _ONE_AT_A_TIME, engine.execution_options(trimtab_writes=True).begin() as connection:
        if _version(connection, script) != script.get_current_head():
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def step_down(url_or_path: str | Path, to: str) -> tuple[str, str]:
    """Takes a store's schema back to an older version, for an older trimtab; where it was, and where it is.

    What only newer versions keep is deleted. Opening the store with this version brings it up again.

    Args:
        url_or_path: a database URL, or the file of an SQLite database.
        to: the version: the name of a migration, e.g. 0004_versions.

    Raises:
        InputError: the address cannot be used, there is no such version, or it is not older.
    """
    url = _url(url_or_path)
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).is_file():
        raise InputError(f"{shown(url)}: there is no store")
    engine = _engine(url, "FULL")
    try:
        return _stepped_down(engine, to)
    except DBAPIError as error:
        raise InputError(f"{shown(url)}: cannot be stepped down: {error.orig}") from None
    finally:
        engine.dispose()


def _stepped_down(engine: Engine, to: str) -> tuple[str, str]:
    config = migrations()
    script = ScriptDirectory.from_config(config)
    with _ONE_AT_A_TIME, engine.execution_options(trimtab_writes=True).begin() as connection:
        now = _version(connection, script)
        older = _older(script, now)
        if to not in older:
            raise InputError(
                f"{shown(engine.url)}: its schema is {now}; it can go back to "
                f"{', '.join(older) or 'nothing'}, not to {to!r}"
            )
        config.attributes["connection"] = connection
        command.downgrade(config, to)
    return str(now), to


def _older(script: ScriptDirectory, now: str | None) -> list[str]:
    """The versions below this one, newest first."""
    if now is None:
        return []
    return [step.revision for step in script.iterate_revisions(now, "base")][1:]


def _version(connection: Connection, script: ScriptDirectory) -> str | None:
    """The schema's version; None for an empty database."""
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    version = context.get_current_revision()
    place = shown(connection.engine.url)
    if version is None and (tables := inspect(connection).get_table_names()):
        raise InputError(
            f"{place}: a database of something else (it has a table {tables[0]!r}); name another"
        )
    if version is not None and version not in {step.revision for step in script.walk_revisions()}:
        raise InputError(
            f"{place}: written by a newer trimtab (schema {version!r}); upgrade trimtab, or name another"
        )
    return version
