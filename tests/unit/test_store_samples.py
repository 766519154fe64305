"""Laws of kept draws and of the ledger: each once, nothing of either lost, and draws alone are dropped."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from alembic import command
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine

from trimtab.errors import InputError, RunError
from trimtab.store import Batch, Replays, Store
from trimtab.store.database import migrations
from trimtab.store.samples import PAGE, ROW_BYTES
from trimtab.types import Call, Completion, Draws, Outcome, Purpose, Reply, SampleStore, Usage

DAY = 86400.0
any_text = st.text(st.characters(exclude_categories=[]), max_size=20)  # NUL and half pairs included
counts = st.integers(0, 2**31 - 1)
completions = st.builds(Completion, any_text, st.sampled_from(["stop", "length"]))
usages = st.builds(Usage, counts, counts, st.integers(0, 1), st.none() | st.floats(0, 1e6))
numbers = count()


def fresh(word: str) -> str:
    """A name that no other example has used in the module's store."""
    return f"{word}-{next(numbers)}"


def call(usage: Usage | None = None, **known: object) -> Call:
    paid = Usage(1, 2, 1, 0.5) if usage is None else usage
    about = {"model": "box", "endpoint": "http://box/v1", "payer": "KEY", "outcome": Outcome.PAID}
    plain = Call(
        fresh("call"),
        Purpose.SAMPLING,
        **about,
        usage=paid,
        seconds=0.1,
        started_at=1.0,  # type: ignore[arg-type]
    )
    return replace(plain, **known)  # type: ignore[arg-type]


def reply(key: str, *texts: str, start: int = 0, calls: Sequence[Call] | None = None) -> Reply:
    drawn = tuple(Completion(text) for text in texts)
    return Reply(key, start, "box", drawn, (call(),) if calls is None else tuple(calls))


def texts(store: SampleStore, key: str, n: int = 10, start: int = 0) -> dict[int, str]:
    (found,) = store.kept([Draws(key, start, n)])
    return {number: completion.text for number, completion in found.items()}


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with Store.in_memory() as opened:
        yield opened


@pytest.fixture(scope="module")
def cache() -> Iterator[Store]:
    """A store of its own, for what empties it."""
    with Store.in_memory() as opened:
        yield opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trimtab.db"


# --------------------------------------------------------------------------- draws


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.lists(completions, max_size=4)), max_size=8),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(1, 6)), min_size=1, max_size=5),
)
def test_a_draw_stays_as_it_was_first_kept_and_is_found_by_its_number(
    store: Store,
    kept: list[tuple[int, int, list[Completion]]],
    wanted: list[tuple[int, int, int]],
) -> None:
    name, expected = fresh("keys"), {}
    account = store.samples_of(name)
    replies = [Reply(f"{name}/{key}", start, "box", tuple(drawn), ()) for key, start, drawn in kept]
    account.keep(replies[::2])
    account.keep(replies[1::2])
    for each in (*replies[::2], *replies[1::2]):
        for number, completion in enumerate(each.completions, each.start):
            expected.setdefault((each.key, number), completion)
    asked = [Draws(f"{name}/{key}", start, n) for key, start, n in wanted]
    assert account.kept(asked) == [
        {at: expected[d.key, at] for at in range(d.start, d.start + d.n) if (d.key, at) in expected}
        for d in asked
    ]


def test_more_requests_than_one_statement_takes_are_kept_and_found(store: Store) -> None:
    name = fresh("many")
    store.samples_of(name).keep([reply(f"{name}/{at}", str(at)) for at in range(1201)])
    found = store.samples_of(name).kept([Draws(f"{name}/{at}", 0, 1) for at in range(1201)])
    assert [each[0].text for each in found] == [str(at) for at in range(1201)]
    assert store.usage_of(name).calls == 1201


def test_what_one_store_kept_another_on_the_same_place_finds_at_once(place: str) -> None:
    with Store.open(place) as writer, Store.open(place) as reader:
        for number in range(5):
            writer.samples_of("run").keep([reply(str(number), "hi")])
            assert texts(reader.samples_of("run"), str(number)) == {0: "hi"}


