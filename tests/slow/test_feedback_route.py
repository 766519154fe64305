"""Laws of POST /feedback: what is taken, what is refused and how, and that the same again changes nothing."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from trimtab.data import FeedbackKind
from trimtab.serve.errors import shape_errors
from trimtab.serve.feedback import FeedbackLimits, feedback_router
from trimtab.store import ApiKey, Inference, Scope, Store
from trimtab.types import Candidate

pytestmark = pytest.mark.slow

CANDIDATES = (Candidate("so 4", "4", 0.5), Candidate("so 5", "5", 2.0), Candidate("so 6", "6", 1.0))
SERVED = Inference(
    "inf-1",
    1.0,
    "demo",
    1,
    "2 + 2?",
    ({"role": "user", "content": "2 + 2?"},),
    CANDIDATES,
    "so 5",
    "answered",
    1,
)
AS_SENT = ["so 5", "so 6", "so 4"]  # the chosen one, then by score
Post = Callable[..., Awaitable[httpx.Response]]


def key(**changed: Any) -> ApiKey:
    return ApiKey(
        **{
            "id": "k1",
            "name": "app",
            "digest": "d",
            "scopes": (Scope.FEEDBACK,),
            "created_at": 0.0,
            **changed,
        }
    )


def application(store: Store, holder: ApiKey | None = None, **options: Any) -> FastAPI:
    def guard(scope: Scope | None) -> Callable[[Request], Awaitable[ApiKey | None]]:
        async def guarded(request: Request) -> ApiKey | None:
            assert scope is Scope.FEEDBACK
            return holder

        return guarded

    app = FastAPI()
    app.include_router(feedback_router(store, guard, **options))
    shape_errors(app)
    return app


async def posted(app: FastAPI, body: Any, path: str = "/v1/feedback") -> httpx.Response:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        content = json.dumps(body)  # which writes NaN and half surrogate pairs, as some clients do
        return await client.post(path, content=content, headers={"content-type": "application/json"})


@pytest.fixture
def store() -> Any:
    with Store.in_memory() as made:
        made.add_inference(SERVED)
        yield made


@pytest.fixture(scope="module")
def one_application() -> Any:
    """For all examples of a property: making one takes longer than they do."""
    with Store.in_memory() as made:
        made.add_inference(SERVED)
        yield application(made, limits=FeedbackLimits(per_minute=10_000))


@pytest.mark.parametrize("path", ["/feedback", "/v1/feedback"])
async def test_a_thumb_is_kept_as_a_verdict_on_the_answer_given(store, path):
    reply = await posted(application(store), {"inference_id": "inf-1", "right": False}, path)
    assert reply.json() == {"inference_id": "inf-1", "accepted": 1, "new": 1}
    (said,) = store.feedback_for("2 + 2?")
    assert (said.kind, said.text, said.value, said.inference_id) == (
        FeedbackKind.VERDICT,
        "so 5",
        "wrong",
        "inf-1",
    )


async def test_candidates_are_numbered_as_the_choices_of_a_completion(store):
    body = {"inference_id": "inf-1", "preference": {"chosen": 2, "rejected": 0}, "ranking": [1, 2, 0]}
    assert (await posted(application(store), body)).json()["new"] == 2
    preferred, ranked = store.feedback_for("2 + 2?")
    assert (preferred.text, preferred.value) == (AS_SENT[2], AS_SENT[0])
    assert ranked.ranked == (AS_SENT[1], AS_SENT[2], AS_SENT[0])


async def test_everything_that_one_call_says_is_kept(store):
    body = {
        "inference_id": "inf-1",
        "right": True,
        "rating": 0.75,
        "comment": "nice",
        "demonstration": "it is 4",
    }
    assert (await posted(application(store), body)).json()["accepted"] == 4
    kinds = [each.kind for each in store.feedback_for("2 + 2?")]
    assert kinds == [FeedbackKind.VERDICT, FeedbackKind.RATING, FeedbackKind.COMMENT, FeedbackKind.CORRECTION]


async def test_the_same_again_is_taken_and_changes_nothing(store):
    app = application(store)
    body = {"inference_id": "inf-1", "id": "mine", "right": True}
    assert [(await posted(app, body)).json()["new"] for _ in range(3)] == [1, 0, 0]
    assert len(store.feedback_for("2 + 2?")) == 1


async def test_other_words_under_one_id_are_a_conflict_and_the_first_stay(store):
    app = application(store)
    await posted(app, {"inference_id": "inf-1", "id": "mine", "right": True})
    reply = await posted(app, {"inference_id": "inf-1", "id": "mine", "right": False})
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "id_taken")
    assert [each.value for each in store.feedback_for("2 + 2?")] == ["right"]


async def test_one_id_may_be_used_for_several_answers_kinds_and_users(store):
    store.add_inference(Inference("inf-2", 2.0, "demo", 1, "2 + 2?", (), CANDIDATES, "so 5", "answered", 1))
    app = application(store)
    bodies: list[dict[str, Any]] = [
        {"inference_id": "inf-1", "right": True},
        {"inference_id": "inf-2", "right": False},
        {"inference_id": "inf-1", "rating": 0.0},
        {"inference_id": "inf-1", "right": False, "user": "bob"},
    ]
    assert [(await posted(app, {**body, "id": "1"})).json()["new"] for body in bodies] == [1, 1, 1, 1]


async def test_late_feedback_finds_its_answer_after_a_restart(tmp_path: Path):
    with Store.open(tmp_path / "store.db") as before:
        before.add_inference(SERVED)
    with Store.open(tmp_path / "store.db") as after:
        reply = await posted(application(after), {"inference_id": "inf-1", "right": True})
        assert (reply.status_code, len(after.feedback_for("2 + 2?"))) == (200, 1)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"inference_id": "inf-9", "right": True}, 404, "inference_id"),
        ({"inference_id": "inf-1"}, 400, "body"),
        ({"inference_id": "inf-1", "right": True, "candidate": 3}, 400, "candidate"),
        ({"inference_id": "inf-1", "preference": {"chosen": 0, "rejected": 7}}, 400, "preference.rejected"),
        ({"inference_id": "inf-1", "preference": {"chosen": 1, "rejected": 1}}, 400, "preference"),
        ({"inference_id": "inf-1", "ranking": [0, 1, 0]}, 400, "ranking"),
        ({"inference_id": "inf-1", "ranking": [0, 5]}, 400, "ranking"),
        ({"inference_id": "inf-1", "demonstration": "  "}, 400, "demonstration"),
        ({"inference_id": "inf-1", "right": "yes"}, 400, "right"),
        ({"inference_id": "inf-1", "rating": 1.5}, 400, "rating"),
        ({"inference_id": "inf-1", "thumbs": "up"}, 400, "thumbs"),
        ({"right": True}, 400, "inference_id"),
    ],
)
async def test_what_cannot_be_used_is_refused_by_field_and_nothing_is_kept(store, body, status, param):
    reply = await posted(application(store), body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (status, param)
    assert store.heard() == ()


async def test_a_key_for_another_adapter_learns_nothing_of_an_answer(store):
    body = {"inference_id": "inf-1", "right": True}
    refused = await posted(application(store, key(adapters=("other",))), body)
    missing = await posted(application(store, key(adapters=("other",))), {**body, "inference_id": "inf-9"})
    assert refused.status_code == 404
    assert refused.json() == missing.json()
    assert (await posted(application(store, key(adapters=("demo",))), body)).status_code == 200


async def test_an_answer_that_was_passed_through_is_its_black_boxs(store):
    plain = Inference("inf-3", 1.0, "", 0, "2 + 2?", (), CANDIDATES[:1], "so 4", "answered", upstream="box")
    store.add_inference(plain)
    body = {"inference_id": "inf-3", "right": True}
    assert (await posted(application(store, key(adapters=("demo",))), body)).status_code == 404
    assert (await posted(application(store, key(adapters=("box",))), body)).status_code == 200


async def test_users_of_two_keys_are_two_sources(store):
    body = {"inference_id": "inf-1", "right": True, "user": "ann"}
    for holder in (None, key(), key(id="k2")):
        await posted(application(store, holder), body)
    assert [each.source for each in store.feedback_for("2 + 2?")] == ["local/ann", "k1/ann", "k2/ann"]


async def test_a_source_that_says_too_much_is_told_when_to_come_again_and_others_are_heard(store):
    app = application(store, limits=FeedbackLimits(per_minute=2))
    bodies = [{"inference_id": "inf-1", "right": True, "id": str(at), "user": "bot"} for at in range(3)]
    replies = [await posted(app, body) for body in bodies]
    assert [reply.status_code for reply in replies] == [200, 200, 429]
    assert int(replies[2].headers["retry-after"]) > 0
    assert (await posted(app, {"inference_id": "inf-1", "right": True, "user": "ann"})).status_code == 200


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ("right", "rating", "comment", "candidate", "demonstration", "preference", "ranking", "id", "user")


@given(body=st.dictionaries(st.sampled_from(FIELDS), VALUES))
async def test_no_body_breaks_the_server(one_application, body):
    reply = await posted(one_application, {"inference_id": "inf-1", **body})
    assert reply.status_code in (200, 400, 409)
