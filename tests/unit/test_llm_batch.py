"""Laws of buying draws in batches: nothing is lost or bought twice, wherever a run dies."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import BudgetSpentError, ConfigError, EndpointError, LLMError, RefusedError
from trimtab.llm.batch import OPEN, Batch, BatchDraws, State, alone
from trimtab.llm.batch_api import Remote, Result
from trimtab.llm.budget import Budget, Limits
from trimtab.llm.cached import Cached
from trimtab.llm.capabilities import Capabilities, Learned
from trimtab.types import (
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

SAMPLING = Sampling(n=3, seed=5)


def prompt(number: int) -> Prompt:
    return Prompt((Message("user", f"question {number}"),), f"q{number}")


def asked(questions: int, n: int = 3) -> list[tuple[Prompt, Sampling]]:
    return [(prompt(number), replace(SAMPLING, n=n)) for number in range(questions)]


# --------------------------------------------------------------------------- a provider, a cache, a book


class Killed(BaseException):
    """The process is gone: nothing catches this."""


class Fate:
    """Kills at a step, counted over all that is done to the outside: before it, or after it is done."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.dies_at = dies_at
        self.steps = 0

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.dies_at:
            raise Killed


class Provider:
    """Files and batches in memory; a batch is worked on when looked at. `fate` belongs to its client."""

    def __init__(self) -> None:
        self.fate = Fate()
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, tuple[str, str]] = {}  # name and file
        self.results_of: dict[str, list[Result]] = {}
        self.executed: Counter[tuple[str, int]] = Counter()  # draws, by question and number
        self.fails: set[str] = set()  # questions
        self.loses: set[str] = set()
        self.errors: list[LLMError] = []  # what the next creates raise, after they took the batch in
        self.takes_in = True  # although it raises
        self.ends_as = "completed"
        self.does = 10**6  # requests of a batch, before it ends
        self.looks: list[int] = []

    async def close(self) -> None:
        return

    async def upload(self, filename: str, content: bytes) -> str:
        self.fate.step()
        self.files[f"file of {filename}"] = content
        self.fate.step()
        return f"file of {filename}"

    async def delete(self, file_id: str) -> None:
        self.fate.step()
        self.files.pop(file_id, None)

    async def create(self, file_id: str, name: str) -> Remote:
        self.fate.step()
        error = self.errors.pop(0) if self.errors else None
        if error is None or self.takes_in:
            self.batches[f"batch {len(self.batches)}"] = (name, file_id)
        self.fate.step()
        if error is not None:
            raise error
        return self.remote(list(self.batches)[-1])

    async def find(self, name: str, file_id: str, since: float) -> Remote | None:
        self.fate.step()
        return next((self.remote(key) for key, known in self.batches.items() if name in known), None)

    async def look(self, batch_id: str) -> Remote:
        self.fate.step()
        if batch_id not in self.results_of:
            self.results_of[batch_id] = list(self.work(self.files[self.batches[batch_id][1]]))
        return self.remote(batch_id, self.ends_as)

    async def results(self, remote: Remote) -> list[Result]:
        self.fate.step()
        return self.results_of[remote.id]

    def remote(self, batch_id: str, state: str = "in_progress") -> Remote:
        return Remote(batch_id, state, len(self.results_of.get(batch_id, ())), (), 1000.0, 1060.0)

    def work(self, content: bytes) -> Iterator[Result]:
        for line in content.splitlines()[: self.does]:
            request = json.loads(line)
            name, body = request["custom_id"], request["body"]
            if body["question"] in self.fails:
                yield Result(name, 400, None, None, "the content was refused")
            else:
                for number in range(body["start"], body["start"] + body["n"]):
                    self.executed[body["question"], number] += 1
                if body["question"] not in self.loses:
                    yield Result(name, 200, f"req-{name}", body)


TAKES_BATCHES = Capabilities(n=True, batch=True)


class TwoAtOnce(Learned):
    """What is known of a model that gives two completions at once."""

    @property
    def most_at_once(self) -> int:
        return 2


