"""Laws of ChatLLM's calls: a line of the ledger for each HTTP request, its money, its end and its name."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopback import Body, Reply, Server, dropped, failed, said
from trimtab.errors import BudgetSpentError, EndpointError, LLMError, RefusedError
from trimtab.llm import Budget, ChatLLM, Limiter, Limits, Prices
from trimtab.llm.budget import worst_case
from trimtab.llm.transport import SHOWN, AttemptError, RawReply
from trimtab.types import Call, Completions, Message, Outcome, Prompt, Purpose, Sampling, Usage

pytestmark = pytest.mark.usefixtures("one_certificate")

KEY = "sk-very-secret-key-0123456789"
PROMPT = Prompt((Message("user", "How many?"),), purpose=Purpose.JUDGING)
ASKED = Sampling(n=2, max_tokens=40)
WORST = worst_case(PROMPT.messages, 2, 40)
PRICES = Prices(usd_per_million_in=1.0, usd_per_million_out=10.0)


class Seen:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.replies: list[Completions | None] = []

    def ended(
        self, call: Call, prompt: Prompt, reply: Completions | None, sampling: Sampling | None = None
    ) -> None:
        assert prompt == PROMPT
        self.calls.append(call)
        self.replies.append(reply)


def box(server: Server, **options: Any) -> ChatLLM:
    return ChatLLM("gpt-4o", **{"base_url": server.url, "api_key": KEY, "backoff_s": 0.001, **options})


def lines_of(llm: ChatLLM, sampling: Sampling = ASKED) -> tuple[Call, ...]:
    """The ledger's lines of one request, however it ended."""
    try:
        return asyncio.run(llm.complete(PROMPT, sampling)).calls
    except LLMError as error:
        return error.calls


def document(**changes: Any) -> Callable[[Body], Reply]:
    """A good reply with another usage or other choices."""

    def reply(body: Body) -> Reply:
        whole = {**json.loads(said("a", "b")(body)[2]), **changes}
        return 200, {}, json.dumps({key: value for key, value in whole.items() if value is not None})

    return reply


def silent(body: Body) -> Reply:
    threading.Event().wait(0.4)
    raise ConnectionAbortedError


# ------------------------------------------------------------------------------------ one line an attempt


