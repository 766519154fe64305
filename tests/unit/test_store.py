"""Laws of the store: what was put comes back, once, and what is opened is a store of ours."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine

from trimtab.data import Feedback, FeedbackKind
from trimtab.errors import InputError, RunError
from trimtab.store import Store
from trimtab.store.database import VERSION_TABLE
from trimtab.store.tables import metadata
from trimtab.types import Candidate, Judgement, Usage, Verdict

any_text = st.text(st.characters(exclude_categories=[]), max_size=20)  # NUL and half pairs included
counts = st.integers(0, 2**31 - 1)
finite = st.floats(allow_nan=False)
usages = st.builds(Usage, counts, counts, counts, st.none() | st.floats(0, 1e6))
candidates = st.builds(
    Candidate,
    any_text,
    st.none() | any_text,
    st.none() | finite,
    st.none() | st.floats(0, 1),
    st.sampled_from(Verdict),
)
indices = st.lists(st.integers(0, 20), max_size=4).map(tuple)
judgements = st.builds(
    Judgement,
    question_id=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5),
    positives=indices,
    negatives=indices,
    source=st.sampled_from(["ground_truth", "ai", "human", "combined"]),
    extra_positives=st.lists(any_text, max_size=2).map(tuple),
    unreadable=counts,
    usage=usages,
)
feedbacks = st.builds(
    Feedback,
    question=st.sampled_from(["one? ", "two? ", " two? "]),
    kind=st.sampled_from(FeedbackKind),
    text=any_text,
    value=any_text,
    source=any_text,
    id=st.none() | st.sampled_from(["f1", "f2", "f3"]),
)
numbers = count()


def fresh(word: str) -> str:
    """A name that no other example has used in the module's store."""
    return f"{word}-{next(numbers)}"


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with Store.in_memory() as opened:
        yield opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "trimtab.db"


# --------------------------------------------------------------------------- runs and rounds


def test_a_run_can_be_taken_up_again_with_the_same_settings_only(place: str) -> None:
    config = {"lr": 0.1, "paths": ("a", Path("b")), "nested": {"seed": 1}}
    with Store.open(place) as store:
        store.start_run("r", "adapt", config)
        store.finish_run("r")
    with Store.open(place) as store:
        finished = store.run("r")
        assert finished is not None
        assert finished.is_finished
        assert not store.start_run("r", "adapt", config).is_finished
        with pytest.raises(InputError, match="other settings: lr, rounds"):
            store.start_run("r", "adapt", {**config, "lr": 0.2, "rounds": 3})
        with pytest.raises(InputError, match="as 'adapt', not 'evaluate'"):
            store.start_run("r", "evaluate", config)
        assert [run.status for run in store.runs()] == ["running"]


def test_a_run_that_never_started_cannot_finish(store: Store) -> None:
    assert store.run("nobody") is None
    with pytest.raises(InputError, match="no run 'nobody'"):
        store.finish_run("nobody")


def test_no_secret_of_a_configuration_reaches_the_file(path: Path) -> None:
    config = {
        "base_url": "https://ann:sesame-1@host:8/v1?api_key=sesame-4#sesame-5",
        "boxes": [
            "see https://host/v1 or postgresql://:sesame-6@/base?password=sesame-7, not http://[sesame-8"
        ],
        "api_key": "sesame-2",
        "headers": [{"Authorization": "Bearer sesame-3"}],
        "api_key_env": "MY_KEY",
        "max_tokens": 5,
    }
    with Store.open(path) as store:
        kept = store.start_run("r", "adapt", config).config
        assert store.start_run("r", "adapt", config).config == kept
    assert kept["base_url"] == "https://host:8/v1"
    assert kept["boxes"] == ["see https://host/v1 or postgresql:///base not http://***"]
    assert (kept["api_key_env"], kept["max_tokens"]) == ("MY_KEY", 5)
    assert not [file for file in path.parent.iterdir() if b"sesame" in file.read_bytes()]


