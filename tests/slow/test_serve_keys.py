"""Laws of who may ask, and how much: keys, scopes, budgets, rates, places."""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from loopback import said
from serving import QUESTION, UPSTREAM_KEY, bearer, new_key, parts_of, running
from trimtab.errors import ConfigError
from trimtab.llm import Prices, ScriptedLLM
from trimtab.serve.errors import ApiError
from trimtab.serve.keys import FRESH_S, KeyRing
from trimtab.serve.limits import LEASE_S, Caps, Gate, KeyPlaces, Rates
from trimtab.serve.listening import is_loopback, listening
from trimtab.serve.operating import OPEN
from trimtab.store import ApiKey, Inference, Order, Scope, Store, key_digest
from trimtab.types import Candidate, Usage

pytestmark = pytest.mark.slow

NUMBERS = itertools.count()


@cache
def keys_store() -> Store:
    """One store for all keys of this file that need no server."""
    return Store.in_memory()


@contextmanager
def limited(store: Store | None = None, **limits: Any) -> Iterator[tuple[Store, ApiKey]]:
    """A key of its own with these limits, and the store that it is in."""
    store = store or keys_store()
    key = ApiKey(f"limited-{next(NUMBERS)}", "", f"digest-{next(NUMBERS)}", (), 0.0, **limits)
    store.add_key(key)
    yield store, key


def gate_of(caps: Caps, store: Store | None = None) -> Gate:
    return Gate(caps, KeyPlaces(store or keys_store()))


def paths(app: FastAPI) -> set[tuple[str, str]]:
    """Every method and path that the application answers to, whatever its schema shows."""
    found: set[tuple[str, str]] = set()
    queue = list(app.router.routes)
    while queue:
        route = queue.pop()
        inner = getattr(getattr(route, "original_router", None), "routes", None) or getattr(
            route, "routes", None
        )
        queue += list(inner or [])
        found |= {(method, route.path) for method in getattr(route, "methods", None) or ()}
    return found


async def test_every_route_but_health_and_readiness_needs_a_key_once_there_is_one():
    parts = parts_of(keyed=True)
    new_key(parts.store)
    async with running(parts) as server:
        asked = paths(server.app)
        assert {("POST", "/v1/chat/completions"), ("GET", "/metrics"), ("GET", "/openapi.json")} <= asked
        for method, path in asked:
            response = await server.http.request(method, path.replace("{name}", "x"))
            assert (response.status_code == 401) == (path not in OPEN), (method, path, response.status_code)


async def test_a_schema_shows_no_route_that_is_not_there():
    async with running(parts_of()) as server:
        shown = {
            (method.upper(), path) for path, each in server.app.openapi()["paths"].items() for method in each
        }
        assert shown <= paths(server.app)


@pytest.mark.parametrize("scope", list(Scope))
async def test_a_key_may_do_what_its_scope_says_and_admin_everything(scope):
    parts = parts_of(keyed=True)
    key = new_key(parts.store, scope)
    async with running(parts) as server:
        chat = (await server.chat(key)).status_code
        figures = (await server.http.get("/metrics", headers=bearer(key))).status_code
    assert chat == (200 if scope in (Scope.INFER, Scope.ADMIN) else 403)
    assert figures == (200 if scope is Scope.ADMIN else 403)


@pytest.mark.parametrize("way", ["bearer", "x-api-key", "login"])
async def test_a_key_comes_as_token_as_header_or_as_a_browsers_password(way):
    parts = parts_of(keyed=True)
    key = new_key(parts.store)
    login = base64.b64encode(f"me:{key}".encode()).decode()
    headers = {
        "bearer": bearer(key),
        "x-api-key": {"x-api-key": key},
        "login": {"Authorization": f"Basic {login}"},
    }
    async with running(parts) as server:
        assert (await server.http.get("/v1/models", headers=headers[way])).status_code == 200


@pytest.fixture(scope="module")
def keyed_store():
    with Store.in_memory() as store:
        new_key(store)
        yield store


@given(presented=st.none() | st.text(max_size=50))
async def test_no_other_text_is_a_key(keyed_store, presented):
    with pytest.raises(ApiError) as refused:
        await KeyRing(keyed_store).find(presented)
    assert refused.value.status_code == 401


