"""The store on a real PostgreSQL server, started from the machine's own binaries for these tests alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine

from trimtab.data import Feedback, FeedbackKind
from trimtab.errors import InputError
from trimtab.store import Store
from trimtab.store.database import VERSION_TABLE
from trimtab.store.tables import metadata
from trimtab.types import Candidate, Completion, Completions, Judgement, Usage, Verdict

pytestmark = pytest.mark.slow

ODD = "NUL \0, half a pair \ud83d, é, 😀, 'quoted' \\ %s"
RESPONSE = Completions((Completion(ODD), Completion("", "length")), Usage(1, 2, 1, 0.1), "box")


def server_binaries() -> Path | None:
    on_path = shutil.which("initdb")
    found = [*([Path(on_path).parent] if on_path else []), *sorted(Path("/usr/lib/postgresql").glob("*/bin"))]
    return found[-1] if found else None


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The URL of an empty database; its server listens on a socket file only and ends with the module."""
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
        server(
            "pg_ctl", "-w", "-l", str(folder / "log"), "-o", f"-k {folder} -c listen_addresses=''", "start"
        )
        yield f"postgresql://tester@/postgres?host={folder}"
        server("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def store(address: str) -> Iterator[Store]:
    with Store.open(address) as opened:
        yield opened


def test_the_migrations_make_exactly_the_declared_tables_on_postgres_too(address: str, store: Store) -> None:
    engine = create_engine(address.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []
    engine.dispose()
    Store.open(address).close()  # a second opening finds the schema up to date


def test_any_text_comes_back_from_postgres_as_it_was(store: Store) -> None:
    candidates = (Candidate(ODD, ODD, float("-inf"), 0.1, Verdict.RIGHT), Candidate("", None))
    judgement = Judgement("q", (0,), (1,), "ai", (ODD,), 2, Usage(1, 2, 3, None))
    said = Feedback("q?", FeedbackKind.PREFERENCE, ODD, ODD, source=ODD)
    store.keep("key", RESPONSE, run_id="r")
    store.put_candidates("r", 0, "q", candidates)
    store.put_judgement("r", 0, judgement)
    store.put_round("r", 0, {"note": ODD, "loss": 0.1}, Path("folder"))
    assert store.kept("key") == RESPONSE
    assert store.usage_of("r") == RESPONSE.usage
    assert store.candidates("r", 0) == {"q": candidates}
    assert store.judgements("r", 0) == {"q": judgement}
    assert store.rounds("r")[0].record == {"note": ODD, "loss": 0.1}
    assert (store.add_feedback([said, said]), store.add_feedback([said])) == (1, 0)
    assert store.feedback_for(" q?") == (said,)


def test_a_run_is_taken_up_again_on_postgres(store: Store) -> None:
    store.start_run("again", "adapt", {"lr": 0.1})
    store.finish_run("again")
    assert not store.start_run("again", "adapt", {"lr": 0.1}).is_finished
    with pytest.raises(InputError, match="other settings: lr"):
        store.start_run("again", "adapt", {"lr": 0.2})


def test_threads_that_keep_the_same_keys_on_postgres_pay_once(store: Store) -> None:
    def keep_all() -> None:
        for number in range(30):
            store.keep(f"shared-{number}", RESPONSE, run_id="threads")

    threads = [threading.Thread(target=keep_all) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.usage_of("threads").calls == 30