@pytest.mark.parametrize(
    ("reply", "status", "outcome", "usage"),
    [
        (said("a", "b", tokens=(10, 5)), 200, Outcome.PAID, Usage(10, 5, 1)),
        (document(usage=None), 200, Outcome.PAID, WORST),
        (document(usage={"prompt_tokens": 10}), 200, Outcome.PAID, WORST),
        (document(usage={"prompt_tokens": 10, "completion_tokens": -5}), 200, Outcome.PAID, WORST),
        (document(choices=[]), 200, Outcome.UNCERTAIN, Usage(10, 5, 1)),
        (document(choices=[], usage=None), 200, Outcome.UNCERTAIN, WORST),
        (lambda body: (200, {}, '{"choices": [{"mess'), None, Outcome.UNCERTAIN, WORST),
        (lambda body: (200, {"content-type": "text/html"}, "<html>"), None, Outcome.UNCERTAIN, WORST),
        (dropped, None, Outcome.UNCERTAIN, WORST),
        (silent, None, Outcome.UNCERTAIN, WORST),
        (failed(429), 429, Outcome.UNPAID, Usage()),
        (failed(429, code="insufficient_quota"), 429, Outcome.UNPAID, Usage()),
        (failed(500), 500, Outcome.UNPAID, Usage()),
        (failed(503), 503, Outcome.UNPAID, Usage()),
        (failed(400), 400, Outcome.UNPAID, Usage()),
        (failed(401), 401, Outcome.UNPAID, Usage()),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(value),
)
def test_each_end_of_a_request_has_its_outcome_and_its_charge(serve, reply, status, outcome, usage):
    # Only where nothing ever comes is the wait short: a busy machine takes its time over the others.
    timeout_s = 0.1 if reply is silent else 30.0
    llm = box(serve(reply), attempts=1, patience_s=0.0, timeout_s=timeout_s, payer="MY_KEY")
    (line,) = lines_of(llm)
    assert (line.status, line.outcome) == (status, outcome)
    assert replace(line.usage, usd=None) == usage
    assert (line.model, line.endpoint, line.payer) == ("gpt-4o", llm.endpoint, "MY_KEY")
    assert (line.purpose, line.n, line.attempt, line.is_batch) == (Purpose.JUDGING, 2, 0, False)
    assert (line.error == "") == (outcome is Outcome.PAID)
    assert 0 <= line.seconds < 5


def test_a_connection_that_was_never_made_is_not_charged():
    llm = ChatLLM("gpt-4o", base_url="http://127.0.0.1:9/v1", attempts=1, prices=PRICES)
    (line,) = lines_of(llm)
    assert (line.outcome, line.usage) == (Outcome.UNPAID, Usage(usd=0.0))


def test_attempts_are_numbered_and_each_line_has_an_id_of_its_own(serve):
    lines = lines_of(box(serve(failed(500), failed(429), dropped, said("a", "b"))))
    assert [line.attempt for line in lines] == [0, 1, 2, 3]
    assert len({line.id for line in lines}) == 4
    assert [line.started_at for line in lines] == sorted(line.started_at for line in lines)


def test_the_endpoints_name_for_a_request_is_in_its_line(serve):
    ours = {"x-request-id": "r-1"}
    lines = lines_of(box(serve(failed(500, headers=ours), lambda body: (200, ours, said("a")(body)[2]))))
    assert [line.request_id for line in lines] == ["r-1", "r-1"]


def test_what_each_attempt_is_charged_is_priced_and_sums_up_to_the_replys_usage(serve):
    llm = box(serve(dropped, failed(500), said("a", "b", tokens=(10, 5))), prices=PRICES)
    reply = asyncio.run(llm.complete(PROMPT, ASKED))
    worst = (WORST.input_tokens * 1.0 + WORST.output_tokens * 10.0) / 1e6
    assert [line.usage.usd for line in reply.calls] == pytest.approx([worst, 0.0, 60e-6])
    assert reply.usage.usd == pytest.approx(worst + 60e-6)
    assert reply.usage.calls == 2


@pytest.mark.parametrize(
    "reply",
    [
        failed(401, f"Incorrect API key provided:\n {KEY}"),
        failed(500, f"debug: x-pass header-secret\n{KEY}"),
        lambda body: (200, {}, "{" + KEY),
        lambda body: (200, {}, json.dumps({"error": f"Bearer {KEY}", "password": "header-secret"})),
        failed(500, "x" * (SHOWN - 6) + "header-secret"),
        lambda body: (200, {}, json.dumps("x" * (SHOWN - 6) + "header-secret")),
    ],
    ids=["401", "500", "broken", "no choices", "cut 500", "cut document"],
)
def test_a_lines_error_is_one_line_without_secrets(serve, reply):
    llm = box(serve(reply), attempts=1, headers={"x-pass": "header-secret"})
    (line,) = lines_of(llm)
    assert line.error
    assert "\n" not in line.error
    assert KEY not in repr(line)
    assert "header" not in repr(line)


def test_observers_are_told_of_every_attempt_once(serve):
    one, two = Seen(), Seen()
    llm = box(
        serve(failed(500), failed(400, "Unsupported parameter: 'temperature'"), said("a", "b")),
        watch=[one, two],
    )
    lines = lines_of(llm)
    assert [line.status for line in lines] == [500, 400, 200]
    assert one.calls == two.calls == list(lines)
    assert [reply is not None for reply in one.replies] == [False, False, True]


def test_observers_are_told_of_a_request_that_gives_up(serve):
    seen = Seen()
    lines = lines_of(box(serve(failed(500)), attempts=3, watch=[seen]))
    assert seen.calls == list(lines)
    assert len(lines) == 3


# ------------------------------------------------------------------------------------ money


def test_a_refusal_for_money_comes_before_anything_is_sent(serve):
    server, seen = serve(said("a")), Seen()
    budget = Budget(Limits(tokens=WORST.input_tokens + WORST.output_tokens - 1))
    limiter = Limiter()
    with pytest.raises(BudgetSpentError) as caught:
        asyncio.run(box(server, budget=budget, watch=[seen], limiter=limiter).complete(PROMPT, ASKED))
    assert caught.value.calls == ()
    assert (server.bodies, seen.calls, budget.spent, budget.reserved) == ([], [], Usage(), Usage())
    assert limiter.in_flight == 0


def test_money_that_is_spent_between_attempts_ends_the_request_with_its_lines(serve):
    server = serve(dropped)
    with pytest.raises(BudgetSpentError) as caught:
        asyncio.run(box(server, budget=Budget(Limits(calls=2)), attempts=5).complete(PROMPT, ASKED))
    assert [call.outcome for call in caught.value.calls] == [Outcome.UNCERTAIN] * 2
    assert len(server.bodies) == 2


class Playing:
    """A transport that plays outcomes: usage that was reported, or how the request failed."""

    endpoint = "http://played"

    def __init__(self, ends: list[tuple[int, int] | str]) -> None:
        self.ends = list(ends)

    async def send(self, body: Any, timeout_s: float, idempotency_key: str | None = None) -> RawReply:
        end = self.ends.pop(0) if self.ends else (1, 1)
        await asyncio.sleep(0)
        if isinstance(end, str):
            error = EndpointError(end, retryable=True)
            raise AttemptError(error, may_be_billed=end == "broken off")
        usage = {"prompt_tokens": end[0], "completion_tokens": end[1]}
        return RawReply({"choices": [{"message": {"content": "a"}}], "usage": usage}, 200, None)

    async def close(self) -> None:
        return None

    def redacted(self, text: str) -> str:
        return text


@settings(max_examples=40)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, WORST.input_tokens), st.integers(0, WORST.output_tokens)),
            st.sampled_from(["broken off", "refused"]),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_the_budget_and_the_lines_always_say_the_same(ends):
    seen, budget = Seen(), Budget(Limits())
    llm = ChatLLM("m", transport=Playing(ends), budget=budget, watch=[seen], prices=PRICES, backoff_s=0.0)

    async def several() -> None:
        await asyncio.gather(*(llm.complete(PROMPT, ASKED) for _ in range(3)), return_exceptions=True)

    asyncio.run(several())
    assert budget.spent == pytest.approx(sum((call.usage for call in seen.calls), Usage()))
    assert budget.reserved == Usage()


