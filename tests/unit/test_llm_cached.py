"""Laws of Cached: a draw is paid for once, and is in the store with its cost before anyone sees it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import EndpointError, RefusedError, RunError
from trimtab.llm.cached import Cached, request_key
from trimtab.llm.grouped import Grouped
from trimtab.store import Store
from trimtab.types import (
    LLM,
    Call,
    Completion,
    Completions,
    Draws,
    Message,
    Outcome,
    Prompt,
    Purpose,
    Reply,
    Sampling,
    Usage,
)

serial = count()


def prompt(text: str = "How many?", question_id: str | None = "q") -> Prompt:
    return Prompt((Message("user", text),), question_id)


def ask(llm: LLM, sampling: Sampling | None = None, asked: Prompt | None = None) -> Completions:
    return asyncio.run(llm.complete(asked or prompt(), sampling or Sampling()))


def texts(completions: Completions) -> list[str]:
    return [completion.text for completion in completions.completions]


def line(n: int = 1, outcome: Outcome = Outcome.PAID) -> Call:
    usage = Usage(1, n, 0 if outcome is Outcome.UNPAID else 1, 0.5)
    return Call(f"c{next(serial)}", Purpose.SAMPLING, "box", "e", "KEY", outcome, usage, 0.1, 0.0, n=n)


class Box:
    """Says which draw of which request each completion is; counts; answers after a moment."""

    name = "box"

    def __init__(self, at_once: int = 1000, pause_s: float = 0.0) -> None:
        self.at_once, self.pause_s = at_once, pause_s
        self.asked: list[tuple[int, int]] = []  # start, n
        self.now = self.most_at_once = 0
        self.failures: dict[int, Exception] = {}  # by start

    async def complete(self, asked: Prompt, sampling: Sampling) -> Completions:
        self.asked.append((sampling.start, sampling.n))
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        await asyncio.sleep(self.pause_s)
        self.now -= 1
        if sampling.start in self.failures:
            raise self.failures.pop(sampling.start)
        numbers = range(sampling.start, sampling.start + min(sampling.n, self.at_once))
        call = line(len(numbers))
        drawn = tuple(Completion(f"{sampling.seed} {number}") for number in numbers)
        return Completions(drawn, call.usage, "box-2026", (call,))


class MemoryStore:
    """A sample store in dicts, which counts, and is as slow and as full as told."""

    def __init__(self) -> None:
        self.drawn: dict[tuple[str, int], Completion] = {}
        self.calls: dict[str, Call] = {}
        self.transactions: list[str] = []
        self.threads: set[str] = set()
        self.pause_s = 0.0
        self.is_full = False

    def kept(self, wanted: Sequence[Draws]) -> list[dict[int, Completion]]:
        self.transactions.append(f"read {len(wanted)}")
        self.threads.add(threading.current_thread().name)
        time.sleep(self.pause_s)
        return [
            {at: self.drawn[d.key, at] for at in range(d.start, d.start + d.n) if (d.key, at) in self.drawn}
            for d in wanted
        ]

    def keep(self, replies: Sequence[Reply]) -> None:
        self.transactions.append(f"write {len(replies)}")
        self.threads.add(threading.current_thread().name)
        time.sleep(self.pause_s)
        if self.is_full:
            raise RunError("the store cannot be written: disk full")
        for reply in replies:
            for number, completion in enumerate(reply.completions, reply.start):
                self.drawn.setdefault((reply.key, number), completion)
            for call in reply.calls:
                self.calls.setdefault(call.id, call)

    @property
    def usage(self) -> Usage:
        return sum((call.usage for call in self.calls.values()), Usage())


# ------------------------------------------------------------------------------------ paid once


def test_a_draw_and_its_cost_are_in_the_store_before_they_are_returned():
    store = MemoryStore()
    reply = ask(Cached(Box(), store), Sampling(n=2, seed=1))
    assert list(store.drawn.values()) == list(reply.completions)
    assert tuple(store.calls.values()) == reply.calls
    assert reply.model == "box-2026"


def test_asking_for_eight_after_five_buys_three():
    box, store = Box(), MemoryStore()
    first = ask(Cached(box, store), Sampling(n=5, seed=1))
    second = ask(Cached(box, store), Sampling(n=8, seed=1))
    assert box.asked == [(0, 5), (5, 3)]
    assert texts(second) == [f"1 {at}" for at in range(8)]
    assert [reply.usage.output_tokens for reply in (first, second)] == [5, 3]


def test_a_replay_costs_nothing_so_that_sums_count_each_payment_once():
    box, store = Box(), MemoryStore()
    first, again = (ask(Cached(box, store), Sampling(n=3)) for _ in range(2))
    assert (again.completions, again.usage, again.calls) == (first.completions, Usage(), ())
    assert first.usage + again.usage == first.usage == store.usage
    assert len(box.asked) == 1


windows = st.tuples(st.integers(0, 12), st.integers(1, 6))


@given(st.lists(windows, min_size=1, max_size=8), st.booleans(), st.integers(1, 7))
def test_overlapping_requests_get_their_draws_and_each_draw_is_bought_once(asked, at_once, most):
    box, store = Box(at_once=most), MemoryStore()
    llm = Cached(box, store)

    async def one(start: int, n: int) -> Completions:
        replies = []
        while n > 0:  # a model may give fewer than asked for
            replies.append(await llm.complete(prompt(), Sampling(n=n, start=start, seed=3)))
            given = len(replies[-1].completions)
            assert texts(replies[-1]) == [f"3 {at}" for at in range(start, start + given)]
            assert given > 0
            start, n = start + given, n - given
        return replies

    async def all_of_them() -> list[list[Completions]]:
        if at_once:
            return await asyncio.gather(*(one(*window) for window in asked))
        return [await one(*window) for window in asked]

    replies = [reply for each in asyncio.run(all_of_them()) for reply in each]
    wanted = {number for start, n in asked for number in range(start, start + n)}
    assert {number for _, number in store.drawn} == wanted
    assert sum(reply.usage.output_tokens for reply in replies) == len(wanted) == store.usage.output_tokens


def test_a_gap_is_bought_in_runs_and_the_draws_around_it_are_not():
    box, store = Box(), MemoryStore()
    ask(Cached(box, store), Sampling(n=1, start=2))
    ask(Cached(box, store), Sampling(n=2, start=5))
    box.asked.clear()
    reply = ask(Cached(box, store), Sampling(n=9))
    assert sorted(box.asked) == [(0, 2), (3, 2), (7, 2)]
    assert texts(reply) == [f"None {at}" for at in range(9)]
    assert reply.usage.calls == len(reply.calls) == 3


def test_what_comes_short_is_returned_up_to_the_first_gap_and_all_of_it_is_kept():
    box, store = Box(at_once=1), MemoryStore()
    ask(Cached(Box(), store), Sampling(n=1, start=3))
    reply = ask(Cached(box, store), Sampling(n=6))
    assert texts(reply) == ["None 0"]
    assert sorted(number for _, number in store.drawn) == [0, 3, 4]


def test_who_waits_for_a_draw_that_another_did_not_get_asks_for_it():
    box, store = Box(at_once=1, pause_s=0.01), MemoryStore()
    llm = Cached(box, store)

    async def both() -> list[Completions]:
        asking = (llm.complete(prompt(), Sampling(n=n, start=start)) for start, n in ((0, 4), (2, 2)))
        return await asyncio.gather(*asking)

    assert [texts(reply) for reply in asyncio.run(both())] == [["None 0"], ["None 2"]]
    assert sorted(number for _, number in store.drawn) == [0, 2]


def test_more_than_was_asked_for_is_not_taken_for_draws_of_other_numbers():
    class Generous(Box):
        async def complete(self, asked: Prompt, sampling: Sampling) -> Completions:
            return await super().complete(asked, replace(sampling, n=sampling.n + 2))

    store = MemoryStore()
    assert texts(ask(Cached(Generous(), store), Sampling(n=2))) == ["None 0", "None 1"]
    assert len(store.drawn) == 2


def test_a_model_without_a_ledger_gets_its_usage_into_ours():
    class Plain:
        name = "plain"

        def __init__(self, usage: Usage) -> None:
            self.usage = usage

        async def complete(self, asked: Prompt, sampling: Sampling) -> Completions:
            return Completions((Completion("hi"),), self.usage, "plain")

    store = MemoryStore()
    judged = replace(prompt(), purpose=Purpose.JUDGING)
    ask(Cached(Plain(Usage(3, 4, 1, 0.5)), store, scope="here"), asked=judged)
    (call,) = store.calls.values()
    assert (call.usage, call.purpose, call.endpoint) == (Usage(3, 4, 1, 0.5), Purpose.JUDGING, "here")
    ask(Cached(Plain(Usage()), store), Sampling(seed=1))
    assert len(store.calls) == 1


def test_bypassed_draws_are_bought_anew_and_paid_for_while_the_first_ones_stay_in_the_store():
    box, store = Box(), MemoryStore()
    ask(Cached(box, store), Sampling(n=1))
    kept = dict(store.drawn)
    store.drawn = {place: Completion("the first") for place in kept}
    reply = ask(Cached(box, store, bypass=True), Sampling(n=2))
    assert texts(reply) == ["None 0", "None 1"]
    assert [completion.text for completion in store.drawn.values()] == ["the first", "None 1"]
    assert store.usage.calls == 2
    assert not [each for each in store.transactions[2:] if each.startswith("read")]


# ------------------------------------------------------------------------------------ keys


@pytest.mark.parametrize(
    ("asked", "sampling"),
    [
        (prompt("How much?"), Sampling()),
        (Prompt((Message("system", "How many?"),), "q"), Sampling()),
        (prompt(), Sampling(seed=1)),
        (prompt(), Sampling(seed=0)),
        (prompt(), Sampling(temperature=None)),
        (prompt(), Sampling(max_tokens=1)),
        (prompt(), Sampling(stop=("\n",))),
    ],
)
def test_another_request_has_another_key(asked, sampling):
    assert request_key("m", asked, sampling) != request_key("m", prompt(), Sampling())


def test_another_model_or_endpoint_has_another_key():
    keys = {request_key(*named) for named in (("m", prompt(), Sampling()), ("n", prompt(), Sampling()))}
    assert len({*keys, request_key("m", prompt(), Sampling(), "elsewhere")}) == 3


@pytest.mark.parametrize(
    ("asked", "sampling"),
    [
        (prompt(question_id="other"), Sampling()),
        (replace(prompt(), purpose=Purpose.JUDGING), Sampling()),
        (prompt(), Sampling(n=7)),
        (prompt(), Sampling(start=3)),
    ],
)
def test_what_is_never_sent_and_which_draws_are_meant_are_no_part_of_the_key(asked, sampling):
    assert request_key("m", asked, sampling) == request_key("m", prompt(), Sampling())


# ------------------------------------------------------------------------------------ at once


def test_the_same_request_at_the_same_time_is_sent_once():
    box, store = Box(pause_s=0.01), MemoryStore()
    llm = Cached(box, store)

    async def all_at_once() -> list[Completions]:
        return await asyncio.gather(*(llm.complete(prompt(), Sampling()) for _ in range(5)))

    replies = asyncio.run(all_at_once())
    assert [texts(reply) for reply in replies] == [["None 0"]] * 5
    assert sum(reply.usage.calls for reply in replies) == len(box.asked) == 1


def test_different_requests_at_the_same_time_do_not_wait_for_each_other():
    box = Box(pause_s=0.01)
    llm = Cached(box, MemoryStore())

    async def all_at_once() -> None:
        await asyncio.gather(*(llm.complete(prompt(), Sampling(seed=seed)) for seed in range(20)))

    asyncio.run(all_at_once())
    assert box.most_at_once == 20


def test_what_comes_while_a_transaction_runs_goes_into_the_next_one():
    store = MemoryStore()
    store.pause_s = 0.02
    llm = Cached(Box(), store)

    async def all_at_once() -> None:
        await asyncio.gather(*(llm.complete(prompt(), Sampling(seed=seed)) for seed in range(100)))

    asyncio.run(all_at_once())
    assert len(store.calls) == len(store.drawn) == 100
    assert len(store.transactions) < 20


def test_a_slow_store_never_holds_up_the_event_loop():
    store = MemoryStore()
    store.pause_s = 0.2
    llm = Cached(Box(), store)

    async def longest_pause_beside_a_request() -> float:
        asking = asyncio.create_task(llm.complete(prompt(), Sampling()))
        longest, last = 0.0, time.monotonic()
        while not asking.done():
            await asyncio.sleep(0.001)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        return longest

    assert asyncio.run(longest_pause_beside_a_request()) < 0.15
    assert threading.current_thread().name not in store.threads


def test_a_cached_model_serves_one_event_loop_after_another():
    box, store = Box(), MemoryStore()
    llm = Cached(box, store)
    assert [texts(ask(llm, Sampling(n=n))) for n in (1, 2, 2)] == [["None 0"], *[["None 0", "None 1"]] * 2]
    assert box.asked == [(0, 1), (1, 1)]


def test_event_loops_in_several_threads_lose_nothing():
    store = MemoryStore()
    llm = Cached(Box(), store)

    def run(own: int) -> None:
        async def several() -> None:
            await asyncio.gather(*(llm.complete(prompt(), Sampling(seed=own * 50 + at)) for at in range(50)))

        asyncio.run(several())

    threads = [threading.Thread(target=run, args=(own,)) for own in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.drawn) == len(store.calls) == 200


# ------------------------------------------------------------------------------------ failures


def test_a_failure_reaches_all_who_wait_is_not_kept_and_can_be_tried_again():
    box, store = Box(pause_s=0.01), MemoryStore()
    box.failures[0] = EndpointError("down")
    llm = Cached(box, store)

    async def both() -> list[object]:
        asking = (llm.complete(prompt(), Sampling()) for _ in range(2))
        return await asyncio.gather(*asking, return_exceptions=True)

    assert [str(error) for error in asyncio.run(both())] == ["down", "down"]
    assert store.drawn == {}
    assert texts(ask(llm)) == ["None 0"]


def test_the_calls_of_a_failed_request_are_in_the_ledger():
    error = EndpointError("down")
    error.calls = (line(outcome=Outcome.UNCERTAIN), line(outcome=Outcome.UNPAID))
    box, store = Box(), MemoryStore()
    box.failures[0] = error
    with pytest.raises(EndpointError) as caught:
        ask(Cached(box, store))
    assert caught.value is error
    assert tuple(store.calls.values()) == error.calls


def test_where_one_part_fails_what_the_others_gave_is_kept():
    box, store = Box(), MemoryStore()
    ask(Cached(box, store), Sampling(n=1, start=2))
    box.failures[0] = EndpointError("down")
    with pytest.raises(EndpointError, match="down"):
        ask(Cached(box, store), Sampling(n=5))
    assert sorted(number for _, number in store.drawn) == [2, 3, 4]


def test_what_cannot_be_kept_is_not_returned():
    box, store = Box(), MemoryStore()
    store.is_full = True
    llm = Cached(box, store)

    async def several() -> list[object]:
        asking = (llm.complete(prompt(), Sampling(seed=seed)) for seed in range(5))
        return await asyncio.gather(*asking, return_exceptions=True)

    errors = asyncio.run(several())
    assert {type(error) for error in errors} == {RunError}
    store.is_full = False
    assert texts(ask(llm)) == ["None 0"]


# ------------------------------------------------------------------------------------ going away


def test_a_call_whose_caller_went_away_is_still_kept():
    box, store = Box(pause_s=0.01), MemoryStore()
    llm = Cached(box, store)

    async def abandoned() -> Completions:
        caller = asyncio.create_task(llm.complete(prompt(), Sampling()))
        await asyncio.sleep(0.005)
        caller.cancel()
        return await llm.complete(prompt(), Sampling())

    assert texts(asyncio.run(abandoned())) == ["None 0"]
    assert len(store.calls) == len(box.asked) == 1


def test_every_call_that_was_started_is_kept_though_its_run_was_cancelled():
    class Refusing(Box):
        async def complete(self, asked: Prompt, sampling: Sampling) -> Completions:
            if sampling.seed == 0:
                raise RefusedError("no", status=400)
            return await super().complete(asked, sampling)

    store = MemoryStore()
    store.pause_s = 0.01
    llm = Cached(Refusing(pause_s=0.03), store)

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            for seed in range(10):
                group.create_task(llm.complete(prompt(), Sampling(seed=seed)))

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(run())
    assert {type(error) for error in caught.value.exceptions} == {RefusedError}
    assert len(store.drawn) == 9


def test_a_cancelled_caller_who_waits_for_anothers_call_leaves_when_it_is_kept():
    store = MemoryStore()
    llm = Cached(Box(pause_s=0.01), store)

    async def run() -> int:
        starter, waiter = (asyncio.create_task(llm.complete(prompt(), Sampling())) for _ in range(2))
        await asyncio.sleep(0.001)
        waiter.cancel()
        await asyncio.wait([waiter])
        kept_by_then = len(store.drawn)
        await starter
        return kept_by_then

    assert asyncio.run(run()) == 1


def test_a_caller_cancelled_twice_goes_at_once():
    llm = Cached(Box(pause_s=60), MemoryStore())

    async def run() -> bool:
        caller = asyncio.create_task(llm.complete(prompt(), Sampling()))
        for _ in range(2):
            await asyncio.sleep(0.02)
            caller.cancel()
        await asyncio.wait([caller], timeout=1)
        return caller.cancelled()

    assert asyncio.run(run())


def test_a_reply_that_has_arrived_is_kept_though_its_event_loop_ends():
    store = MemoryStore()
    store.pause_s = 0.1

    async def ends_while_writing() -> None:
        caller = asyncio.create_task(Cached(Box(), store).complete(prompt(), Sampling()))
        while "write 1" not in store.transactions:
            await asyncio.sleep(0.005)
        assert not caller.done()

    asyncio.run(ends_while_writing())
    assert len(store.drawn) == len(store.calls) == 1


def test_a_group_is_carried_out_for_the_others_when_one_of_them_goes_away():
    def doubled(numbers: Sequence[int]) -> list[int]:
        time.sleep(0.05)
        return [2 * number for number in numbers]

    grouped: Grouped[int, int] = Grouped(doubled, ThreadPoolExecutor(1))

    async def run() -> tuple[bool, list[int]]:
        waiting = [asyncio.create_task(grouped(at)) for at in range(3)]
        await asyncio.sleep(0)
        waiting[1].cancel()
        return await asyncio.gather(waiting[0], waiting[2]), waiting[1].cancelled()

    results, _ = asyncio.run(run())
    assert results == [0, 4]


# ------------------------------------------------------------------------------------ the real store


@pytest.fixture(scope="module")
def real_store() -> Iterator[Store]:
    with Store.in_memory() as opened:
        yield opened


@given(st.lists(windows, min_size=1, max_size=5))
def test_with_the_real_store_a_run_has_paid_for_every_draw_once(real_store, asked):
    run_id = f"run {next(serial)}"
    llm = Cached(Box(), real_store.samples_of(run_id), scope=run_id)

    async def all_at_once() -> list[Completions]:
        requests = (Sampling(n=n, start=start, seed=9) for start, n in asked)
        return await asyncio.gather(*(llm.complete(prompt(), each) for each in requests))

    replies = asyncio.run(all_at_once())
    wanted = {number for start, n in asked for number in range(start, start + n)}
    assert sum((reply.usage for reply in replies), Usage()) == real_store.usage_of(run_id)
    assert real_store.usage_of(run_id).output_tokens == len(wanted)
    again = asyncio.run(all_at_once())
    assert [reply.completions for reply in again] == [reply.completions for reply in replies]
    assert sum((reply.usage for reply in again), Usage()) == Usage()
