"""What of the store is PostgreSQL's own; that all laws of the store hold there, `make stores` tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine

from trimtab.data import Feedback, FeedbackKind
from trimtab.errors import RunError
from trimtab.store import Store
from trimtab.store.database import VERSION_TABLE, migrations
from trimtab.store.tables import metadata
from trimtab.types import (
    Call,
    Candidate,
    Completion,
    Draws,
    Judgement,
    Outcome,
    Purpose,
    Reply,
    Usage,
    Verdict,
)

pytestmark = pytest.mark.slow

ODD = "NUL \0, half a pair \ud83d, é, 😀, 'quoted' \\ %s"
PAID = Usage(1, 2, 1, 0.1)


def reply(key: str) -> Reply:
    """Two draws and the call that paid for them, both named by the key."""
    about = (Purpose.SAMPLING, ODD, "http://box/v1", "KEY", Outcome.PAID)
    call = Call(f"call of {key}", *about, PAID, 0.1, 1.0, error=ODD)
    return Reply(key, 3, ODD, (Completion(ODD), Completion("", "length")), (call,))


@pytest.fixture(scope="module")
def store(postgres: str) -> Iterator[Store]:
    with Store.open(postgres) as opened:
        yield opened


def test_the_migrations_make_exactly_the_declared_tables_on_postgres_too(postgres: str, store: Store) -> None:
    engine = create_engine(postgres.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []
    engine.dispose()
    Store.open(postgres).close()  # a second opening finds the schema up to date


def test_any_text_comes_back_from_postgres_as_it_was(store: Store) -> None:
    candidates = (Candidate(ODD, ODD, float("-inf"), 0.1, Verdict.RIGHT), Candidate("", None))
    judgement = Judgement("q", (0,), (1,), "ai", (ODD,), 2, Usage(1, 2, 3, None))
    said = Feedback("q?", FeedbackKind.PREFERENCE, ODD, ODD, source=ODD)
    store.samples_of("r").keep([reply("key")])
    store.put_candidates("r", 0, "q", candidates)
    store.put_judgement("r", 0, judgement)
    store.put_round("r", 0, {"note": ODD, "loss": 0.1}, Path("folder"))
    assert store.samples_of("r").kept([Draws("key", 0, 9), Draws("other", 0, 9)]) == [
        {3: Completion(ODD), 4: Completion("", "length")},
        {},
    ]
    assert store.usage_of("r") == store.usage_of_key("KEY", "http://box/v1") == PAID
    assert store.candidates("r", 0) == {"q": candidates}
    assert store.judgements("r", 0) == {"q": judgement}
    assert store.rounds("r")[0].record == {"note": ODD, "loss": 0.1}
    assert (store.add_feedback([said, said]), store.add_feedback([said])) == (1, 0)
    assert store.feedback_for(" q?") == (said,)


def test_threads_that_keep_the_same_draws_on_postgres_neither_count_twice_nor_wait_for_each_other(
    store: Store,
) -> None:
    failures: list[Exception] = []

    def keep_all(backwards: bool) -> None:
        replies = [reply(f"shared-{number}") for number in range(120)]
        try:
            for at in range(0, 120, 30):
                part = replies[at : at + 60]
                store.samples_of("threads").keep(part[::-1] if backwards else part)
        except RunError as error:
            failures.append(error)

    threads = [threading.Thread(target=keep_all, args=(at % 2 == 0,)) for at in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.usage_of("threads").calls == 120


def test_the_money_of_old_responses_survives_the_step_up_and_down_on_postgres(postgres: str) -> None:
    engine, config = create_engine(postgres.replace("postgresql:", "postgresql+psycopg:")), migrations()
    engine.dispose()
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
        config.attributes["connection"] = connection
        command.upgrade(config, "0001_first_tables")
        connection.exec_driver_sql(
            "INSERT INTO responses VALUES ('k1', 'r', 'box', '[{}, {}]', 1, 10, 20, 0.25, now()), "
            "('k2', 'r', 'box', '[]', 1, 10, 20, 0.5, now())"
        )
    with Store.open(postgres) as store:
        assert store.usage_of("r") == Usage(20, 40, 2, 0.75)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001_first_tables")
        sums = "SELECT SUM(calls), SUM(usd) FROM responses WHERE run_id = 'r'"
        assert tuple(connection.exec_driver_sql(sums).one()) == (2, 0.75)
    engine.dispose()
    with Store.open(postgres) as store:
        assert store.usage_of("r") == Usage(20, 40, 2, 0.75)