async def test_a_revoked_key_is_of_no_use_within_seconds_and_the_server_stays_closed():
    now, store = [0.0], Store.in_memory()
    key = new_key(store)
    ring = KeyRing(store, clock=lambda: now[0])
    assert await ring.find(key) is not None
    store.revoke_key("key-0", 5.0)
    now[0] += FRESH_S + 0.1
    for presented in (key, None):
        with pytest.raises(ApiError):
            await ring.find(presented)
    store.close()


async def test_without_keys_only_this_machine_by_its_own_name_is_answered():
    async with running(parts_of()) as server:
        rebound = await server.http.get("/v1/models", headers={"host": "evil.example:8000"})
        other_page = await server.http.post(
            "/v1/chat/completions", headers={"origin": "https://evil.example"}
        )
        own_page = await server.http.post("/v1/chat/completions", headers={"origin": "http://127.0.0.1:8000"})
    assert [each.status_code for each in (rebound, other_page, own_page)] == [403, 403, 400]


async def test_a_key_asks_the_models_it_may_and_sees_no_others():
    parts = parts_of(keyed=True)
    key = new_key(parts.store, adapters=("sums",))
    async with running(parts) as server:
        for model, status in {"sums": 200, "sums:fast": 200, "sums@v1": 200, "box": 404}.items():
            assert (await server.chat(key, model=model)).status_code == status
        listed = (await server.http.get("/v1/models", headers=bearer(key))).json()["data"]
    assert {each["id"] for each in listed} == {"sums", "sums:fast", "sums@v1"}


async def test_a_key_asks_so_often_a_minute_and_is_told_when_to_come_again():
    now = [0.0]
    with limited(requests_per_minute=2) as (store, key):
        rates = Rates(store, clock=lambda: now[0])
        await rates.admit(key)
        await rates.admit(key)
        with pytest.raises(ApiError) as refused:
            await rates.admit(key)
        assert (refused.value.status_code, refused.value.headers["Retry-After"]) == (429, "30")
        now[0] = 30.0
        await rates.admit(key)


async def test_workers_on_one_store_admit_together_what_a_key_may_ask():
    with limited(requests_per_minute=3) as (store, key):
        workers = [Rates(store, clock=lambda: 5.0) for _ in range(2)]
        asked = await asyncio.gather(*(workers[n % 2].admit(key) for n in range(10)), return_exceptions=True)
    assert sum(each is None for each in asked) == 3
    assert all(each is None or isinstance(each, ApiError) for each in asked)


async def test_clocks_that_differ_give_no_request_away():
    with limited(requests_per_minute=1) as (store, key):
        await Rates(store, clock=lambda: 100.0).admit(key)
        for behind in (99.0, 40.0):
            with pytest.raises(ApiError):
                await Rates(store, clock=lambda at=behind: at).admit(key)
        with pytest.raises(ApiError):
            await Rates(store, clock=lambda: 130.0).admit(key)
        await Rates(store, clock=lambda: 160.0).admit(key)


async def test_what_a_minute_would_refuse_does_not_reach_the_store():
    now = [0.0]
    with Store.in_memory() as own, limited(own, requests_per_minute=1) as (store, key):
        rates = Rates(store, clock=lambda: now[0])
        await rates.admit(key)
        with pytest.raises(ApiError):
            await rates.admit(key)
    now[0] = 30.0  # the store is closed: asking it would be an error of another kind
    with pytest.raises(ApiError) as refused:
        await rates.admit(key)
    assert refused.value.headers["Retry-After"] == "30"


@given(rpm=st.integers(1, 50), steps=st.lists(st.floats(0, 20), max_size=100))
def test_no_minute_admits_more_than_a_key_may_ask_and_what_it_saved_up(rpm, steps):
    at, admitted = 0.0, []
    with limited() as (store, key):
        for step in steps:
            at += step
            if not store.admit_key(key.id, rpm, at):
                admitted.append(at)
    for began in admitted:
        assert sum(began <= at < began + 60 for at in admitted) <= 2 * rpm


