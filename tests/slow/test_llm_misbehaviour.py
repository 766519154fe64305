"""Laws of the client against an endpoint that misbehaves: a real HTTP server, which counts what it bills."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from peers.run import MODEL, SAMPLING, prompt_of, text_of
from peers.running import MIX, Peer, running
from trimtab.errors import EndpointError, LLMError, RefusedError
from trimtab.llm import Cached, ChatLLM, Filled, embedded
from trimtab.llm.cached import request_key
from trimtab.store import Store
from trimtab.types import Call, Completions, Message, Outcome, Prompt, Sampling

pytestmark = pytest.mark.slow

PEERS = Path(__file__).resolve().parents[1] / "peers"
KEY = "sk-peer-0123456789"
PAID, UNPAID, UNCERTAIN = Outcome.PAID, Outcome.UNPAID, Outcome.UNCERTAIN


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Peer]:
    with running() as peer:
        yield peer


def chat(peer: Peer, **options: Any) -> ChatLLM:
    given = {"base_url": peer.url, "api_key": KEY, "backoff_s": 0.05, "timeout_s": 5.0, **options}
    return ChatLLM(MODEL, **given)


async def asked(llm: ChatLLM, prompt: Prompt, sampling: Sampling = SAMPLING) -> Completions:
    try:
        return await llm.complete(prompt, sampling)
    finally:
        await llm.close()


def outcomes(calls: tuple[Call, ...]) -> list[tuple[Outcome, int | None]]:
    return [(call.outcome, call.status) for call in calls]


# ------------------------------------------------------------------------------- each fault by itself

# What befalls the first attempt -> the ledger's line of it.
PASSING = {
    "429": (UNPAID, 429),
    "429_retry_after": (UNPAID, 429),
    "500": (UNPAID, 500),
    "502": (UNPAID, 502),
    "503": (UNPAID, 503),
    "hang": (UNCERTAIN, None),
    "reset": (UNCERTAIN, None),
    "truncated": (UNCERTAIN, None),
    "malformed": (UNCERTAIN, None),
    "content_type": (UNCERTAIN, None),
    "empty": (UNCERTAIN, 200),
}
LASTING = [fault for fault in PASSING if not fault.startswith("429")]


def times_billed(peer: Peer) -> int:
    return peer.stats["billed"]


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes_costs_one_more_attempt_and_a_line_in_the_ledger(endpoint: Peer, fault: str):
    endpoint.told(faults={fault: 1.0})
    given = asyncio.run(asked(chat(endpoint, timeout_s=0.5), prompt_of(1)))
    assert given.completions[0].text.endswith(text_of(1))
    assert outcomes(given.calls) == [PASSING[fault], (PAID, 200)]
    assert [call.attempt for call in given.calls] == [0, 1]
    # What may have been billed is counted: never less than what was.
    assert sum(call.outcome is not UNPAID for call in given.calls) == times_billed(endpoint)
    assert given.usage.calls == times_billed(endpoint)


@pytest.mark.parametrize("fault", LASTING)
def test_a_fault_that_stays_is_reported_after_all_attempts_with_their_lines(endpoint: Peer, fault: str):
    endpoint.told(faults={fault: 1.0}, every_time=True)
    with pytest.raises(EndpointError) as caught:
        asyncio.run(asked(chat(endpoint, timeout_s=0.2, attempts=2), prompt_of(1)))
    assert outcomes(caught.value.calls) == [PASSING[fault]] * 2
    assert caught.value.retryable
    assert KEY not in str(caught.value)


def test_a_key_that_is_refused_is_said_at_once(endpoint: Peer):
    endpoint.told(key="sk-another")
    with pytest.raises(RefusedError, match="401") as caught:
        asyncio.run(asked(chat(endpoint), prompt_of(1)))
    assert caught.value.is_of_all
    assert outcomes(caught.value.calls) == [(UNPAID, 401)]
    assert endpoint.stats["received"] == 1


def test_a_parameter_that_is_refused_is_left_out_from_then_on(endpoint: Peer):
    endpoint.told(refused_parameter="temperature")
    llm = chat(endpoint)

    async def twice() -> list[Completions]:
        first = await llm.complete(prompt_of(1), SAMPLING)
        second = await llm.complete(prompt_of(2), SAMPLING)
        await llm.close()
        return [first, second]

    first, second = asyncio.run(twice())
    assert outcomes(first.calls) == [(UNPAID, 400), (PAID, 200)]
    assert outcomes(second.calls) == [(PAID, 200)]
    assert not llm.capabilities.row.temperature


def test_an_answer_without_usage_is_counted_at_its_worst_case(endpoint: Peer):
    endpoint.told(faults={"no_usage": 1.0}, every_time=True)
    given = asyncio.run(asked(chat(endpoint), prompt_of(1)))
    assert outcomes(given.calls) == [(PAID, 200)]
    assert given.usage.output_tokens == SAMPLING.max_tokens
    assert given.usage.input_tokens >= 1


def test_an_endpoint_that_ignores_n_is_asked_one_by_one(endpoint: Peer, tmp_path: Path):
    endpoint.told(faults={"one_of_n": 1.0}, every_time=True)
    llm = ChatLLM("gpt-4o", base_url=endpoint.url, api_key=KEY)

    async def asked_for_four() -> Completions:
        with closing(Store.open(tmp_path / "store.db")) as store:
            filled = Filled(Cached(llm, store.samples_of("r")), capabilities=llm.capabilities)
            return await filled.complete(prompt_of(1), Sampling(n=4, max_tokens=64))

    given = asyncio.run(asked_for_four())
    assert len(given.completions) == 4
    assert len(given.calls) == times_billed(endpoint) == 4


def test_a_call_that_is_given_up_leaves_nothing_running(endpoint: Peer):
    endpoint.told(faults={"hang": 1.0}, every_time=True)
    llm = chat(endpoint)

    async def given_up() -> None:
        task = asyncio.create_task(llm.complete(prompt_of(1), SAMPLING))
        while not endpoint.stats["received"]:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await llm.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left

    asyncio.run(given_up())
    assert endpoint.stats["broken_before_answer"] == 1


# ------------------------------------------------------------------------------- all of them together

QUESTIONS = 1000


async def all_asked(peer: Peer, store: Store, **options: Any) -> list[Completions | BaseException]:
    llm = chat(peer, **options)
    filled = Filled(Cached(llm, store.samples_of("run")), capabilities=llm.capabilities)
    asked = (filled.complete(prompt_of(number), SAMPLING) for number in range(QUESTIONS))
    given = await asyncio.gather(*asked, return_exceptions=True)
    await llm.close()
    return list(given)


@pytest.mark.parametrize("attempts", [4, 1])
def test_of_a_thousand_questions_each_is_answered_or_failed_and_each_paid_answer_kept_once(
    endpoint: Peer, tmp_path: Path, attempts: int
):
    assert sum(MIX.values()) == pytest.approx(0.3)
    endpoint.told(faults=MIX, latency="exponential", latency_s=0.05, every_time=attempts == 1, seed=7)
    with closing(Store.open(tmp_path / "store.db")) as store:
        given = asyncio.run(
            all_asked(endpoint, store, attempts=attempts, timeout_s=4.0, patience_s=60 if attempts > 1 else 1)
        )
        kept = {draw.key: draw.text for draw in store.kept_draws()}
        usage = store.usage_of("run")
        stats = endpoint.stats
    answered = {number: reply for number, reply in enumerate(given) if isinstance(reply, Completions)}
    failed = [reply for reply in given if isinstance(reply, BaseException)]
    assert all(isinstance(reply, LLMError) and str(reply) and reply.calls for reply in failed)
    assert len(answered) + len(failed) == QUESTIONS
    assert (len(failed) == 0) == (attempts > 1)
    # Every answer that came is in the store, once, and nothing else is.
    keys = {request_key(MODEL, prompt_of(number), SAMPLING): number for number in answered}
    assert kept.keys() == keys.keys()
    assert all(answered[keys[key]].completions[0].text == text for key, text in kept.items())
    assert stats["kinds"]["ok"] == len(answered)
    # The ledger counts each request that the endpoint bills, and no other.
    assert usage.calls == stats["billed"]
    lines = [call for reply in given for call in reply.calls]  # type: ignore[union-attr]
    assert len(lines) == stats["received"]
    assert len({call.id for call in lines}) == len(lines)


# ------------------------------------------------------------------------------- kill -9

ASKED, MOST, KILLS = 200, 16, 20


def child(peer: Peer, store: Path, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(PEERS / "run.py"), peer.url, str(store), str(ASKED), str(MOST), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def kept_texts(path: Path, peer: Peer) -> set[str]:
    numbers = {request_key(MODEL, prompt_of(n), SAMPLING, peer.url): n for n in range(ASKED)}
    with closing(Store.open(path)) as store:
        return {text_of(numbers[draw.key]) for draw in store.kept_draws()}


def in_flight_at_its_end(before: dict[str, Any], after: dict[str, Any]) -> int:
    kinds = ("broken_before_answer", "broken_after_answer")
    return sum(after.get(kind, 0) - before.get(kind, 0) for kind in kinds)


@pytest.mark.parametrize("words", [(), ("idempotent",)])
def test_a_run_killed_again_and_again_repeats_only_what_was_in_flight(
    endpoint: Peer, tmp_path: Path, words: tuple[str, ...]
):
    """Over 20 kills at random moments: what is in the store is never asked again, by the server's own count.

    The server sees a request when it comes, and a connection when it breaks. At each kill it counts what may
    have been lost: requests whose connection broke before their answer was sent, and answers that were sent
    within half a second before their connection broke, which the client may not have kept yet. So,
    for each life of the run:

    - a request whose answer is in the store at the kill is not received again, ever;
    - requests received and not kept are no more than the server counts as lost;
    - what is received in all is one request a question and those lost.

    A provider that honours Idempotency-Key bills nothing twice at all.
    """
    rng = random.Random(len(words))
    kills, runs = 0, 0
    while kills < KILLS // 2:
        path = tmp_path / f"{runs}.db"
        endpoint.told(latency="exponential", latency_s=0.15, idempotent=bool(words), seed=runs)
        kept: set[str] = set()
        bodies: dict[str, dict[str, int]] = {}
        before = endpoint.stats
        wasted, is_done = 0, False
        while not is_done:
            with child(endpoint, path, *words) as process:
                assert process.stdout is not None
                process.stdout.readline()  # it has been imported, and begins
                try:
                    is_done = process.wait(rng.uniform(0.05, 1.2)) == 0
                    assert is_done
                except subprocess.TimeoutExpired:
                    process.kill()
                    kills += 1
            time.sleep(0.05)  # until the server has seen the connections break
            after, now_bodies = endpoint.stats, endpoint.bodies
            assert all(now_bodies[text] == bodies[text] for text in kept)
            now_kept = kept_texts(path, endpoint)
            lost = (after["received"] - before["received"]) - len(now_kept - kept)
            assert 0 <= lost <= in_flight_at_its_end(before, after)
            wasted += lost
            kept, bodies, before = now_kept, now_bodies, after
        assert len(kept) == ASKED
        assert before["received"] == ASKED + wasted
        assert before["billed"] == (ASKED if words else ASKED + wasted)
        runs += 1


# ------------------------------------------------------------------------------- other clients of our server


@pytest.fixture(scope="module")
def black_box() -> Iterator[str]:
    pytest.importorskip("uvicorn")
    with embedded.running() as url:
        yield url


BOX, WORDS = "trimtab-blackbox", "Ann has 3 apples and buys 4 more. How many apples has she now?"
DRAWN = Sampling(n=3, temperature=0.8, max_tokens=40, seed=11)


@pytest.fixture(scope="module")
def drawn_by_us(black_box: str) -> list[str]:
    async def drawn() -> list[str]:
        llm = ChatLLM(BOX, base_url=black_box)
        given = await llm.complete(Prompt((Message("user", WORDS),)), DRAWN)
        await llm.close()
        return [completion.text for completion in given.completions]

    return asyncio.run(drawn())


REQUEST: dict[str, Any] = {
    "messages": [{"role": "user", "content": WORDS}],
    "n": DRAWN.n,
    "temperature": DRAWN.temperature,
    "max_tokens": DRAWN.max_tokens,
    "seed": DRAWN.seed,
}


def test_the_official_client_is_given_what_ours_is(black_box: str, drawn_by_us: list[str]):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=black_box, api_key="none", max_retries=0) as client:
        reply = client.chat.completions.create(model=BOX, **REQUEST)
    assert [choice.message.content for choice in reply.choices] == drawn_by_us
    assert len(set(drawn_by_us)) > 1
    assert reply.usage.completion_tokens > 0


LITELLM = """
import json, sys, litellm
url, model, request = sys.argv[1:]
reply = litellm.completion(model=f"openai/{model}", base_url=url, api_key="none", **json.loads(request))
print(json.dumps([choice.message.content for choice in reply.choices]))
"""


def test_litellm_is_given_what_ours_is(black_box: str, drawn_by_us: list[str]):
    if importlib.util.find_spec("litellm") is None:
        pytest.skip("litellm is not installed")
    # In a process of its own: its import patches and warns, and asks the network for prices.
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    command = [sys.executable, "-c", LITELLM, black_box, BOX, json.dumps(REQUEST)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == drawn_by_us
