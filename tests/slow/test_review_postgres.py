"""The reviews on a real PostgreSQL server: the same queue, undo and agreement as on SQLite."""

from __future__ import annotations

import pytest

from reviews import filled, served
from trimtab.serve.choices import agreement, better, chosen, none_right
from trimtab.store import Store

pytestmark = pytest.mark.slow

ANNA, BEN = "review:anna", "review:ben"
ODD = "NUL \0, half a pair \ud83d, é, 😀"


def reviewed(store: Store) -> list[object]:
    """What a small round of reviews leaves behind."""
    filled(store, 6)
    store.add_inferences([served(7, confidence=None), served(8, candidates=(), chosen=None)])
    for number, pick in enumerate([0, 1, 2]):
        store.add_feedback(chosen(served(number), pick, ANNA))
        store.add_feedback(chosen(served(number), 0, BEN))
    store.add_feedback(better(served(3), ODD, ANNA))
    store.add_feedback(none_right(served(4), ANNA))
    undone = store.withdraw_review(ANNA)
    order, after = [], None
    while (found := store.next_to_review(ANNA, after=after)) is not None:
        order.append(after := found.id)
    queue = [each.id for each in store.review_queue(ANNA, limit=9)]
    shared = store.shared_reviews(limit=9)
    return [
        undone,
        order,
        queue,
        store.review_progress(ANNA, since=0),
        store.review(ANNA, "inf-3"),
        agreement(shared),
        [each.id for each, _ in shared],
    ]


def test_the_reviews_are_the_same_on_both_databases(request):
    with Store.in_memory() as lite, Store.open(request.getfixturevalue("postgres")) as postgres:
        expected = reviewed(lite)
        assert expected[:3] == ["inf-4", ["inf-4", "inf-5", "inf-7"], ["inf-4", "inf-5", "inf-7"]]
        assert reviewed(postgres) == expected