async def test_a_request_without_a_place_waits_and_beyond_that_is_told_to_come_again():
    gate = gate_of(Caps(in_flight=1, waiting=1, wait_s=10))
    order = []

    async def work(number: int) -> None:
        async with gate.place(None):
            order.append(number)
            await asyncio.sleep(0.01)

    first, second = asyncio.create_task(work(1)), asyncio.create_task(work(2))
    await asyncio.sleep(0)
    with pytest.raises(ApiError) as refused:
        await work(3)
    await asyncio.gather(first, second)
    assert refused.value.status_code == 429
    assert "Retry-After" in refused.value.headers
    assert order == [1, 2]
    assert (gate.in_flight, gate.waiting) == (0, 0)


@given(st.lists(st.sampled_from(["come", "go", "cancel"]), max_size=40))
async def test_places_are_never_lost_nor_given_twice(moves):
    gate = gate_of(Caps(in_flight=2, waiting=3, wait_s=10))
    inside: list[asyncio.Event] = []
    tasks: list[asyncio.Task[None]] = []
    most = [0, 0]

    async def work() -> None:
        async with gate.place(None):
            most[0] += 1
            most[1] = max(most)
            leave = asyncio.Event()
            inside.append(leave)
            try:
                await leave.wait()
            finally:
                most[0] -= 1

    for move in moves:
        if move == "come":
            tasks.append(asyncio.create_task(work()))
        elif move == "go" and inside:
            inside.pop(0).set()
        elif move == "cancel" and tasks:
            tasks.pop(0).cancel()
        await asyncio.sleep(0)
    while tasks:
        for event in inside:
            event.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        tasks = [task for task in tasks if not task.done()]
    await asyncio.sleep(0)
    assert most[1] <= 2
    assert gate.waiting == 0


async def test_who_waits_too_long_is_told_to_come_again():
    gate = gate_of(Caps(in_flight=1, waiting=1, wait_s=0.01))
    async with gate.place(None):
        with pytest.raises(ApiError):
            async with gate.place(None):
                pass
    assert (gate.in_flight, gate.waiting) == (0, 0)


async def test_a_key_has_so_many_requests_under_way_and_no_more():
    with limited(concurrency=1) as (store, key):
        gate, other = gate_of(Caps(), store), gate_of(Caps(), store)
        async with gate.place(key):
            for each in (gate, other):
                with pytest.raises(ApiError):
                    async with each.place(key):
                        pass
        async with other.place(key):
            pass


async def test_the_place_of_a_worker_that_died_is_free_again_and_of_one_that_lives_is_not():
    now = [0.0]
    with limited(concurrency=1) as (store, key):
        one, other = (KeyPlaces(store, clock=lambda: now[0]) for _ in range(2))
        await one.place(key).__aenter__()
        now[0] = LEASE_S - 1
        store.hold_places(list(one._held), until=2 * LEASE_S)
        now[0] = LEASE_S + 1
        with pytest.raises(ApiError):
            await other.place(key).__aenter__()
        now[0] = 2 * LEASE_S
        async with other.place(key):
            pass


async def test_a_key_never_spends_beyond_its_limit_however_many_ask_at_once(serve):
    box = serve(said("hello", tokens=(100, 100)))
    parts = parts_of(url=box.url, keyed=True)
    priced = Prices(usd_per_million_in=10_000.0, usd_per_million_out=10_000.0)  # 2 dollars an answer
    object.__setattr__(parts.upstream, "prices", priced)
    key = new_key(parts.store, max_usd=10.0)
    async with running(parts) as server:
        asked = [server.chat(key, model="box", max_tokens=100) for _ in range(12)]
        statuses = [(await each).status_code for each in asked]
        spent = parts.store.keys()[0].spent_usd
    assert 200 in statuses
    assert 429 in statuses
    assert spent == pytest.approx(2.0 * statuses.count(200))
    assert spent <= 10.0


async def test_a_key_limited_in_dollars_may_not_ask_where_no_price_is_known():
    parts = parts_of(keyed=True, llm=ScriptedLLM(["2"], name="no-such-model"))
    key = new_key(parts.store, max_usd=1.0)
    async with running(parts) as server:
        assert (await server.chat(key)).json()["error"]["code"] == "no_price"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"n": 17}, 400),
        ({"max_tokens": 5000}, 400),
        ({"messages": [{"role": "user", "content": "x"}] * 257}, 400),
        ({"messages": [{"role": "user", "content": "x" * 2_000_000}]}, 413),
        ({"messages": [{"role": "user", "content": " "}]}, 400),
        ({"messages": []}, 400),
        ({"model": "other"}, 404),
        ({"base_url": "http://evil", "api_key": "x", "model": "http://evil/v1"}, 404),
    ],
)
async def test_what_goes_beyond_the_caps_is_refused(body, status):
    async with running(parts_of()) as server:
        assert (await server.chat(**body)).status_code == status


