"""Laws of a question's deadline: it ends what only waits, and lets what is paid for come to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from trimtab import tasks
from trimtab.drawing import answer_question, within
from trimtab.errors import EndpointError
from trimtab.llm import Budget, Cached, ChatLLM, Filled, Limiter, Limits
from trimtab.llm.patience import patience
from trimtab.llm.transport import AttemptError, RawReply
from trimtab.stopping import DecisionRule
from trimtab.store import Store
from trimtab.types import AnswerStatus, Message, Outcome, Prompt, Question, Sampling, Usage

pytestmark = pytest.mark.slow

PROMPT = Prompt((Message("user", "How many?"),))
ONE = Sampling(n=1, max_tokens=10)
DOWN = AttemptError(EndpointError("down", retryable=True, status=503), may_be_billed=False)
SLOW_S = 0.3


class Slow:
    """A transport that takes its time, or fails at once."""

    endpoint = "http://slow"

    def __init__(self, *, fails: bool = False) -> None:
        self.fails, self.begun, self.ended = fails, 0, 0

    async def send(self, body: Mapping[str, Any], timeout_s: float, key: str | None = None) -> RawReply:
        self.begun += 1
        if self.fails:
            raise DOWN
        await asyncio.sleep(SLOW_S)
        self.ended += 1
        document = {
            "choices": [{"message": {"content": "#### 7"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 3},
        }
        return RawReply(document, 200, None)

    async def close(self) -> None:
        return None


async def test_a_call_on_its_way_at_the_deadline_comes_to_its_end_and_is_charged_what_it_cost():
    transport, budget = Slow(), Budget(Limits())
    with patience(0.05):
        reply = await ChatLLM("m", transport=transport, budget=budget).complete(PROMPT, ONE)
    assert reply.completions[0].text == "#### 7"
    assert budget.spent == Usage(5, 3, 1)


async def test_no_other_attempt_is_made_after_the_deadline():
    transport = Slow(fails=True)
    box = ChatLLM("m", transport=transport, attempts=50, backoff_s=5.0)
    with patience(0.1), pytest.raises(EndpointError, match="within the question's deadline, after") as raised:
        await box.complete(PROMPT, ONE)
    assert len(raised.value.calls) == transport.begun < 50


async def second_that_must_wait(box: ChatLLM) -> None:
    """A call while another is on its way, with a deadline before that one's end."""
    first = asyncio.ensure_future(box.complete(PROMPT, ONE))
    await asyncio.sleep(0.01)
    with patience(0.05), pytest.raises(EndpointError, match="after 0 attempts"):
        await box.complete(PROMPT, ONE)
    await first


async def test_a_call_that_still_waits_for_its_turn_at_the_deadline_is_not_made():
    transport = Slow()
    await second_that_must_wait(ChatLLM("m", transport=transport, limiter=Limiter(most=1)))
    assert transport.begun == 1


async def test_a_call_that_still_waits_for_money_at_the_deadline_is_not_made_and_holds_none():
    transport, budget = Slow(), Budget(Limits(calls=1))
    await second_that_must_wait(ChatLLM("m", transport=transport, budget=budget))
    assert transport.begun == 1
    assert budget.reserved == Usage()


async def test_a_deadline_inside_another_does_not_put_it_off():
    box = ChatLLM("m", transport=Slow(fails=True), attempts=50, backoff_s=5.0)
    with patience(0.05), patience(30.0), pytest.raises(EndpointError, match="the question's deadline"):
        async with asyncio.timeout(5):
            await box.complete(PROMPT, ONE)


async def test_without_a_deadline_work_goes_on_as_long_as_it_likes():
    assert (await within(None, ChatLLM("m", transport=Slow()).complete(PROMPT, ONE))).completions


async def test_a_question_at_its_deadline_is_failed_and_the_call_on_its_way_is_kept_and_in_the_ledger():
    transport = Slow()
    with Store.in_memory() as store:
        box = ChatLLM("m", transport=transport)
        llm = Filled(Cached(box, store.samples_of("run")), capabilities=box.capabilities)
        answer = await answer_question(
            Question("q", "How many?"),
            llm,
            tasks.numeric(),
            DecisionRule("majority"),
            Sampling(n=2, max_tokens=10),
            deadline_s=0.05,
        )
        assert answer.status is AnswerStatus.FAILED
        assert answer.error == "not answered within the question's deadline of 0.05 s"
        assert transport.begun == transport.ended == 2
        assert len(list(store.kept_draws())) == 2
        assert store.usage_of("run", Outcome.PAID).calls == 2
    assert asyncio.all_tasks() == {asyncio.current_task()}
