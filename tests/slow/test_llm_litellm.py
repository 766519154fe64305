"""Laws of LiteLLM as a transport: nothing of its own goes out, and its errors say what came over the wire."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from loopback import Body, Reply, Server, dropped, failed, said
from trimtab.errors import ConfigError, EndpointError, LLMError, MissingExtraError, RefusedError
from trimtab.llm import Budget, ChatLLM, Filled, Limits
from trimtab.llm.budget import worst_case
from trimtab.llm.capabilities import Capabilities
from trimtab.llm.retry import LONGEST_ASKED_S
from trimtab.types import Call, Message, Outcome, Prompt, Sampling, Usage

pytestmark = [
    pytest.mark.slow,
    # LiteLLM's own models and modules.
    pytest.mark.filterwarnings("ignore:Item .* on TypedDict class:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

KEY = "sk-very-secret-key-0123456789"
PROMPT = Prompt((Message("user", "How many?"),))
ASKED = Sampling(n=2, max_tokens=40)
WORST = worst_case(PROMPT.messages, 2, 40)


@pytest.fixture
def transport() -> Callable[..., Any]:
    if find_spec("litellm") is None:  # looked for, not imported: imported bare it asks the network
        pytest.skip("the extra litellm is not installed")
    from trimtab.llm.litellm_sdk import LiteLLMTransport

    return LiteLLMTransport


@pytest.fixture
def box(transport: Callable[..., Any]) -> Callable[..., ChatLLM]:
    def made(server: Server, model: str = "openai/gpt-4o", **options: Any) -> ChatLLM:
        headers = options.pop("headers", None)
        through = transport(server.url, api_key=KEY, headers=headers)
        return ChatLLM(model, transport=through, **{"backoff_s": 0.001, **options})

    return made


def ask(llm: Any, sampling: Sampling = ASKED) -> Any:
    return asyncio.run(llm.complete(PROMPT, sampling))


def lines_of(llm: ChatLLM) -> tuple[Call, ...]:
    try:
        return ask(llm).calls
    except LLMError as error:
        return error.calls


def silent(body: Body) -> Reply:
    threading.Event().wait(0.4)
    raise ConnectionAbortedError


def without_usage(body: Body) -> Reply:
    whole = json.loads(said("a", "b")(body)[2])
    del whole["usage"]
    return 200, {}, json.dumps(whole)


# ------------------------------------------------------------------------------------ what is sent


def test_a_request_goes_out_as_it_was_shaped(serve, box):
    server = serve(said("a", "b", tokens=(12, 7)))
    sampling = Sampling(n=2, temperature=0.7, max_tokens=9, stop=("\n",), seed=3)
    reply = ask(box(server, headers={"x-team": "blue-team"}, idempotent="run-1"), sampling)
    assert server.bodies == [
        {
            "model": "gpt-4o",
            "messages": [{"role": "user", "content": "How many?"}],
            "n": 2,
            "temperature": 0.7,
            "max_tokens": 9,
            "stop": ["\n"],
            "seed": 3,
        }
    ]
    assert server.keys == [f"Bearer {KEY}"]
    assert server.headers[0]["x-team"] == "blue-team"
    assert server.headers[0]["idempotency-key"]
    assert [completion.text for completion in reply.completions] == ["a", "b"]
    assert reply.usage == Usage(12, 7, 1)


def test_an_address_without_a_key_is_not_sent_the_environments(serve, transport, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = serve(said("a", "b"))
    ask(ChatLLM("openai/gpt-4o", transport=transport(server.url)))
    assert server.keys == ["Bearer no-key"]


def test_another_providers_wire_format_is_spoken_for_us(serve, box):
    answer = {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "claude-3-haiku",
        "content": [{"type": "text", "text": "seven"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 11, "output_tokens": 3},
    }
    server = serve(lambda body: (200, {}, json.dumps(answer)))
    llm = box(server, "anthropic/claude-3-haiku-20240307")
    reply = ask(Filled(llm, capabilities=llm.capabilities), Sampling(n=2, max_tokens=40))
    assert [completion.text for completion in reply.completions] == ["seven", "seven"]
    assert reply.usage == Usage(22, 6, 2)
    assert server.paths[0].endswith("/messages")
    assert server.headers[0]["x-api-key"] == KEY


# ------------------------------------------------------------------------------------ what comes back


@pytest.mark.parametrize(
    ("reply", "status", "outcome", "usage"),
    [
        (said("a", "b", tokens=(10, 5)), 200, Outcome.PAID, Usage(10, 5, 1)),
        (without_usage, 200, Outcome.PAID, WORST),
        (said(), 200, Outcome.UNCERTAIN, Usage(10, 5, 1)),
        (lambda body: (200, {}, "{broken"), None, Outcome.UNCERTAIN, WORST),
        (lambda body: (200, {"content-type": "text/html"}, "<html>"), None, Outcome.UNCERTAIN, WORST),
        (lambda body: (200, {}, '{"error": {"message": "down"}}'), None, Outcome.UNCERTAIN, WORST),
        (dropped, None, Outcome.UNCERTAIN, WORST),
        (silent, None, Outcome.UNCERTAIN, WORST),
        (failed(429), 429, Outcome.UNPAID, Usage(usd=0.0)),
        (failed(429, code="insufficient_quota"), 429, Outcome.UNPAID, Usage(usd=0.0)),
        (failed(500), 500, Outcome.UNPAID, Usage(usd=0.0)),
        (failed(503), 503, Outcome.UNPAID, Usage(usd=0.0)),
        (failed(400), 400, Outcome.UNPAID, Usage(usd=0.0)),
        (failed(401), 401, Outcome.UNPAID, Usage(usd=0.0)),
        (failed(404), 404, Outcome.UNPAID, Usage(usd=0.0)),
    ],
    ids=[
        "answered",
        "no usage",
        "no choices",
        "broken json",
        "html",
        "error with status 200",
        "dropped",
        "silent",
        "throttled",
        "quota",
        "500",
        "503",
        "400",
        "401",
        "404",
    ],
)
def test_each_end_of_a_request_costs_what_it_costs_without_litellm(serve, box, reply, status, outcome, usage):
    server = serve(reply)
    through = {"attempts": 1, "patience_s": 0.0, "timeout_s": 0.2}
    (ours,) = lines_of(ChatLLM("gpt-4o", base_url=server.url, **through))
    (line,) = lines_of(box(server, **through))
    assert (line.status, line.outcome, line.usage) == (status, outcome, usage)
    assert (ours.outcome, ours.usage) == (outcome, usage)
    assert len(server.bodies) == 2  # none of LiteLLM's own attempts


def test_a_connection_that_was_never_made_is_not_charged(transport):
    llm = ChatLLM("openai/gpt-4o", transport=transport("http://127.0.0.1:9/v1", api_key=KEY), attempts=1)
    (line,) = lines_of(llm)
    assert (line.outcome, line.status) == (Outcome.UNPAID, None)
    assert "could not be reached" in line.error


def test_the_wait_and_the_name_that_a_server_gives_are_heard(serve, box):
    asked = {"retry-after": str(LONGEST_ASKED_S + 1), "x-request-id": "r-1"}
    with pytest.raises(EndpointError, match="121 s") as caught:
        ask(box(serve(failed(429, headers=asked))))
    assert (caught.value.retry_after_s, caught.value.request_id) == (LONGEST_ASKED_S + 1, "r-1")


def test_a_refused_parameter_is_learned_through_litellm_too(serve, box, caplog):
    def picky(body: Body) -> Reply:
        if "temperature" in body:
            return failed(400, "Unsupported parameter: 'temperature'", param="temperature")(body)
        return said("a", "b")(body)

    llm = box(serve(picky))
    reply = ask(llm)
    assert [call.outcome for call in reply.calls] == [Outcome.UNPAID, Outcome.PAID]
    assert not llm.capabilities.row.temperature
    assert len([record for record in caplog.records if record.name == "trimtab.llm"]) == 1


def test_what_litellm_itself_says_a_model_does_not_take_is_learned_without_a_request(serve, box):
    server = serve(said("a", "b"))
    llm = box(server, "openai/o3-mini", capabilities=Capabilities(n=True))
    reply = ask(llm, Sampling(n=2, temperature=0.5))
    assert [(call.status, call.outcome) for call in reply.calls] == [
        (400, Outcome.UNPAID),
        (200, Outcome.PAID),
    ]
    assert len(server.bodies) == 1
    assert "temperature" not in server.bodies[0]


def test_a_model_whose_provider_nobody_knows_is_a_refusal(transport):
    llm = ChatLLM("some-model-of-tomorrow", transport=transport(api_key=KEY))
    with pytest.raises(RefusedError, match="LLM Provider NOT provided"):
        ask(llm)


def test_a_cancelled_call_leaves_nothing_running(serve, box):
    budget = Budget(Limits())
    llm = box(serve(silent), call_deadline_s=0.1, budget=budget)

    async def ended() -> set[asyncio.Task[Any]]:
        with pytest.raises(EndpointError, match="deadline"):
            await llm.complete(PROMPT, ASKED)
        await llm.close()
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(ended()) == set()
    assert (budget.reserved, budget.spent) == (Usage(), WORST)


def test_one_transport_serves_one_event_loop_after_another(serve, box):
    llm = box(serve(said("a", "b")))
    for _ in range(5):
        assert len(ask(llm).completions) == 2


# ------------------------------------------------------------------------------------ secrets and silence


@pytest.mark.parametrize(
    "reply",
    [
        failed(401, f"Incorrect API key provided: {KEY}"),
        failed(400, f"bad header Bearer {KEY} and password header-secret"),
        failed(500, f"debug: {KEY}"),
        dropped,
        lambda body: (200, {}, "{" + KEY),
        lambda body: (200, {}, json.dumps({"error": {"message": f"{KEY} header-secret"}})),
    ],
    ids=["401", "400", "500", "dropped", "broken", "error with status 200"],
)
def test_no_secret_stands_in_an_error_its_chain_a_repr_a_log_or_on_the_screen(
    serve, box, caplog, capsys, reply
):
    caplog.set_level(logging.DEBUG)
    llm = box(serve(reply), headers={"x-password": "header-secret"}, attempts=2)
    with pytest.raises(LLMError) as caught:
        ask(llm)
    error = caught.value
    printed = capsys.readouterr()
    shown = [
        *traceback.format_exception(error),
        repr(error),
        repr(llm),
        str(vars(error)),
        caplog.text,
        *printed,
    ]
    assert KEY not in "\n".join(shown)
    assert "header-secret" not in "\n".join(shown)
    assert (error.__cause__, error.__context__) == (None, None)
    assert (printed.out, printed.err) == ("", "")


@pytest.mark.parametrize("url", ["localhost:8000", "http://host/v1?key=query-secret"])
def test_an_address_that_cannot_be_used_is_refused_without_being_shown(transport, url):
    with pytest.raises(ConfigError) as caught:
        transport(url)
    assert "query-secret" not in str(caught.value)


def test_the_endpoint_is_named_without_credentials(transport):
    assert transport().endpoint == "litellm"
    assert transport("http://user:pass-word@host/v1").endpoint == "http://host/v1"


SILENT_IMPORT = """
import os, socket, sys
def refuse(*args, **kwargs):
    print("network:", args[-1]); os._exit(3)
socket.socket.connect = socket.getaddrinfo = refuse
before = dict(os.environ)
from trimtab.llm.litellm_sdk import LiteLLMTransport
assert "litellm" not in sys.modules
LiteLLMTransport(api_key="k")
from litellm.anthropic_beta_headers_manager import get_provider_name
get_provider_name("anthropic")
assert dict(os.environ) == before, set(os.environ) ^ set(before)
"""


def test_litellm_is_imported_when_used_asks_no_network_and_leaves_the_environment_as_it_was(
    tmp_path: Path, transport: Any
) -> None:
    (tmp_path / ".env").write_text("OPENAI_API_KEY=sk-of-another-project\n", "utf-8")
    script = tmp_path / "check.py"
    script.write_text(SILENT_IMPORT, "utf-8")
    plain = {name: value for name, value in os.environ.items() if not name.startswith("LITELLM")}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=plain, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from trimtab.llm.litellm_sdk import LiteLLMTransport

    monkeypatch.setitem(sys.modules, "litellm", None)
    with pytest.raises(MissingExtraError, match=r"trimtab\[litellm\]"):
        LiteLLMTransport()
