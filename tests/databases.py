"""A real PostgreSQL server from the machine's own binaries, and empty databases on it."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def server_binaries() -> Path | None:
    on_path = shutil.which("initdb")
    found = [*([Path(on_path).parent] if on_path else []), *sorted(Path("/usr/lib/postgresql").glob("*/bin"))]
    return found[-1] if found else None


@contextmanager
def postgres_server(settings: str = "") -> Iterator[str]:
    """The URL of an empty database; its server listens on a socket file only and ends with the block."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    binaries = server_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server on this machine")
    owner = "nobody" if os.geteuid() == 0 else None  # the server refuses to be root
    folder = Path(tempfile.mkdtemp(prefix="trimtab-pg-", dir="/tmp"))
    if owner:
        shutil.chown(folder, owner)

    def server(program: str, *arguments: str) -> None:
        command = [str(binaries / program), "-D", str(folder / "data"), *arguments]
        subprocess.run(command, user=owner, check=True, cwd=folder, stdout=subprocess.DEVNULL)

    try:
        server("initdb", "-A", "trust", "-U", "tester", "-E", "UTF8")
        options = f"-k {folder} -c listen_addresses='' {settings}"
        server("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
        yield f"postgresql://tester@/postgres?host={folder}"
        server("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


@contextmanager
def empty_databases() -> Iterator[Callable[[], str]]:
    """Gives the URL of a new, empty database at each call."""
    from sqlalchemy import create_engine, text

    # Nothing here outlives its test: flushing to the disk is left to the tests of what survives a crash.
    with postgres_server("-c fsync=off") as url:
        driven = url.replace("postgresql:", "postgresql+psycopg:")
        engine = create_engine(driven, isolation_level="AUTOCOMMIT")
        numbers = itertools.count()

        def another() -> str:
            name = f"t{next(numbers)}"
            with engine.connect() as connection:
                connection.execute(text(f"CREATE DATABASE {name}"))
            return url.replace("/postgres?", f"/{name}?")

        yield another
        engine.dispose()
