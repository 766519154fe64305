"""RecordedLLM, ScriptedLLM and Filled: no network, no chance."""

from __future__ import annotations

import asyncio
from functools import cache
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import EndpointError, NoRecordError
from trimtab.llm import Cached, Filled, RecordedLLM, ScriptedLLM
from trimtab.llm.stops import before_stop
from trimtab.store import Store
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

EXAMPLES = count()  # a model of its own for each: its draws are in the store under its name


@cache
def one_store() -> Store:
    """One for all examples: making its tables takes longer than the rest of them."""
    return Store.in_memory()


def prompt(text: str = "How many?", question_id: str | None = "q") -> Prompt:
    return Prompt((Message("user", text),), question_id)


def recorded(count: int, question_id: str = "q") -> Recorded:
    return Recorded(Question(question_id, "How many?"), tuple(Sample(f"answer {at}") for at in range(count)))


def ask(llm: LLM, asked: Prompt | None = None, sampling: Sampling | None = None) -> Completions:
    return asyncio.run(llm.complete(asked or prompt(), sampling or Sampling()))


def texts(completions: Completions) -> list[str]:
    return [completion.text for completion in completions.completions]


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


def test_later_draws_go_on_where_the_earlier_ones_of_the_same_seed_ended():
    llm = RecordedLLM([recorded(5)])
    first, rest = (texts(ask(llm, sampling=Sampling(n=2, seed=3, start=start))) for start in (0, 2))
    assert first + rest == texts(ask(llm, sampling=Sampling(n=4, seed=3)))


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


# ------------------------------------------------------------------------------------ filled


@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 7), st.none() | st.integers(0, 9))
def test_every_draw_asked_for_comes_once_whatever_is_given_at_once(n, given_at_once, max_n, seed):
    llm, store = Stingy(given_at_once, f"stingy-{next(EXAMPLES)}"), one_store().samples_of("run")
    first = ask(Filled(Cached(llm, store), max_n=max_n), sampling=Sampling(n=n, seed=seed))
    again = ask(Filled(Cached(llm, store), max_n=max_n), sampling=Sampling(n=n, seed=seed))
    assert sorted(texts(first), key=int) == [str(at) for at in range(n)]
    assert max(llm.asked) <= max_n
    assert first.usage == Usage(llm.calls, n, calls=llm.calls)
    assert (again.completions, again.usage) == (first.completions, Usage())


def test_a_request_that_is_answered_whole_goes_down_as_it_is():
    llm = ScriptedLLM(lambda asked, draw: f"draw {draw}")
    reply = ask(Filled(llm), sampling=Sampling(n=3, seed=4, start=2))
    assert texts(reply) == ["draw 6", "draw 7", "draw 8"]
    assert llm.calls == 1


def test_more_than_128_are_asked_for_in_parts():
    llm = Stingy(1000)
    assert len(texts(ask(Filled(llm), sampling=Sampling(n=300)))) == 300
    assert sorted(llm.asked) == [44, 128, 128]


def test_a_model_that_gives_nothing_is_an_endpoints_failure():
    with pytest.raises(EndpointError, match="without a completion"):
        ask(Filled(Stingy(0)), sampling=Sampling(n=2))


class Stingy:
    """Numbers all its completions, and gives no more than so many at once."""

    def __init__(self, at_once: int, name: str = "stingy") -> None:
        self.at_once = at_once
        self.name = name
        self.given = self.calls = 0
        self.asked: list[int] = []

    async def complete(self, asked: Prompt, sampling: Sampling) -> Completions:
        self.asked.append(sampling.n)
        self.calls += 1
        numbers = range(self.given, self.given + min(self.at_once, sampling.n))
        self.given += len(numbers)
        usage = Usage(1, len(numbers), calls=1)
        return Completions(tuple(Completion(str(number)) for number in numbers), usage, self.name)