async def test_where_to_ask_and_with_which_key_never_comes_from_a_request(serve):
    box, other = serve(said("hello")), serve(said("evil"))
    async with running(parts_of(url=box.url)) as server:
        given = {
            "model": "box",
            "base_url": other.url,
            "api_key": "mine",
            "extra_headers": {"Authorization": "x"},
        }
        await server.http.post(
            "/v1/chat/completions",
            json={"messages": [{"role": "user", "content": QUESTION}], **given},
            headers={"authorization": "Bearer mine", "x-upstream": other.url},
        )
    assert other.bodies == []
    assert box.keys == [f"Bearer {UPSTREAM_KEY}"]


@pytest.mark.parametrize(
    ("host", "is_local"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.9.9.9", True), ("0.0.0.0", False),
     ("::", False), ("192.168.1.2", False), ("example.org", False), ("", False)],
)  # fmt: skip
def test_the_loopback_is_told_from_all_other_addresses(host, is_local):
    assert is_loopback(host) == is_local


def test_a_port_that_is_taken_is_refused_by_name():
    with listening("127.0.0.1", 0) as taken, pytest.raises(ConfigError, match="choose another port"):
        listening("127.0.0.1", taken.getsockname()[1])


# --------------------------------------------------------------------------- in the store


def kept(name: str, at: float, confidence: float | None, **more: object) -> Inference:
    candidates = (Candidate("NUL \0, half a pair \ud83d", None, -1.5), Candidate("2", "2", 0.5))
    about = {"question": "q?", "messages": ({"role": "user", "content": "\ud83d"},), "text": "2"}
    return Inference(
        name, at, "sums", 1, candidates=candidates, status="answered", confidence=confidence, **about, **more
    )


def test_an_inference_comes_back_as_it_was_and_stands_once():
    with Store.in_memory() as store:
        one = kept("a", 1.0, 0.5, usage=Usage(1, 2, 3, 0.1), chosen=1, answer="2", key_id="k", seconds=0.1)
        store.add_inferences([one, one, *(kept(f"b{number}", 1.0, None) for number in range(100))])
        assert store.inference("a") == one
        assert store.inference("c") is None
        assert store.count_inferences() == 101


def test_inferences_are_listed_newest_or_least_confident_first_by_pages():
    with Store.in_memory() as store:
        store.add_inferences(
            [kept("a", 1.0, 0.5), kept("b", 2.0, None), kept("c", 3.0, 0.1), kept("d", 4.0, 0.9)]
        )
        names = lambda **how: [each.id for each in store.inferences(**how)]  # noqa: E731
        assert names() == ["d", "c", "b", "a"]
        assert names(order=Order.LEAST_CONFIDENT) == ["c", "a", "d", "b"]
        assert names(limit=2, offset=1) == ["c", "b"]
        assert names(since=2.5) == ["d", "c"]
        assert names(adapter="other") == []


def test_what_an_answer_cost_is_on_the_key_that_asked():
    with Store.in_memory() as store:
        new_key(store, max_usd=1.0)
        store.add_inferences(
            [kept(str(n), 1.0, None, key_id="key-0", usage=Usage(usd=0.25, calls=1)) for n in range(3)]
        )
        assert store.keys()[0].spent_usd == 0.75
        assert not store.reserve_on_key("key-0", 0.3)
        assert store.reserve_on_key("key-0", 0.25)
        store.charge_key("key-0", -0.25)
        assert store.keys()[0].spent_usd == 0.75


def test_a_key_comes_back_as_it_was_and_never_in_plain():
    with Store.in_memory() as store:
        one = ApiKey("k", "é", key_digest("tt-secret"), (Scope.INFER, Scope.REVIEW), 1.0, ("a",), 2.0, 3, 4)
        store.add_key(one)
        assert store.keys() == (one,)
        assert "tt-secret" not in repr(store.keys())
        assert store.revoke_key("k", 5.0)
        assert store.revoke_key("k", 6.0)
        assert store.keys()[0].revoked_at == 5.0
        assert not store.revoke_key("other", 5.0)