@pytest.mark.parametrize("is_file", [True, False])
def test_threads_that_keep_at_once_lose_nothing_and_keep_each_line_once(path: Path, is_file: bool) -> None:
    shared = [reply(f"shared-{number}", "s") for number in range(10)]
    with Store.open(path, survives_power_cut=False) if is_file else Store.in_memory() as store:

        def keep_all(thread: int) -> None:
            for number in range(10):
                store.samples_of("run").keep([shared[number], reply(f"own-{thread}-{number}", "o")])

        threads = [threading.Thread(target=keep_all, args=(thread,)) for thread in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        account = store.samples_of("run")
        assert all(texts(account, f"own-{t}-{n}") == {0: "o"} for t in range(6) for n in range(10))
        assert store.usage_of("run").calls == 70


def test_a_store_that_cannot_be_written_says_so(path: Path) -> None:
    with Store.open(path) as store, store._write() as connection:
        connection.exec_driver_sql("DROP TABLE samples")
    with Store.open(path) as store:
        with pytest.raises(RunError, match="cannot be written: no such table"):
            store.samples_of("r").keep([reply("key", "hi")])
        assert store.usage_of("r") == Usage()  # all of a write or nothing


# --------------------------------------------------------------------------- ledger


@given(st.lists(st.tuples(st.integers(0, 4), usages, st.sampled_from(Outcome)), max_size=12))
def test_the_usage_of_a_run_is_the_sum_over_its_calls_each_counted_once(
    store: Store, made: list[tuple[int, Usage, Outcome]]
) -> None:
    run_id, expected = fresh("run"), {}
    for at, usage, outcome in made:
        line = call(usage, id=f"{run_id}/{at}", outcome=outcome)
        store.samples_of(run_id).keep([reply(fresh("key"), calls=[line])])
        expected.setdefault(at, line)
    store.samples_of(fresh("other")).keep([reply(fresh("key"), "hi")])
    for outcome in (None, *Outcome):
        lines = [line for line in expected.values() if outcome in (None, line.outcome)]
        total, known = store.usage_of(run_id, outcome), sum((line.usage for line in lines), Usage())
        assert (total.input_tokens, total.output_tokens) == (known.input_tokens, known.output_tokens)
        assert total.calls == known.calls
        unpriced = any(line.usage.calls and line.usage.usd is None for line in lines)
        assert total.usd is None if unpriced else (total.usd or 0) == pytest.approx(known.usd or 0)


def test_every_column_of_a_line_is_kept(path: Path) -> None:
    line = call(
        Usage(3, 4, 1, 0.1),
        purpose=Purpose.JUDGING,
        outcome=Outcome.UNCERTAIN,
        attempt=2,
        n=8,
        status=200,
        request_id="req-1",
        error="truncated \0 \ud83d",
        is_batch=True,
    )
    with Store.open(path) as store:
        store.samples_of("r").keep([reply("key", calls=[line])])
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        row = dict(connection.execute("SELECT * FROM calls").fetchone())
    known = {name: getattr(line, name) for name in row if name in Call.__slots__}
    assert row == {
        **known,
        "run_id": "r",
        "input_tokens": 3,
        "output_tokens": 4,
        "calls": 1,
        "usd": 0.1,
        "error": "truncated � ?",
    }


def test_what_a_key_has_paid_is_summed_over_runs_at_one_endpoint_or_all() -> None:
    with Store.in_memory() as store:
        for run_id, payer, endpoint in (
            ("r", "A", "one"),
            ("s", "A", "one"),
            ("s", "A", "two"),
            ("s", "B", "one"),
        ):
            store.samples_of(run_id).keep([reply(fresh("k"), calls=[call(payer=payer, endpoint=endpoint)])])
        store.forget_run("s")
        assert store.usage_of_key("A") == Usage(3, 6, 3, 1.5)
        assert store.usage_of_key("A", "one") == Usage(2, 4, 2, 1.0)
        assert store.usage_of_key("nobody") == Usage()


def test_costs_stand_apart_by_run_purpose_model_and_outcome() -> None:
    with Store.in_memory() as store:
        refused = call(Usage(), outcome=Outcome.UNPAID)
        store.samples_of("r").keep([reply("a", "hi", calls=[refused, call()])])
        store.samples_of("r").keep([reply("b", calls=[call(purpose=Purpose.JUDGING, model="judge")])])
        store.samples_of("s").keep([reply("c", calls=[call(outcome=Outcome.UNCERTAIN)])])
        found = {
            (cost.run_id, cost.purpose, cost.model, cost.outcome): (cost.requests, cost.usage.calls)
            for cost in store.costs()
        }
        assert found == {
            ("r", Purpose.SAMPLING, "box", Outcome.PAID): (1, 1),
            ("r", Purpose.SAMPLING, "box", Outcome.UNPAID): (1, 0),
            ("r", Purpose.JUDGING, "judge", Outcome.PAID): (1, 1),
            ("s", Purpose.SAMPLING, "box", Outcome.UNCERTAIN): (1, 1),
        }
        assert [cost.run_id for cost in store.costs("s")] == ["s"]
        assert sum((cost.usage for cost in store.costs("r")), Usage()) == store.usage_of("r")


def test_a_forgotten_run_keeps_its_draws_and_its_money() -> None:
    with Store.in_memory() as store:
        store.start_run("r", "adapt", {})
        store.samples_of("r").keep([reply("key", "hi")])
        store.forget_run("r")
        assert store.runs() == ()
        assert texts(store.samples_of("r"), "key") == {0: "hi"}
        assert store.usage_of("r") == Usage(1, 2, 1, 0.5)


def test_what_another_run_paid_for_is_counted_once_for_each_run_that_uses_it() -> None:
    with Store.in_memory() as store:
        store.samples_of("first").keep([reply("key", "a", "b", calls=[call(Usage(1, 2, 1, 0.5))])])
        for _ in range(2):  # a resumed run asks again
            assert texts(store.samples_of("first"), "key") == {0: "a", 1: "b"}
        assert store.replays() == {}
        for _ in range(2):
            assert texts(store.samples_of("second"), "key", n=1) == {0: "a"}
        assert texts(store.samples_of("second"), "key") == {0: "a", 1: "b"}
        assert store.replays() == {"second": Replays(2, 0.5)}
        assert store.usage_of("second") == Usage()


# --------------------------------------------------------------------------- bounds


def test_the_summary_tells_models_apart() -> None:
    with Store.in_memory() as store:
        store.samples_of("r").keep([reply("a", "xx", "yy"), reply("b", "é"), Reply("c", 4, "other", (), ())])
        (line,) = store.cache_summary()
        assert (line.model, line.requests, line.draws) == ("box", 2, 3)
        assert line.bytes == 3 * ROW_BYTES + 2 + 2 + len('"\\u00e9"') == store.cache_bytes()
        assert line.usd == pytest.approx(1.0)
        assert 0 <= time.time() - line.newest < 60


@given(st.lists(st.integers(0, 2000), max_size=12), st.floats(0, 12_000))
def test_the_oldest_draws_go_first_and_no_more_than_has_to(
    cache: Store, sizes: list[int], most: float
) -> None:
    cache.prune(max_bytes=0)
    for at, size in enumerate(sizes):
        cache.samples_of("r").keep([reply(f"{at:02}", "x" * size)])
    before, usage = cache.cache_bytes(), cache.usage_of("r")
    told = cache.prune(max_bytes=most, dry_run=True)
    assert cache.cache_bytes() == before
    assert cache.prune(max_bytes=most) == told
    left = [int(draw.key) for draw in cache.kept_draws()]
    assert left == list(range(len(sizes)))[len(sizes) - len(left) :]
    assert told.draws == len(sizes) - len(left)
    assert cache.cache_bytes() == told.bytes_left == before - told.bytes <= max(most, 0)
    if told.draws:  # the last one dropped was one too many to keep
        assert told.bytes_left + sizes[told.draws - 1] + ROW_BYTES > most
    assert cache.usage_of("r") == usage


def test_draws_are_dropped_by_age_too() -> None:
    with Store.in_memory() as store:
        store.samples_of("r").keep([reply("old", "x"), reply("new", "x")])
        with store._write() as connection:
            connection.exec_driver_sql(
                f"UPDATE samples SET created_at = {time.time() - 9 * DAY} WHERE key = 'old'"
            )
        assert store.prune(keep_days=10).draws == 0
        assert store.prune(keep_days=8).draws == 1
        assert [draw.key for draw in store.kept_draws()] == ["new"]


def test_the_draws_of_an_unfinished_run_are_never_dropped_unless_told_to() -> None:
    with Store.in_memory() as store:
        for run_id in ("done", "going", "spent"):
            store.start_run(run_id, "adapt", {})
            store.samples_of(run_id).keep([reply(run_id, "x"), reply(f"{run_id}-shared", "x")])
        texts(store.samples_of("done"), "going-shared")  # paid for by an unfinished run
        texts(store.samples_of("going"), "done-shared")  # used by one
        store.finish_run("done")
        store.finish_run("spent", "spent")
        store.prune(max_bytes=0)
        assert {draw.key for draw in store.kept_draws()} == {
            "going",
            "going-shared",
            "done-shared",
            "spent",
            "spent-shared",
        }
        assert store.prune(max_bytes=0, unfinished=True).bytes_left == 0


def test_pruning_and_exporting_go_on_over_pages() -> None:
    each = 2 * PAGE // 5 + 7
    with Store.in_memory() as store:
        store.samples_of("r").keep([reply(str(key), *["x"] * each, calls=[]) for key in range(5)])
        exported = [(draw.key, draw.number) for draw in store.kept_draws()]
        assert exported == [(str(key), at) for key in range(5) for at in range(each)]
        assert [draw.key for draw in store.kept_draws(["3", "nothing"])] == ["3"] * each
        assert store.prune(max_bytes=0, dry_run=True).draws == 5 * each > 2 * PAGE
        assert store.prune(max_bytes=5 * (ROW_BYTES + 1)).draws == 5 * each - 5
        assert len(list(store.kept_draws())) == 5


def test_the_room_of_dropped_draws_goes_back_to_the_disk(path: Path) -> None:
    with Store.open(path, survives_power_cut=False) as store:
        store.samples_of("r").keep([reply(str(at), "x" * 20_000) for at in range(50)])
        store.prune(max_bytes=0)
        store.compact()
        assert store.usage_of("r").calls == 50
    assert path.stat().st_size < 500_000


# --------------------------------------------------------------------------- batches


def test_a_batch_comes_back_as_it_was_noted_last() -> None:
    asked = (("one", Draws("key", 3, 5)), ("two", Draws("other", 0, 1)))
    batch = Batch("b1", "r", "KEY", "http://box/v1", "", "planned", asked)
    with Store.in_memory() as store:
        store.put_batch(batch)
        store.put_batch(replace(batch, id="b2", run_id="s"))
        store.set_batch("b1", "submitted", remote_id="file-7")
        sent = replace(batch, status="submitted", remote_id="file-7")
        assert store.batches("r") == (sent,)
        assert [each.id for each in store.batches()] == ["b1", "b2"]
        assert store.batches("r", "planned") == ()
        assert [each.id for each in store.batches(status=["planned", "submitted"])] == ["b1", "b2"]
        store.put_batch(replace(sent, status="ended"))
        assert store.batches("r", "ended") == (replace(sent, status="ended"),)
        with pytest.raises(InputError, match="no batch 'b9'"):
            store.set_batch("b9", "ended")


# --------------------------------------------------------------------------- from the first tables


def test_the_money_of_old_responses_survives_the_step_up_and_the_step_down(path: Path) -> None:
    engine, config = create_engine(f"sqlite:///{path}"), migrations()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001_first_tables")
        connection.exec_driver_sql(
            "INSERT INTO responses VALUES (?, ?, 'box', ?, ?, 10, 20, ?, '2026-01-02 03:04:05')",
            [
                ("k1", "r", json.dumps([{"text": "a", "finish": "stop"}] * 2), 1, 0.25),
                ("k2", "r", "[]", 1, 0.5),
                ("k3", None, "[]", 1, None),
            ],
        )
    with Store.open(path) as store:
        assert store.usage_of("r") == Usage(20, 40, 2, 0.75)
        assert sum(cost.usage.calls for cost in store.costs()) == 3
        assert store.cache_summary() == ()
        store.samples_of("r").keep([reply("new", "hi")])
        usage = store.usage_of("r")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001_first_tables")
        old = connection.exec_driver_sql(
            "SELECT SUM(calls), SUM(usd) FROM responses WHERE run_id = 'r'"
        ).one()
        assert tuple(old) == (usage.calls, usage.usd)
        assert connection.exec_driver_sql("SELECT COUNT(*) FROM responses WHERE key = 'k1'").scalar() == 0
    engine.dispose()
    with Store.open(path) as store:
        assert store.usage_of("r") == usage
