"""Laws of forgetting: old words go, counts stay, and nothing is learnt from what was forgotten."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from serving import new_key, parts_of, running
from trimtab import tasks
from trimtab.adapt.from_feedback import shadow, taught
from trimtab.data import Feedback, FeedbackKind
from trimtab.feedback import GuardSettings
from trimtab.serve.upkeep import DAY_S, forget_once
from trimtab.store import Inference, Scope, Store
from trimtab.store.retention import ROWS_AT_ONCE
from trimtab.types import Call, Candidate, Completion, Draws, Outcome, Purpose, Reply, Usage

WORDS = "what only she knows"
NOW = 4e9  # later than anything that a test writes at the present time
RUN = "serving"


@pytest.fixture
def store() -> Iterator[Store]:
    with Store.in_memory() as opened:
        yield opened


def answered(name: str, at: float) -> Inference:
    about = {"messages": ({"role": "user", "content": WORDS},), "candidates": (Candidate(WORDS, WORDS, 0.5),)}
    spent = Usage(1, 2, 1, 0.25)
    return Inference(
        name, at, "sums", 1, WORDS, text=WORDS, answer=WORDS, status="answered", usage=spent, **about
    )


def drawn(key: str) -> Reply:
    call = Call(key, Purpose.SAMPLING, "box", "", "", Outcome.PAID, Usage(1, 1, 1, 0.0), 0.1, 1.0)
    return Reply(key, 0, "box", (Completion(WORDS),), (call,))


def test_of_an_old_answer_the_words_go_and_its_counts_stay(store):
    store.add_inferences([answered("old", NOW - 3 * DAY_S), answered("new", NOW - DAY_S)])
    forget_once(store, 2.0, NOW)
    old, new = store.inference("old"), store.inference("new")
    assert WORDS not in repr(old)
    assert (old.usage.usd, old.status, old.adapter, old.forgotten_at) == (0.25, "answered", "sums", NOW)
    assert new == answered("new", NOW - DAY_S)
    assert store.count_inferences() == 2


def test_what_was_said_of_it_goes_too_and_is_not_learnt_from(store):
    said = Feedback(WORDS, FeedbackKind.PREFERENCE, WORDS, f"{WORDS}!", "ann", None, "old")
    store.add_feedback([said])
    assert [each.said for each in store.heard()] == [said]
    gone = store.forget(NOW, at=NOW)
    assert (gone.feedback, store.heard(), store.feedback_for(WORDS)) == (1, (), ())
    assert store.count_feedback("ann", since=0.0) == 1


def test_draws_go_with_the_answers_they_were_for_and_another_runs_stay(store):
    for run, kind in ((RUN, "serve"), ("adapting", "adapt")):
        store.start_run(run, kind, {})
        store.samples_of(run).keep([drawn(run)])
    assert store.forget(NOW, at=NOW).draws == 1
    assert [each.text for each in store.kept_draws()] == [WORDS]
    assert store.samples_of(RUN).kept([Draws(RUN, 0, 1)]) == [{}]


def test_however_many_are_old_all_are_forgotten_and_none_twice(store):
    store.add_inferences([answered(str(number), 1.0) for number in range(2 * ROWS_AT_ONCE)])
    assert store.forget(NOW, at=NOW).answers == 2 * ROWS_AT_ONCE
    assert store.forget(NOW, at=NOW).answers == 0


def test_raters_are_not_said_to_agree_on_what_was_forgotten(store):
    store.add_inferences([answered("old", 1.0)])
    for rater in ("review:ann", "review:bob"):
        store.add_feedback([Feedback(WORDS, FeedbackKind.VERDICT, WORDS, "right", rater, None, "old")])
    assert len(store.shared_reviews(limit=9)) == 1
    store.forget(NOW, at=NOW)
    assert store.shared_reviews(limit=9) == ()


def test_feedback_that_outlives_its_answer_teaches_by_what_it_says_itself(store):
    store.add_inferences([answered("old", 1.0)])
    store.add_feedback([Feedback(WORDS, FeedbackKind.CORRECTION, "better", "", "ann", None, "old")])
    store.forget(2.0, at=NOW)
    old = store.inference("old")
    found = taught(store.heard(), {"old": old}, tasks.by_name("free_text"), GuardSettings())
    assert [each.question for standings in found.guarded.standings.values() for each in standings] == [WORDS]
    assert shadow(found, [old]) == ()


async def test_what_was_forgotten_takes_no_feedback_and_waits_for_no_review(store):
    key = new_key(store, Scope.ADMIN)
    store.add_inferences([answered("old", 1.0)])
    store.forget(NOW, at=NOW)
    async with running(parts_of(store=store, records=store)) as server:
        words, who = {"inference_id": "old", "right": True}, {"Authorization": f"Bearer {key}"}
        response = await server.http.post("/v1/feedback", json=words, headers=who)
    assert (response.status_code, response.json()["error"]["code"]) == (410, "forgotten")


async def test_a_server_forgets_as_it_starts_and_a_store_that_fails_does_not_end_it(store, caplog):
    store.add_inferences([answered("old", 1.0)])
    parts = parts_of(store=store, records=store, keep_days=1.0)
    async with running(parts) as server:
        for _ in range(200):
            if store.inference("old").forgotten_at is not None:
                break
            await server.http.get("/health")
    closed = Store.in_memory()
    closed.close()
    forget_once(closed, 1.0, NOW)
    closed.close()  # asking had opened it again
