"""Laws of budgets: no limit is gone over, whatever calls cost, fail, or run side by side."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import BudgetSpentError, ConfigError
from trimtab.llm.budget import Budget, Limits, worst_case
from trimtab.types import Message, Usage

UNPAID = Usage(usd=0.0)


def a_call(tokens_in: int = 10, tokens_out: int = 10, usd: float | None = 0.5) -> Usage:
    return Usage(tokens_in, tokens_out, 1, usd)


def spend(budget: Budget, *charged: Usage, worst: Usage | None = None) -> None:
    """Calls one after another."""

    async def run() -> None:
        for each in charged:
            budget.settle(await budget.reserve(worst or each), each)

    asyncio.run(run())


# --------------------------------------------------------------------------- 200 random runs


@dataclass(frozen=True)
class Run:
    """Calls with their worst cases and what they turn out to cost, so many of them at once."""

    limits: Limits
    calls: list[tuple[Usage, Usage]]
    concurrency: int
    spent: Usage


def limits() -> st.SearchStrategy[Limits]:
    def maybe(values):
        return st.none() | values

    return st.builds(
        Limits,
        usd=maybe(st.floats(0, 3)),
        tokens=maybe(st.integers(0, 3000)),
        calls=maybe(st.integers(0, 30)),
    )


@st.composite
def usages(draw, most: Usage | None = None) -> Usage:
    top = most or Usage(100, 200, 1, 0.4)
    assert top.usd is not None
    return Usage(
        draw(st.integers(0, top.input_tokens)),
        draw(st.integers(0, top.output_tokens)),
        1,
        draw(st.floats(0, 1)) * top.usd,
    )


@st.composite
def runs(draw, is_honest: bool) -> Run:
    worsts = draw(st.lists(usages(), max_size=40))
    costs = [draw(st.just(UNPAID) | usages(worst if is_honest else None)) for worst in worsts]
    spent = draw(st.just(Usage()) | usages())
    return Run(draw(limits()), list(zip(worsts, costs, strict=True)), draw(st.integers(1, 12)), spent)


def over(usage: Usage, limits: Limits) -> Usage:
    """By how much a usage goes over limits."""
    tokens = usage.input_tokens + usage.output_tokens
    return Usage(
        max(0, tokens - limits.tokens) if limits.tokens is not None else 0,
        0,
        max(0, usage.calls - limits.calls) if limits.calls is not None else 0,
        max(0.0, (usage.usd or 0.0) - limits.usd) if limits.usd is not None else 0.0,
    )


@dataclass
class Made:
    """What a run did."""

    budget: Budget
    paid: list[Usage]
    refused: int = 0
    most_over: float = 0.0  # dollars spent and set aside beyond the limit, at any time


def made(run: Run, *, seed: int = 0, cancels: bool = False) -> Made:
    budget = Budget(run.limits, spent=run.spent)
    done, rng = Made(budget, []), random.Random(seed)

    async def one(worst: Usage, cost: Usage) -> None:
        try:
            hold = await budget.reserve(worst)
        except BudgetSpentError:
            done.refused += 1
            return
        try:
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            cost = worst  # on its way: it may be billed all the same
            raise
        finally:
            budget.settle(hold, cost)
            done.paid.append(cost)
            both = budget.spent + budget.reserved
            done.most_over = max(done.most_over, over(both, run.limits).usd or 0.0)

    async def all_of_them() -> None:
        doors = asyncio.Semaphore(run.concurrency)

        async def through_a_door(worst: Usage, cost: Usage) -> None:
            async with doors:
                await one(worst, cost)

        tasks = [asyncio.ensure_future(through_a_door(*call)) for call in run.calls]
        if cancels:
            for _ in range(rng.randrange(6)):
                await asyncio.sleep(0)
            for task in rng.sample(tasks, len(tasks) // 2):
                task.cancel()
        async with asyncio.timeout(20):  # nobody waits for ever
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(all_of_them())
    return done


@settings(max_examples=100)
@given(run=runs(is_honest=True), seed=st.integers(0, 99), cancels=st.booleans())
def test_calls_that_cost_no_more_than_their_worst_case_never_go_over_a_limit(run, seed, cancels):
    done = made(run, seed=seed, cancels=cancels)
    allowed = over(run.spent, run.limits)  # what had been overspent before this run
    found = over(done.budget.spent, run.limits)
    assert found.input_tokens <= allowed.input_tokens
    assert found.calls <= allowed.calls
    assert (found.usd or 0.0) <= (allowed.usd or 0.0) + 1e-6
    assert done.most_over <= (allowed.usd or 0.0) + 1e-6
    assert done.budget.reserved == Usage()


@settings(max_examples=100)
@given(run=runs(is_honest=False), seed=st.integers(0, 99))
def test_whatever_calls_cost_the_limit_is_gone_over_by_those_in_flight_at_most(run, seed):
    done = made(run, seed=seed)
    found, before = over(done.budget.spent, run.limits), over(run.spent, run.limits)
    # No call is sent once the limit is reached: what is over it was paid by calls in flight together.
    largest = sorted((cost.usd or 0.0 for cost in done.paid), reverse=True)[: run.concurrency]
    assert (found.usd or 0.0) <= (before.usd or 0.0) + sum(largest) + 1e-6
    tokens = sorted((cost.input_tokens + cost.output_tokens for cost in done.paid), reverse=True)
    assert found.input_tokens <= before.input_tokens + sum(tokens[: run.concurrency])


@settings(max_examples=100)
@given(run=runs(is_honest=True), seed=st.integers(0, 99))
def test_what_is_charged_adds_up_to_what_is_spent_and_every_call_is_made_or_refused(run, seed):
    done = made(run, seed=seed)
    total = sum(done.paid, run.spent)
    assert done.budget.spent.calls == total.calls
    assert done.budget.spent.input_tokens == total.input_tokens
    assert (done.budget.spent.usd or 0.0) == pytest.approx(total.usd or 0.0)
    assert len(done.paid) + done.refused == len(run.calls)
    assert (done.budget.is_spent is not None) == (done.refused > 0)


@given(run=runs(is_honest=True))
def test_a_call_is_refused_only_where_it_would_not_fit_beside_what_was_really_spent(run):
    budget, before = Budget(run.limits, spent=run.spent), run.spent

    async def one_by_one() -> None:
        nonlocal before
        for worst, cost in run.calls:
            total = over(before + worst, run.limits)
            fits = not (total.input_tokens or total.calls or (total.usd or 0.0) > 1e-9)
            try:
                budget.settle(await budget.reserve(worst), cost)
                assert fits
                before += cost
            except BudgetSpentError:
                assert not fits

    asyncio.run(one_by_one())


@settings(max_examples=100)
@given(first=runs(is_honest=True), second=runs(is_honest=True))
def test_a_budget_inside_another_keeps_both_limits(first, second):
    key = Budget(Limits(calls=10, tokens=1500), name="the key's limit")
    inner = [Budget(run.limits, outer=key) for run in (first, second)]

    async def one(budget: Budget, worst: Usage, cost: Usage) -> None:
        try:
            hold = await budget.reserve(worst)
        except BudgetSpentError:
            return
        await asyncio.sleep(0)
        budget.settle(hold, cost)

    async def both() -> None:
        pairs = zip(inner, (first, second), strict=True)
        await asyncio.gather(*(one(budget, *call) for budget, run in pairs for call in run.calls))

    asyncio.run(both())
    assert key.spent.calls == sum(budget.spent.calls for budget in inner) <= 10
    assert key.spent.input_tokens + key.spent.output_tokens <= 1500
    assert all(
        over(budget.spent, run.limits).calls == 0 for budget, run in zip(inner, (first, second), strict=True)
    )


# --------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(usd=1.2), r"\$1.2, of which \$1.000000 are spent, and the next call may take \$0.500000"),
        (Limits(tokens=50), "50 tokens, of which 40 are spent, and the next call may take 20"),
        (Limits(calls=2), "2 calls, of which 2 are spent"),
    ],
)
def test_the_refusal_says_which_limit_what_is_spent_and_what_the_call_may_take(limits, reason):
    budget = Budget(limits, name="the limit of this run")
    assert budget.is_spent is None
    with pytest.raises(BudgetSpentError, match=f"budget spent: the limit of this run is {reason}"):
        spend(budget, *[a_call()] * 3)
    assert budget.spent == Usage(20, 20, 2, 1.0)
    assert budget.is_spent is not None
    assert BudgetSpentError.exit_code == 4


@pytest.mark.parametrize("limits", [Limits(usd=0.0), Limits(tokens=0), Limits(calls=0)])
def test_a_limit_of_zero_lets_nothing_be_spent(limits):
    with pytest.raises(BudgetSpentError):
        spend(Budget(limits), a_call())


def test_what_costs_nothing_may_be_called_with_no_dollars():
    budget = Budget(Limits(usd=0.0))
    spend(budget, *[a_call(usd=0.0)] * 3)
    assert budget.spent.calls == 3


def test_a_limit_that_is_just_reached_is_not_gone_over():
    budget = Budget(Limits(usd=0.3, tokens=60, calls=3))
    spend(budget, *[a_call(usd=0.1)] * 3)  # 0.1 + 0.1 + 0.1 is more than 0.3 in floats
    assert budget.is_spent is None


def test_wall_time_counts_from_the_budgets_making():
    now = 100.0
    budget = Budget(Limits(wall_s=5), name="the time of this run", clock=lambda: now)
    spend(budget, a_call())
    now = 105.0
    with pytest.raises(BudgetSpentError, match="the time of this run of 5 s is over"):
        spend(budget, a_call())


def test_what_was_spent_before_counts():
    budget = Budget(Limits(calls=5), spent=Usage(0, 0, 4, 0.0))
    spend(budget, a_call())
    with pytest.raises(BudgetSpentError, match="5 calls, of which 5 are spent"):
        spend(budget, a_call())


def test_unpaid_calls_take_nothing_from_the_budget():
    budget = Budget(Limits(calls=1))
    spend(budget, *[UNPAID] * 5, a_call(), worst=a_call())
    assert budget.spent.calls == 1


def test_who_has_reached_the_keys_limit_is_told_whose_it_is():
    key = Budget(Limits(calls=1), name="the limit of key SOME_KEY")
    run = Budget(Limits(calls=9), outer=key)
    spend(run, a_call())
    with pytest.raises(BudgetSpentError, match="the limit of key SOME_KEY is 1 calls"):
        spend(run, a_call())
    assert run.is_spent == key.is_spent


# --------------------------------------------------------------------------- unknown prices


def test_a_call_of_unknown_price_is_refused_before_it_is_made_where_dollars_are_limited():
    budget = Budget(Limits(usd=5.0))
    with pytest.raises(ConfigError, match="--usd-per-million-in and --usd-per-million-out"):
        spend(budget, a_call(usd=None))
    assert budget.spent == Usage()


def test_a_limit_in_dollars_is_refused_where_earlier_calls_have_no_price():
    with pytest.raises(ConfigError, match="of 7 calls that count towards it some"):
        Budget(Limits(usd=5.0), spent=Usage(10, 10, 7, None))


def test_without_a_limit_in_dollars_prices_need_not_be_known():
    budget = Budget(Limits(calls=2), spent=Usage(1, 1, 1, None))
    spend(budget, a_call(usd=None))
    assert budget.spent.calls == 2


# --------------------------------------------------------------------------- waiting


async def started(budget: Budget, *worsts: Usage) -> list[asyncio.Task]:
    tasks = [asyncio.ensure_future(budget.reserve(worst)) for worst in worsts]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_a_call_waits_while_only_calls_in_flight_stand_in_its_way():
    budget = Budget(Limits(tokens=100))
    hold = await budget.reserve(Usage(0, 80, 1))
    (later,) = await started(budget, Usage(0, 60, 1))
    assert not later.done()
    budget.settle(hold, Usage(0, 10, 1))
    assert (await later).worst == Usage(0, 60, 1)


async def test_a_waiting_call_is_refused_once_the_money_is_really_spent():
    budget = Budget(Limits(tokens=100))
    hold = await budget.reserve(Usage(0, 80, 1))
    (later,) = await started(budget, Usage(0, 60, 1))
    budget.settle(hold, Usage(0, 80, 1))
    with pytest.raises(BudgetSpentError):
        await later


async def test_calls_get_their_turn_in_the_order_they_came_and_none_starves():
    budget = Budget(Limits(tokens=100))
    hold = await budget.reserve(Usage(0, 60, 1))
    large, small = await started(budget, Usage(0, 90, 1), Usage(0, 30, 1))
    assert not large.done()
    assert not small.done()  # though it would fit
    budget.settle(hold, Usage(0, 0, 1))
    budget.settle(await large, Usage(0, 0, 1))
    await small


async def test_who_is_cancelled_while_waiting_holds_nothing_and_lets_others_pass():
    budget = Budget(Limits(tokens=100))
    hold = await budget.reserve(Usage(0, 60, 1))
    large, small = await started(budget, Usage(0, 90, 1), Usage(0, 30, 1))
    large.cancel()
    await asyncio.wait([large])
    await small
    budget.settle(hold, Usage(0, 60, 1))
    assert budget.reserved == Usage(0, 30, 1)


async def test_who_is_cancelled_in_the_moment_of_its_turn_gives_it_back():
    budget = Budget(Limits(tokens=100))
    hold = await budget.reserve(Usage(0, 100, 1))
    (later,) = await started(budget, Usage(0, 100, 1))
    budget.settle(hold, Usage(0, 0, 1))
    later.cancel()
    await asyncio.wait([later])
    assert later.cancelled()
    assert budget.reserved == Usage()
    assert budget.spent.calls == 1


def test_a_budget_can_be_used_in_one_event_loop_after_another():
    budget = Budget(Limits(tokens=100))

    async def left_behind() -> None:
        await budget.reserve(Usage(0, 60, 1))
        waiting = asyncio.ensure_future(budget.reserve(Usage(0, 60, 1)))
        await asyncio.sleep(0)
        assert not waiting.done()

    asyncio.run(left_behind())  # its hold is never settled: what was on its way may be billed

    async def next_one() -> None:
        budget.settle(await budget.reserve(Usage(0, 40, 1)), Usage(0, 40, 1))

    asyncio.run(next_one())
    assert budget.spent.output_tokens == 40


# --------------------------------------------------------------------------- the worst case of a request


@given(texts=st.lists(st.text(max_size=60), min_size=1, max_size=4), n=st.integers(1, 8))
def test_the_worst_case_counts_every_byte_as_a_token_and_every_answer_at_its_longest(texts, n):
    worst = worst_case([Message("user", text) for text in texts], n, 50)
    assert worst.input_tokens >= sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    assert worst.output_tokens == n * 50
    assert worst.calls == 1
    assert worst.usd is None


def test_half_a_surrogate_pair_has_a_worst_case_too():
    assert worst_case([Message("user", "\ud800")], 1, 1).input_tokens >= 3
