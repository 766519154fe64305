"""ChatLLM against a real local server that speaks the OpenAI wire format, with its faults."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import traceback
from typing import Any

import pytest

from loopback import Body, Reply, Server, dropped, failed, said
from trimtab.errors import ConfigError, EndpointError, LLMError, RefusedError
from trimtab.llm import Cached, ChatLLM, Filled
from trimtab.llm.retry import LONGEST_ASKED_S, LONGEST_BACKOFF_S, wait_s
from trimtab.llm.transport import retry_after_s
from trimtab.store import Store
from trimtab.types import LLM, Message, Outcome, Prompt, Sampling, Usage

KEY = "sk-very-secret-key-0123456789"
PROMPT = Prompt((Message("system", "Be brief."), Message("user", "How many?")), question_id="q-7")

pytestmark = pytest.mark.usefixtures("one_certificate")


def chat(server: Server, **options: Any) -> ChatLLM:
    return ChatLLM("gpt-4o", **{"base_url": server.url, "api_key": KEY, "backoff_s": 0.001, **options})


def ask(llm: LLM, sampling: Sampling | None = None) -> Any:
    return asyncio.run(llm.complete(PROMPT, sampling or Sampling()))


def filled(box: ChatLLM, store: Store) -> LLM:
    return Filled(Cached(box, store.samples_of("run")), capabilities=box.capabilities)


def refusal(llm: ChatLLM, kind: type[LLMError]) -> LLMError:
    with pytest.raises(kind) as caught:
        ask(llm)
    return caught.value


# ------------------------------------------------------------------------------------ what is sent


def test_all_that_was_asked_for_is_sent_and_the_question_id_never_is(serve):
    server = serve(said("a", "b"))
    ask(chat(server), Sampling(n=2, temperature=0.7, max_tokens=9, stop=("\n",), seed=3))
    assert server.bodies == [
        {
            "model": "gpt-4o",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "How many?"},
            ],
            "n": 2,
            "temperature": 0.7,
            "max_tokens": 9,
            "stop": ["\n"],
            "seed": 3,
        }
    ]
    assert server.keys == [f"Bearer {KEY}"]


def test_what_was_not_asked_for_is_left_out(serve):
    server = serve(said("a"))
    ask(chat(server), Sampling(temperature=None))
    assert set(server.bodies[0]) == {"model", "messages", "max_tokens"}


def test_extra_headers_go_with_each_request(serve):
    server = serve(said("a"))
    ask(chat(server, headers={"Authorization": "Basic dTpw"}))
    assert server.keys == ["Basic dTpw"]


def test_without_a_key_the_environment_is_not_asked_for_one(serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    server = serve(said("a"))
    ask(chat(server, api_key=None))
    assert server.keys == [None]


# ------------------------------------------------------------------------------------ what comes back


def test_choices_usage_and_the_served_models_name_come_back(serve):
    reply = ask(chat(serve(said("one", "two", tokens=(12, 7)))), Sampling(n=2))
    assert [completion.text for completion in reply.completions] == ["one", "two"]
    assert reply.usage == Usage(12, 7, calls=1)
    assert reply.model == "served"


def test_an_empty_content_is_an_empty_text(serve):
    reply = ask(chat(serve(said(None, ""))), Sampling(n=2))
    assert [completion.text for completion in reply.completions] == ["", ""]


@pytest.mark.parametrize(
    ("finish", "read"), [("stop", "stop"), ("length", "length"), ("content_filter", "stop")]
)
def test_only_a_text_that_ran_out_of_tokens_ended_by_length(serve, finish, read):
    reply = ask(chat(serve(said("so far", finish=finish))))
    assert reply.completions[0].finish == read


def test_a_stop_sequence_that_the_server_ignored_is_applied_here(serve):
    reply = ask(chat(serve(said("one. two\nthree;", finish="length"))), Sampling(stop=("\n", ";")))
    assert reply.completions[0].text == "one. two"
    assert reply.completions[0].finish == "stop"


def test_no_more_than_asked_for_is_taken(serve):
    reply = ask(chat(serve(said("a", "b", "c"))), Sampling(n=2))
    assert len(reply.completions) == 2


def test_a_server_that_gives_fewer_than_asked_for_is_asked_once(serve):
    server = serve(said("a", "b", tokens=(10, 2)))
    reply = ask(chat(server), Sampling(n=5))
    assert [completion.text for completion in reply.completions] == ["a", "b"]
    assert reply.usage == Usage(10, 2, calls=1)
    assert len(server.bodies) == 1


def test_a_server_that_ignores_n_is_asked_again_for_the_rest(serve):
    server = serve(said("a", tokens=(10, 2)))
    reply = ask(Filled(chat(server)), Sampling(n=5, seed=1))
    assert len(reply.completions) == 5
    assert reply.usage == Usage(50, 10, calls=5)
    assert len(server.bodies) == 5


def test_a_server_that_gives_some_of_n_is_asked_for_the_rest_only_one_by_one_from_then_on(serve):
    server = serve(said("a", "b", "c"), said("x"), said("y"))
    reply = ask(Filled(chat(server)), Sampling(n=5))
    assert sorted(completion.text for completion in reply.completions) == ["a", "b", "c", "x", "y"]
    assert [body.get("n") for body in server.bodies] == [5, None, None]


def test_requests_for_the_rest_carry_seeds_of_their_own_and_the_same_ones_every_time(serve):
    server = serve(said("a"))
    for _ in range(2):
        ask(Filled(chat(server)), Sampling(n=4, seed=1))
    seeds = [body["seed"] for body in server.bodies]
    assert len(set(seeds[:4])) == 4
    assert sorted(seeds[:4]) == sorted(seeds[4:])


def test_no_part_of_a_request_without_a_seed_is_sent_one(serve):
    server = serve(said("a"))
    ask(Filled(chat(server)), Sampling(n=3))
    assert set().union(*server.bodies) == {"model", "messages", "n", "temperature", "max_tokens"}


@pytest.mark.parametrize("seed", [None, 1])
def test_where_half_of_the_parts_failed_the_next_run_asks_for_those_alone(serve, seed):
    server = serve(*[said("a")] * 4, *[failed(400)] * 4, said("b"))
    sampling = Sampling(n=8, seed=seed)
    with Store.in_memory() as store:
        with pytest.raises(RefusedError):
            ask(filled(chat(server), store), sampling)
        reply = ask(filled(chat(server), store), sampling)
    assert sorted(completion.text for completion in reply.completions) == ["a"] * 4 + ["b"] * 4
    assert reply.usage == Usage(40, 20, calls=4)
    assert len(server.bodies) == 12


# ------------------------------------------------------------------------------------ trying again


def test_a_passing_failure_is_tried_again_and_each_attempt_is_a_line_of_the_ledger(serve):
    server = serve(failed(500), failed(429, headers={"retry-after": "0"}), dropped, said("a"))
    reply = ask(chat(server))
    assert reply.completions[0].text == "a"
    outcomes = [(call.status, call.outcome, call.usage.calls) for call in reply.calls]
    # Of the connection that was dropped nobody knows whether it is billed: it counts at its worst case.
    assert outcomes == [
        (500, Outcome.UNPAID, 0),
        (429, Outcome.UNPAID, 0),
        (None, Outcome.UNCERTAIN, 1),
        (200, Outcome.PAID, 1),
    ]
    assert len(server.bodies) == 4


def test_the_wait_that_a_server_asks_for_is_kept(serve):
    server = serve(failed(429, headers={"retry-after": "0.2"}), said("a"))

    async def timed() -> float:
        before = asyncio.get_running_loop().time()
        await chat(server).complete(PROMPT, Sampling())
        return asyncio.get_running_loop().time() - before

    assert asyncio.run(timed()) >= 0.2


def test_a_wait_longer_than_we_are_ready_for_is_reported_at_once(serve):
    server = serve(failed(429, headers={"retry-after": str(LONGEST_ASKED_S + 1)}))
    error = refusal(chat(server), EndpointError)
    assert len(server.bodies) == 1
    assert "121 s" in str(error)


def test_after_the_last_attempt_the_error_names_the_endpoint_and_what_to_check(serve):
    server = serve(failed(503, "overloaded today", headers={"x-request-id": "r-1"}))
    error = refusal(chat(server, attempts=2), EndpointError)
    assert len(server.bodies) == 2
    assert (error.exit_code, error.retryable, error.status, error.request_id) == (1, True, 503, "r-1")
    assert server.url in str(error)
    assert "overloaded today" in str(error)
    assert "Check" in str(error)


def test_an_unreachable_endpoint_is_one_paragraph():
    llm = ChatLLM(
        "m", base_url="http://user:pass-word@127.0.0.1:9/v1?k=query-secret", api_key=KEY, attempts=1
    )
    error = refusal(llm, EndpointError)
    assert "http://127.0.0.1:9/v1 could not be reached" in str(error)
    assert "\n" not in str(error)
    assert "pass-word" not in str(error) + repr(llm)
    assert "query-secret" not in str(error) + repr(llm)


def test_a_silent_server_times_out(serve):
    release = threading.Event()

    def silent(body: Body) -> Reply:
        release.wait(5)
        raise ConnectionAbortedError

    error = refusal(chat(serve(silent), timeout_s=0.05, attempts=1), EndpointError)
    release.set()
    assert "0.05 s" in str(error)


@pytest.mark.parametrize(
    "reply",
    [
        lambda body: (200, {}, "{broken"),
        lambda body: (200, {"content-type": "text/html"}, "<html>a login page</html>"),
        lambda body: (200, {}, json.dumps({"error": {"message": "provider is down"}})),
        said(),
    ],
    ids=["broken json", "html", "error with status 200", "no choices"],
)
def test_a_reply_without_completions_is_an_endpoints_failure(serve, reply):
    server = serve(reply)
    error = refusal(chat(server, attempts=2), EndpointError)
    assert server.url in str(error)
    assert len(server.bodies) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_refusal_is_not_tried_again_and_repeats_what_the_server_said(serve, status):
    server = serve(failed(status, "the reason why"))
    error = refusal(chat(server), RefusedError)
    assert len(server.bodies) == 1
    assert (error.exit_code, error.retryable, error.status) == (2, False, status)
    assert "the reason why" in str(error)


def test_a_spent_quota_is_a_refusal_though_it_comes_as_429(serve):
    server = serve(failed(429, "You exceeded your quota", code="insufficient_quota"))
    assert "billing" in str(refusal(chat(server), RefusedError))
    assert len(server.bodies) == 1


def test_one_failed_part_of_n_fails_the_whole(serve):
    server = serve(said("a"), failed(400))
    with pytest.raises(RefusedError):
        ask(Filled(chat(server)), Sampling(n=3))


def test_the_paid_parts_of_a_failed_request_are_not_asked_for_again(serve):
    server = serve(said("a"), said("b"), failed(400), said("c"))
    llm = filled(chat(server), Store.in_memory())
    with pytest.raises(RefusedError):
        ask(llm, Sampling(n=3, seed=1))
    asked = len(server.bodies)
    assert len(ask(llm, Sampling(n=3, seed=1)).completions) == 3
    assert len(server.bodies) == asked + 1


def test_waits_grow_to_a_limit_with_full_jitter_and_never_fall_below_what_was_asked():
    assert [wait_s(attempt, 0.5, None, 1.0) for attempt in range(4)] == [0.5, 1.0, 2.0, 4.0]
    assert wait_s(50, 0.5, None, 1.0) == LONGEST_BACKOFF_S
    assert wait_s(3, 0.5, None, 0.0) == 0.0
    assert wait_s(0, 0.5, 7.0, 0.0) == 7.0


def test_retry_after_is_read_as_seconds_milliseconds_or_date():
    assert retry_after_s({"retry-after": "3"}) == 3
    assert retry_after_s({"retry-after": "3", "retry-after-ms": "250"}) == 0.25
    assert retry_after_s({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert retry_after_s({"retry-after": "Fri, 21 Oct 2995 07:28:00 GMT"}) > 1e9
    assert retry_after_s({"retry-after": "soon"}) is None
    assert retry_after_s({}) is None


# ------------------------------------------------------------------------------------ secrets


@pytest.mark.parametrize(
    "reply",
    [
        failed(401, f"Incorrect API key provided: {KEY}"),
        failed(400, f"bad header Bearer {KEY} and password header-secret"),
        failed(500, f"debug: {KEY}"),
        dropped,
        lambda body: (200, {"content-type": "text/plain"}, f"you sent {KEY}"),
        lambda body: (200, {}, "{" + KEY),
    ],
    ids=["401", "400", "500", "dropped", "text", "broken"],
)
def test_no_secret_stands_in_an_error_its_chain_a_repr_or_a_log(serve, caplog, reply):
    caplog.set_level(logging.DEBUG)
    llm = chat(serve(reply), headers={"x-password": "header-secret"}, attempts=2)
    error = refusal(llm, LLMError)
    shown = "\n".join(
        [*traceback.format_exception(error), repr(error), repr(llm), str(vars(error)), caplog.text]
    )
    assert KEY not in shown
    assert "header-secret" not in shown
    assert error.__cause__ is None
    assert error.__context__ is None


def test_a_login_in_the_base_url_is_used_where_there_is_no_key_and_never_shown(serve, caplog):
    caplog.set_level(logging.DEBUG)
    server = serve(failed(503, "try url-secret again"))
    llm = chat(server, base_url=server.url.replace("127", "user:url-secret@127"), api_key=None, attempts=1)
    error = refusal(llm, EndpointError)
    assert server.keys == ["Basic dXNlcjp1cmwtc2VjcmV0"]
    assert "url-secret" not in "\n".join([*traceback.format_exception(error), repr(llm), caplog.text])


def test_a_query_in_the_base_url_goes_with_each_request_and_not_into_errors(serve):
    server = serve(failed(503, "unknown version 2024-06"))
    llm = chat(server, base_url=f"{server.url}?api-version=2024-06", attempts=1)
    error = refusal(llm, EndpointError)
    assert server.paths == ["/v1/chat/completions?api-version=2024-06"]
    assert "2024-06" not in f"{error} {llm!r}"


def test_a_proxy_that_the_system_names_is_asked_instead(serve, monkeypatch):
    server = serve(said("a"))
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1"))
    monkeypatch.delenv("no_proxy", raising=False)
    ask(chat(server, base_url="http://box.invalid/v1"))
    assert server.paths == ["http://box.invalid/v1/chat/completions"]


def test_no_proxy_is_asked_for_hosts_that_are_to_be_asked_themselves(serve, monkeypatch):
    server = serve(said("a"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    ask(chat(server))
    assert server.paths == ["/v1/chat/completions"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"error": {"message": "too long"}}', "400: too long. "),
        ('{"message": "too long"}', "400: too long. "),
        ('{"error": "too long"}', '400: {"error": "too long"}. '),
        ('["too long"]', '400: ["too long"]. '),
        ("too long\n", "400: too long. "),
        ("", "400: nothing. "),
    ],
)
def test_what_a_server_says_is_repeated_in_whatever_form_it_comes(serve, content, words):
    server = serve(lambda body: (400, {}, content))
    assert words in f"{refusal(chat(server), RefusedError)} "


def test_a_partly_masked_key_that_the_server_echoes_is_not_repeated(serve):
    error = refusal(chat(serve(failed(401, "Incorrect API key provided: sk-abcd***6789."))), RefusedError)
    assert "abcd" not in str(error)


@pytest.mark.parametrize("key", ["sk-ключ-secret", "sk-two\nlines-secret"])
def test_a_key_that_cannot_be_sent_is_refused_without_being_shown(key):
    with pytest.raises(ConfigError) as caught:
        ChatLLM("m", api_key=key)
    assert "secret" not in str(caught.value)


def test_white_space_around_a_pasted_key_is_not_part_of_it(serve):
    server = serve(said("a"))
    ask(chat(server, api_key=f" {KEY}\n"))
    assert server.keys == [f"Bearer {KEY}"]


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://host/v1", "https:///v1", "/v1"])
def test_a_base_url_without_scheme_or_host_is_refused_at_once(url):
    with pytest.raises(ConfigError, match="http"):
        ChatLLM("m", base_url=url)


# ------------------------------------------------------------------------------------ loops and limits


def test_one_client_serves_one_event_loop_after_another(serve):
    llm = chat(serve(said("a")))
    assert [ask(llm).completions[0].text for _ in range(3)] == ["a", "a", "a"]


def test_a_closed_client_opens_again(serve):
    llm = chat(serve(said("a")))

    async def twice() -> int:
        await llm.close()
        await llm.complete(PROMPT, Sampling())
        await llm.close()
        return len((await llm.complete(PROMPT, Sampling())).completions)

    assert asyncio.run(twice()) == 1


def test_no_more_requests_are_in_flight_than_allowed(serve):
    counting = threading.Lock()
    now = most = 0

    def slow(body: Body) -> Reply:
        nonlocal now, most
        with counting:
            now += 1
            most = max(most, now)
        threading.Event().wait(0.02)
        with counting:
            now -= 1
        return said("a")(body)

    llm = chat(serve(slow), concurrency=3)

    async def many() -> None:
        await asyncio.gather(*(llm.complete(PROMPT, Sampling()) for _ in range(9)))

    asyncio.run(many())
    assert most == 3
