"""RecordedLLM, ScriptedLLM and Kept: no network, no chance, nothing paid twice."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import EndpointError, NoRecordError, RefusedError
from trimtab.llm import Filled, Kept, RecordedLLM, ScriptedLLM
from trimtab.llm.kept import request_key
from trimtab.llm.stops import before_stop
from trimtab.types import (
    LLM,
    Completion,
    Completions,
    Message,
    Prompt,
    Question,
    Recorded,
    Sample,
    Sampling,
    Usage,
)


def prompt(text: str = "How many?", question_id: str | None = "q") -> Prompt:
    return Prompt((Message("user", text),), question_id)


def recorded(count: int, question_id: str = "q") -> Recorded:
    return Recorded(Question(question_id, "How many?"), tuple(Sample(f"answer {at}") for at in range(count)))


def ask(llm: LLM, asked: Prompt | None = None, sampling: Sampling | None = None) -> Completions:
    return asyncio.run(llm.complete(asked or prompt(), sampling or Sampling()))


def texts(completions: Completions) -> list[str]:
    return [completion.text for completion in completions.completions]


class MemoryStore:
    """A response store in a dict, which counts."""

    def __init__(self) -> None:
        self.rows: dict[str, Completions] = {}
        self.times_kept = 0

    def kept(self, key: str) -> Completions | None:
        return self.rows.get(key)

    def keep(self, key: str, completions: Completions) -> None:
        self.times_kept += 1
        self.rows[key] = completions


# ------------------------------------------------------------------------------------ stops


@given(st.text("ab;\n"), st.lists(st.sampled_from([";", "\n", "ab", ""]), max_size=3))
def test_no_stop_sequence_is_left_in_a_text_and_nothing_before_the_first_is_lost(text, stops):
    cut = before_stop(text, stops)
    assert text.startswith(cut)
    assert not any(stop and stop in cut for stop in stops)
    assert cut == text or any(stop and text[len(cut) :].startswith(stop) for stop in stops)


# ------------------------------------------------------------------------------------ recorded


def test_recorded_answers_come_in_the_order_recorded_and_cost_nothing():
    reply = ask(RecordedLLM([recorded(3)]), sampling=Sampling(n=2))
    assert texts(reply) == ["answer 0", "answer 1"]
    assert reply.usage == Usage()
    assert reply.model == "recorded"


@given(st.integers(1, 9), st.integers(0, 10**9), st.data())
def test_a_request_gets_different_recorded_answers_starting_where_its_seed_says(count, seed, data):
    n = data.draw(st.integers(1, count))
    drawn = texts(ask(RecordedLLM([recorded(count)]), sampling=Sampling(n=n, seed=seed)))
    assert drawn == [f"answer {(seed + at) % count}" for at in range(n)]
    assert len(set(drawn)) == n


def test_more_answers_than_are_recorded_are_refused_with_their_number():
    with pytest.raises(NoRecordError, match=r"5 answers .* 3 are recorded"):
        ask(RecordedLLM([recorded(3)]), sampling=Sampling(n=5))


def test_a_question_that_was_not_recorded_is_refused_by_name():
    with pytest.raises(NoRecordError, match="'other'"):
        ask(RecordedLLM([recorded(3)]), prompt(question_id="other"))


def test_a_prompt_without_a_question_id_is_refused():
    with pytest.raises(NoRecordError, match="id"):
        ask(RecordedLLM([recorded(3)]), prompt(question_id=None))


def test_rows_of_one_question_follow_one_another():
    llm = RecordedLLM([recorded(2), recorded(1)])
    assert llm.recorded("q") == 3
    assert texts(ask(llm, sampling=Sampling(n=3))) == ["answer 0", "answer 1", "answer 0"]


# ------------------------------------------------------------------------------------ scripted


def test_a_scripted_function_sees_the_prompt_and_the_number_of_the_draw():
    llm = ScriptedLLM(lambda asked, draw: f"{asked.messages[0].content} {draw}")
    assert texts(ask(llm, prompt("say"), Sampling(n=2, seed=5))) == ["say 5", "say 6"]
    assert texts(ask(llm, prompt("say"), Sampling(n=2, seed=5))) == ["say 5", "say 6"]


def test_a_scripted_map_answers_by_question_in_turn():
    llm = ScriptedLLM({"q": ["yes", "no"]})
    assert texts(ask(llm, sampling=Sampling(n=3, seed=1))) == ["no", "yes", "no"]
    with pytest.raises(NoRecordError, match="other"):
        ask(llm, prompt(question_id="other"))


def test_a_scripted_sequence_is_said_once_in_order():
    llm = ScriptedLLM(["one", "two"])
    assert texts(ask(llm)) + texts(ask(llm)) == ["one", "two"]
    with pytest.raises(NoRecordError, match="ended after 2"):
        ask(llm)


def test_a_scripted_call_fails_when_told_to_and_is_counted():
    down = EndpointError("down", retryable=True)
    llm = ScriptedLLM(lambda asked, draw: "yes", failures={2: down})
    ask(llm)
    with pytest.raises(EndpointError) as caught:
        ask(llm)
    assert caught.value is down
    assert texts(ask(llm)) == ["yes"]
    assert llm.calls == len(llm.prompts) == 3


def test_scripted_answers_obey_stop_sequences_and_count_words_as_tokens():
    reply = ask(ScriptedLLM(["two words\nand more"]), prompt("one two three"), Sampling(stop=("\n",)))
    assert texts(reply) == ["two words"]
    assert reply.usage == Usage(3, 2, calls=1)


# ------------------------------------------------------------------------------------ kept


def test_a_response_is_in_the_store_before_it_is_returned():
    store = MemoryStore()
    reply = ask(Kept(ScriptedLLM(["once"]), store))
    assert list(store.rows.values()) == [reply]


def test_the_same_request_is_paid_for_once_and_its_replay_costs_nothing():
    llm, store = ScriptedLLM(["once"]), MemoryStore()
    first = ask(Kept(llm, store))
    second = ask(Kept(llm, store))
    assert llm.calls == 1
    assert second == replace(first, usage=Usage())
    assert first.usage + second.usage == first.usage
    assert next(iter(store.rows.values())).usage == first.usage


@pytest.mark.parametrize(("usd", "replayed"), [(None, None), (0.25, 0.0)])
def test_a_replay_is_free_where_the_price_was_known_and_unknown_where_it_was_not(usd, replayed):
    store = MemoryStore()
    reply = ask(Kept(ScriptedLLM(["once"]), store))
    key = next(iter(store.rows))
    store.rows[key] = replace(reply, usage=replace(reply.usage, usd=usd))
    assert ask(Kept(ScriptedLLM([]), store)).usage == Usage(usd=replayed)


@pytest.mark.parametrize(
    ("asked", "sampling"),
    [
        (prompt("How much?"), Sampling()),
        (Prompt((Message("system", "How many?"),), "q"), Sampling()),
        (prompt(), Sampling(n=2)),
        (prompt(), Sampling(seed=1)),
        (prompt(), Sampling(seed=0)),
        (prompt(), Sampling(temperature=None)),
        (prompt(), Sampling(max_tokens=1)),
        (prompt(), Sampling(stop=("\n",))),
    ],
)
def test_another_request_has_another_key(asked, sampling):
    assert request_key("m", asked, sampling) != request_key("m", prompt(), Sampling())


def test_another_model_has_another_key_and_the_question_id_none_of_its_own():
    assert request_key("m", prompt(), Sampling()) != request_key("other", prompt(), Sampling())
    assert request_key("m", prompt(question_id="other"), Sampling()) == request_key("m", prompt(), Sampling())


def test_the_same_request_at_the_same_time_is_sent_once():
    llm, store = Slow(ScriptedLLM(["once"])), MemoryStore()
    kept = Kept(llm, store)

    async def all_at_once() -> list[Completions]:
        return await asyncio.gather(*(kept.complete(prompt(), Sampling()) for _ in range(5)))

    replies = asyncio.run(all_at_once())
    assert {reply.completions[0].text for reply in replies} == {"once"}
    assert sum(reply.usage.calls for reply in replies) == 1
    assert store.times_kept == 1


def test_different_requests_at_the_same_time_do_not_wait_for_each_other():
    llm = Slow(ScriptedLLM(lambda asked, draw: "yes"))
    kept = Kept(llm, MemoryStore())

    async def both() -> None:
        await asyncio.gather(*(kept.complete(prompt(), Sampling(seed=seed)) for seed in range(2)))

    asyncio.run(both())
    assert llm.most_at_once == 2


def test_a_failure_reaches_all_who_wait_and_is_not_kept():
    llm = Slow(ScriptedLLM(lambda asked, draw: "yes", failures={1: EndpointError("down")}))
    store = MemoryStore()
    kept = Kept(llm, store)

    async def both() -> list[object]:
        return await asyncio.gather(
            *(kept.complete(prompt(), Sampling()) for _ in range(2)), return_exceptions=True
        )

    assert [str(error) for error in asyncio.run(both())] == ["down", "down"]
    assert store.rows == {}
    assert texts(ask(kept)) == ["yes"]


def test_a_call_whose_caller_went_away_is_still_kept():
    store = MemoryStore()
    kept = Kept(Slow(ScriptedLLM(["once"])), store)

    async def abandoned() -> Completions:
        caller = asyncio.create_task(kept.complete(prompt(), Sampling()))
        await asyncio.sleep(0)
        caller.cancel()
        return await kept.complete(prompt(), Sampling())

    assert texts(asyncio.run(abandoned())) == ["once"]
    assert store.times_kept == 1


def test_every_call_that_was_started_is_kept_though_its_run_was_cancelled():
    store = MemoryStore()
    kept = Kept(Refusing(Slow(ScriptedLLM(lambda asked, draw: "paid"))), store)

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            for seed in range(10):
                group.create_task(kept.complete(prompt(), Sampling(seed=seed)))

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(run())
    assert {type(error) for error in caught.value.exceptions} == {RefusedError}
    assert len(store.rows) == 9


def test_a_cancelled_caller_who_waits_for_anothers_call_leaves_when_it_is_kept():
    store = MemoryStore()
    kept = Kept(Slow(ScriptedLLM(["paid"])), store)

    async def run() -> int:
        starter, waiter = (asyncio.create_task(kept.complete(prompt(), Sampling())) for _ in range(2))
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.wait([waiter])
        kept_by_then = store.times_kept
        await starter
        return kept_by_then

    assert asyncio.run(run()) == 1


def test_a_caller_cancelled_twice_goes_at_once():
    never = asyncio.Event()
    kept = Kept(Waiting(never), MemoryStore())

    async def run() -> bool:
        caller = asyncio.create_task(kept.complete(prompt(), Sampling()))
        for _ in range(2):
            await asyncio.sleep(0.001)
            caller.cancel()
        await asyncio.wait([caller], timeout=1)
        return caller.cancelled()

    assert asyncio.run(run())


# ------------------------------------------------------------------------------------ filled


@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 7), st.none() | st.integers(0, 9))
def test_every_draw_asked_for_comes_once_whatever_is_given_at_once(n, given_at_once, max_n, seed):
    llm, store = Stingy(given_at_once), MemoryStore()
    first = ask(Filled(Kept(llm, store), max_n=max_n), sampling=Sampling(n=n, seed=seed))
    again = ask(Filled(Kept(llm, store), max_n=max_n), sampling=Sampling(n=n, seed=seed))
    assert sorted(texts(first), key=int) == [str(at) for at in range(n)]
    assert max(llm.asked) <= max_n
    assert first.usage == Usage(llm.calls, n, calls=llm.calls)
    assert (again.completions, again.usage) == (first.completions, Usage())


def test_a_request_that_is_answered_whole_goes_down_as_it_is():
    store = MemoryStore()
    sampling = Sampling(n=3, seed=4)
    ask(Filled(Kept(ScriptedLLM(lambda asked, draw: "yes"), store)), sampling=sampling)
    assert list(store.rows) == [request_key("scripted", prompt(), sampling)]


def test_more_than_128_are_asked_for_in_parts():
    llm = Stingy(1000)
    assert len(texts(ask(Filled(llm), sampling=Sampling(n=300)))) == 300
    assert sorted(llm.asked) == [44, 128, 128]


def test_a_model_that_gives_nothing_is_an_endpoints_failure():
    with pytest.raises(EndpointError, match="without a completion"):
        ask(Filled(Stingy(0)), sampling=Sampling(n=2))


class Stingy:
    """Numbers all its completions, and gives no more than so many at once."""

    name = "stingy"

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self.given = self.calls = 0
        self.asked: list[int] = []

    async def complete(self, asked: Prompt, sampling: Sampling) -> Completions:
        self.asked.append(sampling.n)
        self.calls += 1
        numbers = range(self.given, self.given + min(self.at_once, sampling.n))
        self.given += len(numbers)
        usage = Usage(1, len(numbers), calls=1)
        return Completions(tuple(Completion(str(number)) for number in numbers), usage, self.name)


class Refusing:
    """Refuses the request with seed 0."""

    def __init__(self, llm: LLM) -> None:
        self.llm = llm
        self.name = llm.name

    async def complete(self, asked: Prompt, sampling: Sampling) -> Completions:
        if sampling.seed == 0:
            raise RefusedError("no", status=400)
        return await self.llm.complete(asked, sampling)


class Waiting:
    """Answers when the event comes."""

    name = "waiting"

    def __init__(self, event: asyncio.Event) -> None:
        self.event = event

    async def complete(self, asked: Prompt, sampling: Sampling) -> Completions:
        await self.event.wait()
        return Completions((Completion("late"),), Usage(calls=1), self.name)


class Slow:
    """Lets every other task run before it answers."""

    def __init__(self, llm: LLM) -> None:
        self.llm = llm
        self.now = self.most_at_once = 0

    @property
    def name(self) -> str:
        return self.llm.name

    async def complete(self, asked: Prompt, sampling: Sampling) -> Completions:
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        await asyncio.sleep(0.01)
        self.now -= 1
        return await self.llm.complete(asked, sampling)
