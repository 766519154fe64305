"""Laws of one limiter and one budget shared by many samplers, without a cluster."""

from __future__ import annotations

import asyncio

import pytest

from trimtab.errors import BudgetSpentError, RunError
from trimtab.llm.budget import Budget, Limits
from trimtab.llm.limiter import Limiter
from trimtab.scale.gate import Gate, Mood, News, Told, times
from trimtab.scale.leases import LeasedBudget, LeasedLimiter, Line
from trimtab.types import Usage

ONE = Usage(10, 5, 1, 0.01)  # what a call costs
WORST = Usage(40, 20, 1, 0.04)  # what is set aside for it


class Endpoint:
    """Counts what is under way, over all samplers."""

    def __init__(self) -> None:
        self.in_flight = self.most = self.calls = 0
        self.refusals = 0

    async def called(self) -> None:
        self.calls += 1
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        await asyncio.sleep(0.001)
        self.in_flight -= 1


async def lines(gate: Gate, count: int) -> list[Line]:
    opened = [Line(gate, f"sampler-{at}") for at in range(count)]
    for line in opened:
        await line.open()
    return opened


async def asking(line: Line, endpoint: Endpoint, calls: int, *, at_once: int = 8) -> None:
    """So many calls as a `ChatLLM` makes them."""
    limiter, budget = LeasedLimiter(line), LeasedBudget(line)
    room = asyncio.Semaphore(at_once)

    async def one() -> None:
        async with room, limiter.slot(15) as slot:
            hold = await budget.reserve(WORST)
            await endpoint.called()
            budget.settle(hold, ONE)
            slot.succeeded()

    outcomes = await asyncio.gather(*(one() for _ in range(calls)), return_exceptions=True)
    endpoint.refusals += sum(isinstance(each, BudgetSpentError) for each in outcomes)
    await line.close()


async def run(gate: Gate, samplers: int, calls: int) -> Endpoint:
    endpoint = Endpoint()
    await asyncio.gather(*(asking(line, endpoint, calls) for line in await lines(gate, samplers)))
    return endpoint


async def test_all_samplers_together_keep_to_what_one_limiter_lets_through():
    gate = Gate(Limiter(start=3, most=5), Budget(Limits()))
    endpoint = await run(gate, 4, 40)
    assert endpoint.calls == 160
    assert endpoint.most <= 5
    assert gate.in_flight == 0


@pytest.mark.parametrize("limits", [Limits(usd=0.5), Limits(tokens=750), Limits(calls=50)])
async def test_all_samplers_together_spend_to_the_limit_and_not_beyond(limits):
    """After each call that is refused no more than a worst case is left, and none is spent beyond."""
    gate = Gate(Limiter(start=40, most=40), Budget(limits))
    endpoint = await run(gate, 4, 40)
    assert gate.spent.calls == endpoint.calls
    assert endpoint.calls + endpoint.refusals == 160
    assert 46 <= endpoint.calls <= 50
    assert gate.is_spent is not None


async def test_a_run_without_a_limit_is_counted_all_the_same_and_holds_nothing():
    gate = Gate(Limiter(), Budget(Limits()))
    endpoint = await run(gate, 3, 30)
    assert gate.spent.calls == endpoint.calls == 90
    assert gate.spent.usd == pytest.approx(0.9)
    assert gate.is_spent is None


async def test_requests_are_bundled_and_make_no_call_of_their_own():
    gate = Gate(Limiter(start=8, most=8), Budget(Limits()))
    await run(gate, 1, 400)
    assert gate.bundles < 100


async def test_where_there_is_plenty_holds_are_had_ahead_of_need_and_none_is_left_held():
    budget = Budget(Limits(usd=1000.0))
    gate = Gate(Limiter(), budget)
    endpoint = await run(gate, 3, 50)
    assert endpoint.calls == 150
    assert budget.reserved == Usage()
    assert gate.is_spent is None


async def test_a_turn_that_nobody_waits_for_any_more_goes_to_the_next():
    gate = Gate(Limiter(start=1, most=1), Budget(Limits()))
    one, other = await lines(gate, 2)
    first = LeasedLimiter(one).slot()
    await first.__aenter__()
    given_up = asyncio.create_task(LeasedLimiter(other).slot().__aenter__())
    await asyncio.sleep(0.02)
    given_up.cancel()
    await first.__aexit__(None, None, None)
    async with asyncio.timeout(5), LeasedLimiter(other).slot():
        pass
    await asyncio.gather(one.close(), other.close())


async def test_a_sampler_that_is_gone_holds_up_nobody_and_what_it_held_counts_as_spent():
    budget = Budget(Limits(usd=0.08))
    gate = Gate(Limiter(start=1, most=1), budget)
    dead, alive = await lines(gate, 2)
    await LeasedLimiter(dead).slot().__aenter__()
    await LeasedBudget(dead).reserve(WORST)
    waiting = asyncio.create_task(LeasedLimiter(alive).slot().__aenter__())
    await asyncio.sleep(0.02)
    assert not waiting.done()
    await gate.forget("sampler-0")
    async with asyncio.timeout(5):
        await waiting
    assert budget.spent.usd == pytest.approx(0.04)
    assert gate.in_flight == 1
    await LeasedBudget(alive).reserve(WORST)
    with pytest.raises(BudgetSpentError, match="of which"):
        await LeasedBudget(alive).reserve(times(2, WORST))


async def test_a_throttled_request_closes_the_gate_for_all():
    gate = Gate(Limiter(start=20, most=20), Budget(Limits()))
    one, other = await lines(gate, 2)
    assert one.mood.is_open
    async with LeasedLimiter(one).slot() as slot:
        slot.throttled(0.2)
    await one.close()
    await other.open()
    assert not other.mood.is_open
    await other.close()


async def test_whoever_waits_hears_of_it_when_the_gate_is_gone():
    class Gone:
        async def tell(self, who: str, told: Told) -> Mood:
            raise ConnectionError("no route")

        async def news(self, who: str) -> News:
            raise ConnectionError("no route")

    line = Line(Gone(), "sampler")
    with pytest.raises(RunError, match="cannot be reached: no route"):
        async with asyncio.timeout(5):
            await LeasedLimiter(line).slot().__aenter__()
    line.mood = Mood(is_limited=True)
    with pytest.raises(RunError, match="cannot be reached"):
        async with asyncio.timeout(5):
            await LeasedBudget(line).reserve(WORST)