# ------------------------------------------------------------------------------------ coming to an end


def left(limiter: Limiter, budget: Budget) -> tuple[int, int, Usage]:
    return limiter.in_flight, limiter.waiting, budget.reserved


def test_a_calls_deadline_ends_it_with_all_its_attempts_and_leaves_nothing_running(serve):
    limiter, budget, seen = Limiter(), Budget(Limits()), Seen()
    llm = box(serve(silent), call_deadline_s=0.1, limiter=limiter, budget=budget, watch=[seen])

    async def ended() -> tuple[LLMError, int]:
        with pytest.raises(EndpointError, match=r"deadline of 0\.1 s") as caught:
            await llm.complete(PROMPT, ASKED)
        await llm.close()
        return caught.value, len(asyncio.all_tasks())

    error, tasks = asyncio.run(ended())
    assert tasks == 1
    assert left(limiter, budget) == (0, 0, Usage())
    (line,) = error.calls
    assert (line.outcome, line.usage, line.error) == (Outcome.UNCERTAIN, WORST, "cancelled")
    assert budget.spent == WORST
    assert seen.calls == [line]


def test_a_deadline_between_two_attempts_charges_only_what_was_sent(serve):
    budget = Budget(Limits())
    llm = box(serve(failed(429, headers={"retry-after": "30"})), call_deadline_s=0.4, budget=budget)
    with pytest.raises(EndpointError, match="after 1 attempts") as caught:
        asyncio.run(llm.complete(PROMPT, ASKED))
    assert [call.outcome for call in caught.value.calls] == [Outcome.UNPAID]
    assert budget.spent.calls == 0


