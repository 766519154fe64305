"""Laws of writing back: what is in the log comes to stand in the file, and nobody waits for it."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from trimtab.errors import RunError
from trimtab.serve.upkeep import meanwhile, writing_back
from trimtab.store import Inference, Store


def answered(number: int) -> Inference:
    return Inference(str(number), 1.0, "sums", 1, "q?", (), (), "2", "answered")


def in_the_file_alone(path: Path) -> int:
    """How many answers the database's file holds without its log."""
    copy = Path(shutil.copy(path, path.with_name("copy.db")))
    with closing(sqlite3.connect(copy)) as connection:
        return int(connection.execute("SELECT count(*) FROM inferences").fetchone()[0])


def test_what_was_written_stands_in_the_file_once_it_is_written_back(tmp_path):
    path = tmp_path / "store.db"
    with Store.open(path, survives_power_cut=False) as store:
        store.write_back()
        store.add_inferences([answered(number) for number in range(3)])
        assert in_the_file_alone(path) == 0
        store.write_back()
        assert in_the_file_alone(path) == 3


def test_while_a_transaction_is_open_writing_back_waits_for_none_and_loses_none(tmp_path):
    path = tmp_path / "store.db"
    with Store.open(path, survives_power_cut=False) as store, closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        store.write_back()
        other.rollback()
        store.add_inferences([answered(1)])
        assert store.inference("1") == answered(1)


def test_a_store_in_memory_has_nothing_to_write_back():
    with Store.in_memory() as store:
        store.write_back()


def test_a_file_that_cannot_be_written_back_is_our_error(tmp_path):
    path = tmp_path / "store.db"
    store = Store.open(path)
    store.close()
    path.write_bytes(b"no database at all, but long enough to be looked at as one" * 100)
    with pytest.raises(RunError, match="cannot be written"):
        store.write_back()


async def test_what_goes_on_meanwhile_ends_with_what_stands_inside(tmp_path):
    ended = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    with Store.in_memory() as store:
        async with meanwhile(work(), writing_back(store)):
            await asyncio.sleep(0)
    assert ended == [True]
