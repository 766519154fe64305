"""Laws of versions: one serves, a canary has its share, what is taken back is not gone back to."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import InputError
from trimtab.store import Store, VersionStatus, lot_of

SERVING, CANARY, RETIRED, CANDIDATE = (
    VersionStatus.SERVING,
    VersionStatus.CANARY,
    VersionStatus.RETIRED,
    VersionStatus.CANDIDATE,
)


@pytest.fixture
def store():
    with Store.in_memory() as made:
        yield made


@pytest.fixture(scope="module")
def one_store():
    """For all examples of a property: making one takes longer than they do."""
    with Store.in_memory() as made:
        yield made


def with_versions(store: Store, count: int) -> None:
    store.begin_versions("demo", Path("/a/v1"))
    for number in range(2, count + 1):
        store.add_version(
            "demo", Path(f"/a/v{number}"), parent=number - 1, metrics={"n": number}, reason="new"
        )


def statuses(store: Store) -> list[VersionStatus]:
    return [each.status for each in store.versions("demo")]


def test_an_adapter_without_versions_has_none_and_its_folder_becomes_the_first(store):
    assert store.versions("demo") == ()
    first = store.begin_versions("demo", Path("/a/v1"))
    assert (first.version, first.status, first.share, first.folder) == (1, SERVING, 1.0, Path("/a/v1"))
    assert store.begin_versions("demo", Path("/elsewhere")) == first


def test_a_new_version_waits_and_changes_nothing_of_what_serves(store):
    with_versions(store, 2)
    made = store.versions("demo")[1]
    assert (made.version, made.parent, made.metrics, made.status) == (2, 1, {"n": 2}, CANDIDATE)
    assert store.begin_versions("demo", Path("x")).version == 1


def test_promoting_retires_what_served_and_rolling_back_brings_it_back(store):
    with_versions(store, 2)
    assert store.promote("demo", 2, reason="better").status is SERVING
    assert statuses(store) == [RETIRED, SERVING]
    bad, good = store.rollback("demo", reason="worse")
    assert (bad.version, good.version, statuses(store)) == (2, 1, [SERVING, RETIRED])


def test_a_canary_answers_its_share_beside_what_serves_and_a_rollback_takes_it_first(store):
    with_versions(store, 2)
    canary = store.promote("demo", 2, share=0.1, reason="try")
    assert (canary.status, canary.share, statuses(store)) == (CANARY, 0.1, [SERVING, CANARY])
    bad, good = store.rollback("demo", reason="no")
    assert (bad.version, good.version, statuses(store)) == (2, 1, [SERVING, RETIRED])


def test_there_is_one_canary_and_a_promoted_canary_serves_whole(store):
    with_versions(store, 3)
    store.promote("demo", 2, share=0.5, reason="try")
    store.promote("demo", 3, share=0.2, reason="try this")
    assert statuses(store) == [SERVING, RETIRED, CANARY]
    store.promote("demo", 3, reason="good")
    assert statuses(store) == [RETIRED, RETIRED, SERVING]


def test_what_was_taken_back_is_not_gone_back_to(store):
    with_versions(store, 3)
    store.promote("demo", 2, reason="")
    store.rollback("demo", reason="")
    store.promote("demo", 3, reason="")
    assert [each.version for each in store.rollback("demo", reason="")] == [3, 1]
    with pytest.raises(InputError, match="no version to go back to"):
        store.rollback("demo", reason="")


def test_a_candidate_that_never_served_is_not_gone_back_to(store):
    with_versions(store, 2)
    with pytest.raises(InputError, match="no version to go back to"):
        store.rollback("demo", reason="")


@pytest.mark.parametrize(
    ("name", "version", "said"),
    [("demo", 9, "no version 9"), ("demo", 1, "serves already"), ("x", 1, "no such adapter")],
)
def test_what_cannot_be_promoted_is_refused_and_changes_nothing(store, name, version, said):
    with_versions(store, 2)
    before = store.versions("demo")
    with pytest.raises(InputError, match=said):
        store.promote(name, version, reason="")
    assert store.versions("demo") == before


STEPS = st.lists(
    st.tuples(st.sampled_from(["promote", "canary", "rollback", "add"]), st.integers(1, 4)), max_size=12
)


@given(steps=STEPS)
def test_whatever_is_done_exactly_one_version_serves_and_at_most_one_is_a_canary(one_store, steps):
    name = f"adapter-{len(one_store.adapter_names())}"
    one_store.begin_versions(name, Path("/a/v1"))
    for step, number in steps:
        with suppress(InputError):
            _do(one_store, name, step, number)
    found = [each.status for each in one_store.versions(name)]
    assert found.count(SERVING) == 1
    assert found.count(CANARY) <= 1


def _do(store: Store, name: str, step: str, number: int) -> object:
    if step == "add":
        return store.add_version(name, Path(f"/a/{number}"), parent=1, metrics={}, reason="")
    if step == "rollback":
        return store.rollback(name, reason="")
    return store.promote(name, number, share=0.1 if step == "canary" else 1.0, reason="")


@given(share=st.floats(0.05, 0.95))
def test_a_canarys_share_of_questions_draws_it_and_each_question_always_the_same(share):
    lots = [lot_of(f"question {number}?") for number in range(2000)]
    assert abs(sum(lot < share for lot in lots) / len(lots) - share) < 0.05
    assert lots[0] == lot_of("  question 0? ")