@given(st.dictionaries(st.sampled_from(["q1", "q2", "q3"]), st.lists(candidates, min_size=1, max_size=4)))
def test_candidates_come_back_in_the_order_put(store: Store, found: dict[str, list[Candidate]]) -> None:
    run_id = fresh("candidates")
    for question_id, put in found.items():
        store.put_candidates(run_id, 1, question_id, [Candidate("replaced", None)] * 5)
        store.put_candidates(run_id, 1, question_id, put)
        store.put_candidates(run_id, 2, question_id, put[:1])
    assert store.candidates(run_id, 1) == {key: tuple(put) for key, put in found.items()}
    assert store.candidates(run_id, 3) == store.candidates(fresh("other"), 1) == {}


@given(st.lists(judgements, max_size=4))
def test_the_last_judgement_of_a_question_comes_back_as_it_was(store: Store, put: list[Judgement]) -> None:
    run_id = fresh("judgements")
    for judgement in put:
        store.put_judgement(run_id, 0, judgement)
    assert store.judgements(run_id, 0) == {judgement.question_id: judgement for judgement in put}
    assert store.judgements(run_id, 1) == {}


def test_rounds_come_back_in_their_order_and_the_last_record_counts(store: Store) -> None:
    store.put_round("rounds", 1, {"loss": 0.5}, "runs/1")
    store.put_round("rounds", 0, {"loss": 2.0})
    store.put_round("rounds", 1, {"loss": 0.25, "kept": [1, None, "x"]}, Path("runs/1b"))
    first, second = store.rounds("rounds")
    assert (first.round, first.record, first.adapter) == (0, {"loss": 2.0}, None)
    assert (second.record, second.adapter) == ({"loss": 0.25, "kept": [1, None, "x"]}, Path("runs/1b"))


def test_what_is_not_a_number_is_refused_and_the_earlier_row_stays(store: Store) -> None:
    nan = float("nan")
    store.put_round("nan", 0, {"loss": 1.0})
    with pytest.raises(RunError, match="cannot be written"):
        store.put_round("nan", 0, {"loss": nan})
    store.put_candidates("nan", 0, "q", [Candidate("fine", "1", score=1.0)])
    with pytest.raises(RunError, match="score of a candidate is not a number"):
        store.put_candidates("nan", 0, "q", [Candidate("odd", "1", score=nan)])
    assert store.rounds("nan")[0].record == {"loss": 1.0}
    assert store.candidates("nan", 0)["q"][0].text == "fine"


def test_a_forgotten_run_leaves_no_round_behind_and_others_stay(place: str) -> None:
    with Store.open(place) as store:
        for run_id in ("r", "s"):
            store.start_run(run_id, "adapt", {})
            store.put_candidates(run_id, 0, "q", [Candidate("x", "x")])
            store.put_judgement(run_id, 0, Judgement("q", (0,), (), "ai"))
            store.put_round(run_id, 0, {})
        store.forget_run("r")
        assert [run.id for run in store.runs()] == ["s"]
        assert (store.candidates("r", 0), store.judgements("r", 0), store.rounds("r")) == ({}, {}, ())
        assert len(store.candidates("s", 0)) == len(store.judgements("s", 0)) == len(store.rounds("s")) == 1


def test_a_run_knows_when_it_first_started(place: str) -> None:
    with Store.open(place) as store:
        first = store.start_run("r", "adapt", {}).started_at
        store.start_run("r", "adapt", {})
        known = store.run("r")
    assert known is not None
    assert first is not None
    assert known.started_at == first
    assert known.updated_at is not None
    assert known.updated_at > first


# --------------------------------------------------------------------------- feedback


@given(st.lists(feedbacks, max_size=8))
def test_feedback_is_added_once_and_found_by_its_question_in_order_of_arrival(
    store: Store, drawn: list[Feedback]
) -> None:
    mark = fresh("example")
    said = [
        replace(f, question=f"{f.question}{mark} ", id=f.id and f"{f.id} {f.text} {f.value}") for f in drawn
    ]
    first: dict[str, Feedback] = {}
    for row in said:
        first.setdefault(row.key, row)
    assert store.add_feedback(said) == len(first)
    assert store.add_feedback(said) == 0
    for question in (f"one? {mark}", f"two? {mark}"):
        expected = [row for row in first.values() if row.question.strip() == question]
        assert list(store.feedback_for(f"\n{question}")) == expected
    assert store.feedback_for(f"three? {mark}") == ()