class Box:
    """A chat model whose completions are written as its question and the number of the draw."""

    name, endpoint, payer = "m", "http://peer/v1", "KEY"

    def __init__(self, capabilities: Learned | None = None) -> None:
        self.capabilities = capabilities or TwoAtOnce("m", TAKES_BATCHES)

    def body(self, prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
        return {"question": prompt.messages[-1].content, "n": sampling.n, "start": sampling.start}

    def read(self, body: Mapping[str, Any], sampling: Sampling) -> Completions:
        numbers = range(body["start"], body["start"] + body["n"])
        texts = tuple(Completion(f"{body['question']}/{number}") for number in numbers)
        return Completions(texts, Usage(10, 5 * body["n"], 1), "m-2024")

    def worst(self, prompt: Prompt, sampling: Sampling) -> Usage:
        return Usage(20, 10 * sampling.n, 1)


class Samples:
    """A cache in memory; a call of an id that is there stays as it is."""

    def __init__(self) -> None:
        self.fate = Fate()
        self.drawn: dict[tuple[str, int], Completion] = {}
        self.calls: dict[str, Any] = {}

    def kept(self, wanted: Sequence[Draws]) -> list[dict[int, Completion]]:
        return [
            {
                at: self.drawn[each.key, at]
                for at in range(each.start, each.start + each.n)
                if (each.key, at) in self.drawn
            }
            for each in wanted
        ]

    def keep(self, replies: Sequence[Reply]) -> None:
        self.fate.step()
        for reply in replies:
            for at, completion in enumerate(reply.completions):
                self.drawn.setdefault((reply.key, reply.start + at), completion)
            for call in reply.calls:
                self.calls.setdefault(call.id, call)
        self.fate.step()


class Book:
    """Where batches are noted, in memory."""

    def __init__(self) -> None:
        self.fate = Fate()
        self.rows: dict[str, Batch] = {}

    def put(self, batch: Batch) -> None:
        self.fate.step()
        self.rows[batch.id] = batch
        self.fate.step()

    def note(self, batch_id: str, state: State, remote_id: str) -> None:
        self.fate.step()
        self.rows[batch_id] = replace(self.rows[batch_id], state=state, remote_id=remote_id)
        self.fate.step()

    def open(self) -> Sequence[Batch]:
        return [batch for batch in self.rows.values() if batch.state in OPEN]


class World:
    """A provider, a cache and a book that outlive the processes that use them."""

    def __init__(self) -> None:
        self.provider, self.samples, self.book = Provider(), Samples(), Book()

    def run(
        self, requests: Sequence[tuple[Prompt, Sampling]], dies_at: int | None = None, **more: Any
    ) -> Any:
        fate = Fate(dies_at)
        self.provider.fate = self.samples.fate = self.book.fate = fate
        usual: dict[str, Any] = {"poll_s": 0.0, "settle_s": 0.0, "most_requests": 4}
        box = more.pop("box", Box())
        draws = BatchDraws(box, self.provider, self.samples, self.book, **{**usual, **more})
        try:
            return asyncio.run(draws.prepaid(requests))
        finally:
            self.steps = fate.steps

    def texts(self) -> set[str]:
        return {completion.text for completion in self.samples.drawn.values()}


def all_texts(questions: int, n: int) -> set[str]:
    return {f"question {number}/{draw}" for number in range(questions) for draw in range(n)}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr("trimtab.llm.batch.BACKOFF_S", 0.0)


# --------------------------------------------------------------------------- a whole purchase


def test_every_draw_is_bought_once_and_stands_in_the_cache_where_a_run_looks_for_it():
    world = World()
    bought = world.run(asked(5), scope="here")
    assert (bought.asked, bought.kept, bought.bought, dict(bought.failed)) == (15, 0, 15, {})
    assert world.texts() == all_texts(5, 3)
    assert set(world.provider.executed.values()) == {1}

    class Nobody:
        name = "m"

        async def complete(self, prompt, sampling):
            raise AssertionError("a draw was asked for although it is kept")

    async def read_back() -> list[str]:
        cached = Cached(Nobody(), world.samples, scope="here")
        replies = [await cached.complete(*request) for request in asked(5)]
        return [completion.text for reply in replies for completion in reply.completions]

    assert set(asyncio.run(read_back())) == all_texts(5, 3)


def test_what_is_kept_is_not_bought_again_and_gaps_are_filled():
    world = World()
    world.run([(prompt(0), Sampling(n=2, seed=5, start=3))])
    again = world.run([(prompt(0), Sampling(n=8, seed=5))])
    assert (again.asked, again.kept, again.bought) == (8, 2, 6)
    assert world.texts() == all_texts(1, 8)
    assert set(world.provider.executed.values()) == {1}


@given(questions=st.integers(0, 9), n=st.integers(1, 5), most=st.integers(1, 7), size=st.integers(1, 900))
def test_no_batch_is_larger_than_the_provider_takes_and_together_they_hold_everything(
    questions, n, most, size
):
    world = World()
    world.run(asked(questions, n), most_requests=most, most_bytes=size)
    for content in world.provider.files.values():
        lines = content.splitlines()
        assert len(lines) <= most
        assert len(content) <= size or len(lines) == 1
    assert world.texts() == all_texts(questions, n)
    assert set(world.provider.executed.values()) <= {1}


def test_requests_that_differ_in_their_draws_alone_are_bought_as_one():
    world = World()
    bought = world.run([(prompt(0), Sampling(n=2, seed=5)), (prompt(0), Sampling(n=4, seed=5))])
    assert bought.asked == bought.bought == 4


def test_nothing_is_submitted_when_nothing_is_missing():
    world = World()
    world.run(asked(2))
    world.run(asked(2))
    assert len(world.provider.batches) == 1


def test_stop_sequences_are_refused_before_anything_is_bought():
    world = World()
    with pytest.raises(ValueError, match="complete answers"):
        world.run([(prompt(0), Sampling(stop=("\n",)))])
    assert world.provider.files == {}


def test_progress_is_told_in_requests_until_all_are_done():
    told: list[tuple[int, int]] = []
    World().run(asked(5), report=lambda done, total: told.append((done, total)))
    assert told[-1] == (10, 10)  # three draws are two requests of at most two


# --------------------------------------------------------------------------- what fails


def test_a_request_that_fails_is_counted_with_its_reason_and_costs_nothing():
    world = World()
    world.provider.fails = {"question 1"}
    bought = world.run(asked(3))
    assert dict(bought.failed) == {"the content was refused": 2}
    assert (bought.bought, bought.usage.calls) == (6, 4)
    failed = [call for call in world.samples.calls.values() if call.error]
    assert {(call.outcome, call.status, call.usage) for call in failed} == {
        (Outcome.UNPAID, 400, Usage(usd=0.0))
    }


@pytest.mark.parametrize("ends_as", ["expired", "cancelled"])
def test_a_batch_that_ends_early_leaves_what_was_done_and_the_next_buys_the_rest(ends_as):
    world = World()
    world.provider.ends_as, world.provider.does = ends_as, 3
    first = world.run(asked(4), most_requests=100)
    assert first.bought == 5  # of questions 0 and 1, two requests and one
    assert sum(first.failed.values()) == 5
    world.provider.ends_as, world.provider.does = "completed", 100
    world.run(asked(4))
    assert world.texts() == all_texts(4, 3)
    assert set(world.provider.executed.values()) == {1}


def test_a_result_that_never_comes_is_counted_as_maybe_billed_at_its_worst():
    world = World()
    world.provider.loses = {"question 1"}
    bought = world.run(asked(2))
    uncertain = [call for call in world.samples.calls.values() if call.outcome is Outcome.UNCERTAIN]
    assert [call.usage for call in uncertain] == [Usage(20, 20, 1), Usage(20, 10, 1)]
    assert bought.usage == Usage(10 + 10 + 20 + 20, 10 + 5 + 20 + 10, 4)


def test_a_batch_that_is_refused_as_a_whole_is_an_error_that_costs_nothing():
    world = World()
    world.provider.ends_as, world.provider.does = "failed", 0
    with pytest.raises(RefusedError, match="Nothing of it was asked or billed"):
        world.run(asked(1))
    assert world.book.open() == []
    assert sum((call.usage for call in world.samples.calls.values()), Usage()) == Usage(usd=0.0)


def test_what_is_refused_for_a_parameter_is_bought_again_without_it():
    class Learning(TwoAtOnce):
        def refused(self, words, sent, parameter=None) -> bool:
            assert (words, sent["n"]) == ("the content was refused", 2)
            world.provider.fails = set()
            return True

    world = World()
    world.provider.fails = {"question 0", "question 1"}
    bought = world.run(asked(3), box=Box(Learning("m", TAKES_BATCHES)))
    assert (bought.asked, bought.kept, bought.bought, dict(bought.failed)) == (9, 0, 9, {})
    assert set(world.provider.executed.values()) == {1}


def test_a_refusal_that_teaches_over_and_over_ends():
    class Stubborn(TwoAtOnce):
        def refused(self, words, sent, parameter=None) -> bool:
            return True

    world = World()
    world.provider.fails = {"question 0"}
    bought = world.run(asked(1), box=Box(Stubborn("m", TAKES_BATCHES)))
    assert len(world.provider.batches) == 5
    assert dict(bought.failed) == {"the content was refused": 2}


def test_a_model_without_a_known_batch_api_is_refused_before_anything_is_bought():
    with pytest.raises(ConfigError, match="capabilities batch=yes"):
        World().run(asked(1), box=Box(Learned("m", Capabilities())))


def test_every_request_has_its_line_in_the_ledger_and_its_word_with_the_observers():
    heard = []

    class Ear:
        def ended(self, call, prompt, completions, sampling=None):
            heard.append((call, prompt.question_id, len(completions.completions), sampling.n))

    world = World()
    world.run(asked(2), watch=[Ear()])
    assert [call for call, *_ in heard] == list(world.samples.calls.values())
    assert [tuple(rest) for _, *rest in heard] == [("q0", 2, 2), ("q0", 1, 1), ("q1", 2, 2), ("q1", 1, 1)]
    call = heard[0][0]
    assert (call.purpose, call.model, call.endpoint, call.payer) == (
        Purpose.SAMPLING,
        "m",
        "http://peer/v1",
        "KEY",
    )
    assert (call.outcome, call.is_batch, call.n, call.status) == (Outcome.PAID, True, 2, 200)
    assert (call.started_at, call.seconds, call.usage) == (1000.0, 60.0, Usage(10, 10, 1))


# --------------------------------------------------------------------------- where a run dies


def steps_of_an_unbroken_run() -> int:
    world = World()
    world.run(asked(5))
    return world.steps


@pytest.mark.parametrize("step", range(1, steps_of_an_unbroken_run() + 1))
def test_a_run_killed_at_any_step_loses_nothing_and_buys_nothing_twice(step):
    world = World()
    with pytest.raises(Killed):
        world.run(asked(5), dies_at=step)
    world.run(asked(5))
    assert world.texts() == all_texts(5, 3)
    assert set(world.provider.executed.values()) == {1}
    assert world.book.open() == []
    spent = sum((call.usage for call in world.samples.calls.values()), Usage())
    assert spent == Usage(10 * 10, 5 * 15, 10)


@given(deaths=st.lists(st.integers(1, 40), max_size=6))
def test_however_often_a_run_is_killed_each_draw_is_executed_once(deaths):
    world = World()
    for step in deaths:
        with suppress(Killed):
            world.run(asked(5), dies_at=step)
    world.run(asked(5))
    assert world.texts() == all_texts(5, 3)
    assert set(world.provider.executed.values()) == {1}


def test_a_submission_still_on_its_way_when_its_sender_died_comes_to_nothing():
    world = World()
    with suppress(Killed):
        world.run(asked(1), dies_at=7)  # uploaded and noted, and about to be created
    (batch,) = world.book.open()
    assert batch.state is State.UPLOADED
    world.run(asked(1))
    assert batch.remote_id not in world.provider.files  # what arrives now finds no file
    assert set(world.provider.executed.values()) == {1}


def test_a_batch_whose_draws_nobody_wants_now_is_left_as_it_is():
    world = World()
    with suppress(Killed):
        world.run(asked(1), dies_at=11)
    (batch,) = world.book.open()
    world.run([(prompt(7), SAMPLING)])
    assert world.book.rows[batch.id] == batch


def test_a_batch_of_another_key_or_endpoint_is_not_touched():
    world = World()
    with suppress(Killed):
        world.run(asked(1), dies_at=11)
    (batch,) = world.book.open()
    world.book.rows[batch.id] = replace(batch, payer="ANOTHER_KEY")
    world.run(asked(1))
    assert [each.payer for each in world.book.open()] == ["ANOTHER_KEY"]


@pytest.mark.parametrize(
    "error", [EndpointError("no answer", retryable=True), EndpointError("500", retryable=True, status=500)]
)
@pytest.mark.parametrize("takes_in", [True, False])
def test_a_submission_without_an_answer_is_looked_up_before_it_is_made_again(error, takes_in):
    world = World()
    world.provider.errors, world.provider.takes_in = [error], takes_in
    world.run(asked(2))
    assert world.texts() == all_texts(2, 3)
    assert set(world.provider.executed.values()) == {1}
    assert len(world.provider.batches) == 1


def test_a_plain_no_is_not_looked_up_and_ends_it():
    world = World()
    world.provider.errors, world.provider.takes_in = [RefusedError("no quota", status=400)], False
    with pytest.raises(RefusedError, match="no quota"):
        world.run(asked(1))
    assert [batch.state for batch in world.book.rows.values()] == [State.DROPPED]


def test_a_lost_connection_after_a_lost_answer_does_not_submit_again():
    world = World()
    world.provider.errors = [EndpointError("no answer", retryable=True)]
    unreachable = EndpointError("down", retryable=True)

    async def find(name: str, file_id: str, since: float) -> None:
        raise unreachable

    world.provider.find = find
    with pytest.raises(EndpointError, match="down"):
        world.run(asked(1))
    del world.provider.find
    world.run(asked(1))
    assert len(world.provider.batches) == 1
    assert set(world.provider.executed.values()) == {1}


def test_a_cancelled_run_leaves_its_batch_open_and_the_next_brings_it_in():
    world = World()
    world.provider.ends_as = "in_progress"
    draws = BatchDraws(Box(), world.provider, world.samples, world.book, poll_s=60)

    async def stopped() -> None:
        async with asyncio.timeout(0.05):
            await draws.prepaid(asked(2))

    with pytest.raises(TimeoutError):
        asyncio.run(stopped())
    assert [batch.state for batch in world.book.open()] == [State.SUBMITTED]
    world.provider.ends_as = "completed"
    world.run(asked(2))
    assert len(world.provider.batches) == 1
    assert world.texts() == all_texts(2, 3)


# --------------------------------------------------------------------------- money


def test_the_worst_case_is_reserved_before_and_the_real_cost_charged_after():
    world = World()
    budget = Budget(Limits(tokens=10_000))
    reserved = []
    bought = world.run(asked(2), budget=budget, report=lambda done, total: reserved.append(budget.reserved))
    assert reserved[0] == Usage(4 * 20, 6 * 10, 4)
    assert budget.spent == bought.usage
    assert budget.reserved == Usage()


def test_what_the_budget_has_no_room_for_is_not_submitted_and_the_rest_is_brought_in():
    world = World()
    with pytest.raises(BudgetSpentError):
        world.run(asked(4), budget=Budget(Limits(tokens=200)), most_requests=4)
    assert len(world.provider.batches) == 1
    assert world.texts() == all_texts(2, 3)
    assert world.book.open() == []


def test_a_batch_that_was_submitted_before_is_brought_in_though_the_budget_is_spent():
    world = World()
    with suppress(Killed):
        world.run(asked(1), dies_at=11)
    bought = world.run(asked(1), budget=Budget(Limits(tokens=1)))
    assert bought.bought == 3


# --------------------------------------------------------------------------- one at a time


async def test_who_holds_the_lock_submits_and_others_wait(tmp_path):
    lock, order = tmp_path / "batch.lock", []

    async def inside(name: str) -> None:
        async with alone(lock):
            order.append(name)
            await asyncio.sleep(0.02)
            order.append(name)

    await asyncio.gather(inside("a"), inside("b"), inside("c"))
    assert order[::2] == order[1::2]


async def test_two_that_buy_the_same_at_once_buy_it_once(tmp_path):
    world = World()
    both = [
        BatchDraws(
            Box(),
            world.provider,
            world.samples,
            world.book,
            poll_s=0,
            settle_s=0,
            lock=tmp_path / "batch.lock",
        )
        for _ in range(2)
    ]
    await asyncio.gather(*(draws.prepaid(asked(3)) for draws in both))
    assert world.texts() == all_texts(3, 3)
    assert set(world.provider.executed.values()) == {1}