def test_a_cancelled_call_leaves_nothing_running_and_counts_at_its_worst_case(serve):
    limiter, budget, seen = Limiter(most=1), Budget(Limits()), Seen()
    llm = box(serve(silent), limiter=limiter, budget=budget, watch=[seen])

    async def cancelled() -> int:
        calls = [asyncio.ensure_future(llm.complete(PROMPT, ASKED)) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert (limiter.in_flight, limiter.waiting) == (1, 2)
        for call in calls:
            call.cancel()
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ends)
        await llm.close()
        return len(asyncio.all_tasks())

    assert asyncio.run(cancelled()) == 1
    assert left(limiter, budget) == (0, 0, Usage())
    assert [call.outcome for call in seen.calls] == [Outcome.UNCERTAIN]  # the others were never sent
    assert budget.spent == WORST


def test_after_a_cancelled_call_the_same_client_goes_on(serve):
    llm = box(serve(silent, said("a", "b")), limiter=Limiter(most=1))

    async def twice() -> int:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await llm.complete(PROMPT, ASKED)
        return len((await llm.complete(PROMPT, ASKED)).completions)

    assert asyncio.run(twice()) == 2


# ------------------------------------------------------------------------------------ names of requests


def names_sent(server: Server) -> list[str | None]:
    return [headers.get("idempotency-key") for headers in server.headers]


def test_attempts_at_the_same_draws_carry_the_same_idempotency_key(serve):
    server = serve(failed(500), dropped, said("a", "b"))
    lines_of(box(server, idempotent="run-1"))
    names = names_sent(server)
    assert len(names) == 3
    assert len(set(names)) == 1
    assert names[0]


def test_a_repeated_run_of_the_same_name_repeats_its_keys(serve):
    server = serve(said("a", "b"))
    for _ in range(2):
        lines_of(box(server, idempotent="run-1"))
    assert len(set(names_sent(server))) == 1


@pytest.mark.parametrize(
    ("run", "asked", "model"),
    [
        ("run-2", ASKED, "gpt-4o"),
        ("run-1", replace(ASKED, start=2), "gpt-4o"),
        ("run-1", replace(ASKED, n=1), "gpt-4o"),
        ("run-1", replace(ASKED, seed=1), "gpt-4o"),
        ("run-1", replace(ASKED, temperature=0.5), "gpt-4o"),
        ("run-1", ASKED, "gpt-4.1"),
    ],
    ids=["run", "draws", "number", "seed", "temperature", "model"],
)
def test_another_run_other_draws_and_other_requests_have_other_keys(serve, run, asked, model):
    server = serve(said("a", "b"))
    lines_of(box(server, idempotent="run-1"))
    other = ChatLLM(model, base_url=server.url, api_key=KEY, idempotent=run)
    asyncio.run(other.complete(PROMPT, asked))
    assert len(set(names_sent(server))) == 2


def test_without_a_run_no_idempotency_key_is_sent(serve):
    server = serve(said("a", "b"))
    lines_of(box(server))
    assert names_sent(server) == [None]


# ------------------------------------------------------------------------------------ Azure


def test_azures_deployment_is_asked_under_its_own_address_with_its_own_header(serve):
    server = serve(said("a", "b"))
    llm = box(server, base_url=server.url.removesuffix("/v1"), api_version="2024-10-21", idempotent="run")
    (line,) = lines_of(llm)
    assert server.paths == ["/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"]
    assert server.headers[0]["api-key"] == KEY
    assert server.headers[0]["idempotency-key"]
    assert server.bodies[0]["n"] == 2
    assert (line.outcome, line.endpoint) == (Outcome.PAID, server.url.removesuffix("/v1"))


def test_azures_refusals_are_ours_and_hold_no_key(serve):
    server = serve(failed(401, f"Access denied due to invalid key {KEY}"))
    llm = box(server, base_url=server.url.removesuffix("/v1"), api_version="2024-10-21")
    with pytest.raises(RefusedError) as caught:
        asyncio.run(llm.complete(PROMPT, ASKED))
    assert caught.value.is_of_all
    assert KEY not in str(caught.value)