def test_ids_that_two_files_share_lose_no_row(store: Store) -> None:
    mark = fresh("file")
    files = [
        [Feedback(f"{name} {mark} {at}", FeedbackKind.CORRECTION, "so", id=str(at)) for at in range(2)]
        for name in ("first", "second")
    ]
    assert [store.add_feedback(rows) for rows in files] == [2, 2]
    for row in (*files[0], *files[1]):
        assert store.feedback_for(row.question) == (row,)


def test_an_id_that_comes_again_with_other_words_is_refused_and_nothing_is_added(store: Store) -> None:
    mark = fresh("refused")
    said = Feedback(f"one? {mark}", FeedbackKind.VERDICT, "t", "right", "ann", id="1")
    assert store.add_feedback([said]) == 1
    with pytest.raises(InputError, match="'1' of 'ann'"):
        store.add_feedback([replace(said, question=f"two? {mark}", id="2"), replace(said, value="wrong")])
    assert store.feedback_for(f"two? {mark}") == ()


# --------------------------------------------------------------------------- opening


def test_the_migrations_make_exactly_the_tables_that_are_declared(path: Path) -> None:
    Store.open(path).close()
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_a_file_is_written_ahead_and_flushed_unless_a_power_cut_may_lose_it(path: Path) -> None:
    flushed = {}
    for survives in (True, False):
        with Store.open(path, survives_power_cut=survives) as store, store._read() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            flushed[survives] = connection.exec_driver_sql("PRAGMA synchronous").scalar()
    assert flushed == {True: 2, False: 1}  # SQLite's numbers for FULL and NORMAL


def test_stores_opened_at_once_on_an_empty_place_agree(place: str) -> None:
    opened: list[Store] = []
    threads = [threading.Thread(target=lambda: opened.append(Store.open(place))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    opened[0].put_round("r", 0, {"seen": "by all"})
    assert [store.rounds("r")[0].record for store in opened] == [{"seen": "by all"}] * 4
    for store in opened:
        store.close()


def test_a_file_that_is_no_database_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("These are my notes, not a database. " * 50)
    with pytest.raises(InputError, match=r"notes\.txt: cannot be opened as a store"):
        Store.open(path)
    assert path.read_text() == "These are my notes, not a database. " * 50
    assert list(tmp_path.iterdir()) == [path]


def test_another_programs_database_is_refused_and_gets_no_table_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE invoices (id INTEGER)")
    with pytest.raises(InputError, match="has a table 'invoices'"):
        Store.open(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("invoices",)]


def test_a_store_of_a_newer_version_is_refused(path: Path) -> None:
    Store.open(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '0099_from_the_future'")
        connection.commit()
    with pytest.raises(InputError, match="newer trimtab"):
        Store.open(path)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nosuch://ann:sesame@host/x", "no driver|nothing else"),
        ("mysql://ann:sesame@host/x", "nothing else"),
        ("://", "cannot be read"),
        ("postgresql://ann:sesame@127.0.0.1:1/x", "no driver|cannot be opened"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_its_password(address: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as excinfo:
        Store.open(address)
    assert "sesame" not in str(excinfo.value)


def test_a_folder_and_a_place_below_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        Store.open(tmp_path)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InputError, match="folder cannot be made"):
        Store.open(file / "below" / "trimtab.db")


def test_a_damaged_store_is_told_as_such(path: Path) -> None:
    with Store.open(path) as store, store._write() as connection:
        connection.exec_driver_sql("DROP TABLE rounds")
    with Store.open(path) as store, pytest.raises(RunError, match="cannot be read: no such table"):
        store.rounds("r")
