"""Laws of the book of batches: what is noted is found again, by any run, until it has ended."""

from __future__ import annotations

import pytest

from trimtab.cli.batching import BatchBook, batch_draws
from trimtab.cli.client import Client
from trimtab.cli.settings import Settings
from trimtab.errors import ConfigError
from trimtab.llm.batch import Batch, State
from trimtab.store import Store
from trimtab.types import Draws

ASKED = (("sampling-0", Draws("key a", 0, 3)), ("judging-1", Draws("key b", 5, 1)))


def test_a_batch_is_open_from_plan_to_end_and_comes_back_as_it_was_noted(tmp_path):
    with Store.open(tmp_path / "store.db") as store:
        book = BatchBook(store, "run 1")
        book.put(Batch("b1", "KEY", "http://peer/v1", "", State.PLANNED, ASKED))
        book.note("b1", State.UPLOADED, "file-1")
    with Store.open(tmp_path / "store.db") as store:
        (found,) = BatchBook(store, "another run").open()
        assert found == Batch("b1", "KEY", "http://peer/v1", "file-1", State.UPLOADED, ASKED)
        BatchBook(store, "another run").note("b1", State.ENDED, "batch-1")
        assert list(BatchBook(store, "run 1").open()) == []


def test_what_was_dropped_is_open_no_more():
    with Store.in_memory() as store:
        book = BatchBook(store, "run 1")
        for name in ("b1", "b2"):
            book.put(Batch(name, "KEY", "http://peer/v1", "", State.PLANNED, ASKED))
        book.note("b1", State.DROPPED, "")
        assert [batch.id for batch in book.open()] == ["b2"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"provider": "litellm"}, "litellm"),
        ({"cache": False}, "--no-cache"),
        ({"model": "some-model-of-nobody", "unpriced": True}, "capabilities batch=yes"),
    ],
)
def test_what_does_not_go_with_a_batch_is_refused_before_anything_is_asked(tmp_path, given, said):
    usual = {
        "model": "gpt-4o-mini",
        "base_url": "http://127.0.0.1:9/v1",
        "work_dir": tmp_path,
        "unpriced": True,
    }
    settings = Settings(**{**usual, **given})
    with Store.in_memory() as store, pytest.raises(ConfigError, match=said):
        batch_draws(settings, Client(settings, store, "run 1"), store, "run 1")


async def test_with_nothing_to_buy_nobody_is_asked(tmp_path):
    settings = Settings(
        model="gpt-4o-mini", base_url="http://127.0.0.1:9/v1", work_dir=tmp_path, unpriced=True, batch=True
    )
    with Store.in_memory() as store:
        draws = batch_draws(settings, Client(settings, store, "run 1"), store, "run 1")
        assert (await draws.prepaid([])).asked == 0
