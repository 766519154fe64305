"""Versions, feedback and keys' limits on a real PostgreSQL server: the laws of SQLite, and many at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trimtab.data import Feedback, FeedbackKind
from trimtab.errors import InputError
from trimtab.store import ApiKey, Inference, Store, VersionStatus
from trimtab.types import Candidate

pytestmark = pytest.mark.slow

ODD = "NUL \0, half a pair \ud83d, é, 😀"


@pytest.fixture(scope="module")
def store(postgres: str):
    with Store.open(postgres) as opened:
        yield opened


def with_versions(store: Store, name: str, count: int) -> None:
    store.begin_versions(name, Path("/a/v1"))
    for number in range(2, count + 1):
        store.add_version(name, Path(f"/a/v{number}"), parent=1, metrics={"why": ODD}, reason="new")


def at_once(*tasks: Callable[[], object]) -> None:
    threads = [threading.Thread(target=task) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_versions_are_promoted_and_taken_back(store):
    with_versions(store, "demo", 3)
    store.promote("demo", 2, share=0.1, reason="try")
    store.promote("demo", 2, reason="good")
    bad, good = store.rollback("demo", reason="bad")
    assert (bad.version, good.version) == (2, 1)
    assert store.versions("demo")[1].metrics == {"why": ODD}
    assert store.adapter_names() == ("demo",)


def test_of_many_who_promote_at_once_all_agree_on_the_one_that_serves(store):
    with_versions(store, "race", 6)

    def promote(version: int) -> Callable[[], object]:
        return lambda: store.promote("race", version, reason="now")

    at_once(*(promote(version) for version in range(2, 7)))
    statuses = [each.status for each in store.versions("race")]
    assert statuses.count(VersionStatus.SERVING) == 1
    assert statuses.count(VersionStatus.RETIRED) == 5


def test_feedback_keeps_its_answer_its_order_and_its_time(store):
    before = time.time()
    rows = [Feedback(f"q{at}?", FeedbackKind.RATING, ODD, "0.5", "ann", None, f"inf-{at}") for at in range(3)]
    assert store.add_feedback(rows) == 3
    heard = store.heard()
    assert [each.said for each in heard] == rows
    assert all(before - 1 <= each.at <= time.time() + 1 for each in heard)
    assert store.count_feedback("ann", since=before - 1) == 3
    assert store.count_feedback("ann", since=time.time() + 60) == store.count_feedback("bob", since=0) == 0


def test_one_id_given_at_once_with_other_words_is_kept_once(store):
    refused: list[InputError] = []

    def say(value: str) -> Callable[[], object]:
        said = Feedback("race?", FeedbackKind.VERDICT, "a", value, "ann", "1", "inf")

        def tried() -> None:
            try:
                store.add_feedback([said])
            except InputError as error:
                refused.append(error)

        return tried

    at_once(say("right"), say("wrong"))
    assert (len(store.feedback_for("race?")), len(refused)) == (1, 1)


def test_of_many_who_ask_with_one_key_at_once_as_many_are_admitted_as_may(store):
    store.add_key(ApiKey("many", "", "digest", (), 1.0))
    waits: list[float] = []
    places: list[bool] = []

    def ask(number: int) -> Callable[[], object]:
        def asking() -> None:
            waits.append(store.admit_key("many", 5, 100.0))
            places.append(store.take_place("many", f"place-{number}", 3, at=100.0, until=160.0))

        return asking

    at_once(*map(ask, range(12)))
    assert (waits.count(0.0), sum(places)) == (5, 3)
    assert all(wait == pytest.approx(12.0) for wait in waits if wait)
    assert store.take_place("many", "later", 3, at=160.0, until=200.0)


def test_old_words_are_deleted(store):
    said = Feedback(ODD, FeedbackKind.VERDICT, ODD, "right", "ann", None, "old")
    store.add_inferences(
        [Inference("old", 1.0, "demo", 1, ODD, (), (Candidate(ODD, None),), ODD, "answered")]
    )
    store.add_feedback([said])
    gone = store.forget(time.time() + 60, at=2.0)
    assert (gone.answers, gone.feedback >= 1, store.heard()) == (1, True, ())
    assert ODD not in repr(store.inference("old"))
