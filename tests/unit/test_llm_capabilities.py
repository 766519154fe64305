"""Laws of what a model takes: the table, the user's corrections, and what an endpoint's refusals teach."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopback import Body, Reply, Server, failed, said
from trimtab import tasks
from trimtab.drawing import BeamSettings, beam_search
from trimtab.errors import ConfigError, RefusedError
from trimtab.llm import ChatLLM, Filled
from trimtab.llm.capabilities import (
    CONSERVATIVE,
    EMPTIEST,
    MOST_AT_ONCE,
    Capabilities,
    Learned,
    capabilities_of,
)
from trimtab.types import LLM, Completions, Message, Outcome, Prompt, Question, Sampling, Verdict

pytestmark = pytest.mark.usefixtures("one_certificate")

PROMPT = Prompt((Message("system", "Be brief."), Message("user", "How many?")))
ASKED = Sampling(n=3, temperature=0.7, max_tokens=9, stop=("\n",), seed=3)
UNKNOWN = "some-model-of-tomorrow"
EVERYTHING = Capabilities(n=True, stop=True, seed=True)


def box(server: Server, model: str = UNKNOWN, **options: Any) -> ChatLLM:
    return ChatLLM(model, **{"base_url": server.url, "backoff_s": 0.001, **options})


def ask(llm: Any, sampling: Sampling = ASKED) -> Any:
    return asyncio.run(llm.complete(PROMPT, sampling))


def refusing(parameter: str, message: str, status: int = 400, **error: str) -> Callable[[Body], Reply]:
    """Refuses requests that have this in them, and answers all others."""

    def reply(body: Body) -> Reply:
        roles = {message["role"] for message in body["messages"]}
        if parameter in body or parameter in roles:
            return failed(status, message, **error)(body)
        return said(*["a"] * body.get("n", 1))(body)

    return reply


# ------------------------------------------------------------------------------------ the table


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("gpt-4o", {"temperature": True, "n": True, "stop": True, "seed": True, "length": "max_tokens"}),
        ("openai/gpt-4.1-mini", {"n": True, "batch": True}),
        ("gpt-3.5-turbo", {"n": True, "logprobs": True}),
        ("o1-mini", {"system": False, "temperature": False, "n": False}),
        ("o3", {"temperature": False, "stop": False, "system": True, "length": "max_completion_tokens"}),
        ("openai/o4-mini", {"temperature": False, "length": "max_completion_tokens"}),
        ("GPT-5-nano", {"temperature": False, "length": "max_completion_tokens"}),
        ("gpt-5-chat-latest", {"temperature": True, "length": "max_tokens", "reasoning_tokens": 0}),
        ("ft:gpt-4o-mini-2024-07-18:us:name:id", {"n": True, "stop": True}),
        ("bedrock/us.anthropic.claude-sonnet-4-20250514-v1:0", {"n": False, "stop": True}),
        ("anthropic/claude-sonnet-4-5", {"n": False, "stop": True, "seed": False, "temperature": True}),
        ("gemini-2.5-flash", {"n": True, "stop": True}),
        ("gemini-2.0-flash", {"n": True, "reasoning_tokens": 0}),
        ("openai/gpt-oss-20b", {"n": True, "temperature": True, "length": "max_tokens"}),
        ("Qwen/Qwen3-4B-Instruct-2507", {"n": True, "reasoning_tokens": 0}),
        ("deepseek-reasoner", {"temperature": False, "n": False}),
        ("deepseek-chat", {"temperature": True, "n": False, "stop": True}),
        ("meta-llama/Llama-3.1-8B-Instruct", {"n": True, "stop": True, "seed": True, "batch": False}),
        ("Qwen/Qwen2.5-7B-Instruct", {"n": True, "seed": True}),
        ("trimtab-blackbox", {"n": True, "stop": True, "seed": True, "batch": False}),
    ],
)
def test_a_model_is_known_by_its_family(model, expected):
    row = capabilities_of(model)
    assert {name: getattr(row, name) for name in expected} == expected


@pytest.mark.parametrize("model", [UNKNOWN, "model-o3-like", "proto1", "my-gpt", ""])
def test_an_unknown_model_starts_from_the_conservative_row(model):
    assert capabilities_of(model) is CONSERVATIVE
    assert (CONSERVATIVE.temperature, CONSERVATIVE.n, CONSERVATIVE.stop, CONSERVATIVE.seed) == (
        True,
        False,
        False,
        False,
    )
    assert CONSERVATIVE.most_at_once == 1


@pytest.mark.parametrize(
    "model",
    [
        *("o1", "o3-mini", "gpt-5", "gpt-5-mini", "o1-mini", "deepseek-reasoner", "gemini-2.5-pro"),
        *("google/gemini-3-flash", "gpt-oss:20b", "deepseek-r1:7b", "Qwen/QwQ-32B", "Qwen/Qwen3-8B"),
    ],
)
def test_models_that_reason_have_room_for_it_beside_the_answer(model):
    assert capabilities_of(model).reasoning_tokens >= 1000


# ------------------------------------------------------------------------------------ the user's word


def test_the_users_corrections_are_stronger_than_the_table():
    said = "temperature=no, n = false,length=max_completion_tokens,reasoning_tokens=7"
    assert capabilities_of("gpt-4o", said) == replace(
        capabilities_of("gpt-4o"),
        temperature=False,
        n=False,
        length="max_completion_tokens",
        reasoning_tokens=7,
    )


def test_corrections_open_up_an_unknown_model():
    row = capabilities_of(UNKNOWN, "n=yes,stop=TRUE")
    assert (row.most_at_once, row.stop) == (MOST_AT_ONCE, True)


def test_an_empty_correction_corrects_nothing():
    assert capabilities_of("gpt-4o", " , ") == capabilities_of("gpt-4o", "") == capabilities_of("gpt-4o")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("temprature=no", "temprature"),
        ("temperature", "temperature"),
        ("n=4", "yes or no"),
        ("n=", "yes or no"),
        ("length=max_words", "max_completion_tokens"),
        ("reasoning_tokens=many", "number of tokens"),
        ("reasoning_tokens=-1", "number of tokens"),
        ("most_at_once=3", "Known: temperature"),
    ],
)
def test_a_correction_that_cannot_be_read_is_named(text, named):
    with pytest.raises(ConfigError, match=named) as caught:
        capabilities_of("gpt-4o", text)
    assert caught.value.exit_code == 2


# ------------------------------------------------------------------------------------ shaping


def test_what_a_model_does_not_take_is_not_sent(serve):
    server = serve(said("one\ntwo"))
    reply = ask(box(server, capabilities=EMPTIEST))
    assert server.bodies == [
        {
            "model": UNKNOWN,
            "messages": [{"role": "user", "content": "Be brief.\n\nHow many?"}],
            "max_tokens": 9,
        }
    ]
    assert [completion.text for completion in reply.completions] == ["one"]  # stopped on our side


def test_system_words_without_a_users_turn_after_them_are_a_users_turn(serve):
    server = serve(said("a"))
    prompt = Prompt((Message("system", "Be brief."), Message("assistant", "Yes?"), Message("system", "Go.")))
    asyncio.run(box(server, capabilities=EMPTIEST).complete(prompt, Sampling()))
    assert server.bodies[0]["messages"] == [
        {"role": "user", "content": "Be brief.\n\nGo."},
        {"role": "assistant", "content": "Yes?"},
    ]


def test_an_unknown_model_is_asked_for_several_one_by_one_with_temperature(serve):
    server = serve(said("a"))
    llm = box(server)
    assert len(ask(Filled(llm, capabilities=llm.capabilities)).completions) == 3
    assert [set(body) for body in server.bodies] == [{"model", "messages", "temperature", "max_tokens"}] * 3


def test_hidden_reasoning_is_given_room_and_is_in_the_worst_case(serve):
    server = serve(said("a", "b", "c"))
    llm = box(server, "o3-mini")
    room = capabilities_of("o3-mini").reasoning_tokens
    assert llm.worst(PROMPT, ASKED).output_tokens == 3 * (9 + room)
    ask(llm)
    assert server.bodies[0]["max_completion_tokens"] == 9 + room
    assert "max_tokens" not in server.bodies[0]


@pytest.mark.parametrize(("temperature", "warnings"), [(0.7, 1), (0.0, 1), (1.0, 0), (None, 0)])
def test_a_temperature_that_the_table_leaves_out_is_said_once_where_it_changes_anything(
    serve, caplog, temperature, warnings
):
    server = serve(said("a", "b", "c"))
    llm = box(server, "o3")
    for _ in range(2):
        ask(llm, replace(ASKED, temperature=temperature))
    assert not any("temperature" in body for body in server.bodies)
    assert ["o3: " in record.getMessage() for record in caplog.records] == [True] * warnings


# ------------------------------------------------------------------------------------ learning


@pytest.mark.parametrize(
    ("parameter", "message", "error"),
    [
        ("temperature", "Unsupported parameter: 'temperature' is not supported with this model.", {}),
        (
            "temperature",
            "Unsupported value: 'temperature' does not support 0.7 with this model. Only the default (1) "
            "value is supported.",
            {"param": "temperature", "code": "unsupported_value"},
        ),
        ("temperature", "`temperature` is deprecated for this model.", {}),
        ("n", "This endpoint does not support 'n'", {}),
        ("n", "this one is not supported", {"param": "n"}),
        ("n", "Invalid 'n': integer above maximum value. Expected a value <= 2, but got 3 instead.", {}),
        ("n", "Multiple candidates is not enabled for this model", {}),
        ("n", "candidateCount value of 9 is out of range", {}),
        ("stop", "each stop sequence must contain non-whitespace", {}),
        ("stop", "Unrecognized request argument supplied: stop", {}),
        ("stop", "Argument not supported: 'stop'", {}),
        ("seed", "seed: Extra inputs are not permitted", {}),
        ("seed", "Unknown parameter: 'seed'.", {"param": "seed"}),
        ("system", "'messages[0].role' does not support 'system' with this model.", {}),
        ("system", "System role not supported", {}),
    ],
)
@pytest.mark.parametrize("status", [400, 422])
def test_a_parameter_that_is_refused_is_dropped_at_once_and_for_good_with_one_warning(
    serve, caplog, parameter, message, error, status
):
    server = serve(refusing(parameter, message, status, **error))
    llm = box(server, capabilities=EVERYTHING)
    replies = [ask(llm), ask(llm)]
    assert all(reply.completions for reply in replies)
    assert len(server.bodies) == 3
    assert not getattr(llm.capabilities.row, parameter)
    assert [call.outcome for call in replies[0].calls] == [Outcome.UNPAID, Outcome.PAID]
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert f"{UNKNOWN}: parameter {parameter}" in warnings[0].getMessage()


@pytest.mark.parametrize(
    ("first", "then"),
    [("max_tokens", "max_completion_tokens"), ("max_completion_tokens", "max_tokens")],
)
def test_the_other_name_of_the_length_is_sent_where_the_one_is_refused(serve, caplog, first, then):
    message = f"Unsupported parameter: '{first}' is not supported with this model. Use '{then}' instead."
    server = serve(refusing(first, message))
    llm = box(server, capabilities=Capabilities(length=first))
    ask(llm)
    ask(llm)
    assert [first in body for body in server.bodies] == [True, False, False]
    assert [body.get(then) for body in server.bodies] == [None, 9, 9]
    assert len(caplog.records) == 1


def test_where_both_names_of_the_length_are_refused_the_refusal_is_reported(serve):
    server = serve(failed(400, "max_tokens and max_completion_tokens are not supported"))
    with pytest.raises(RefusedError, match="not supported"):
        ask(box(server))
    assert len(server.bodies) == 2


@pytest.mark.parametrize(
    "message",
    [
        "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 3 instead.",
        "temperature must be between 0 and 2",
        "max_tokens is too large: 5000. This model supports at most 4096 completion tokens.",
        "This model's maximum context length is 4097 tokens; please reduce the length of the messages.",
        "The model `x` does not exist",
        "Please stop sending n requests: candidates are reviewed",
    ],
)
def test_a_value_out_of_its_range_is_refused_and_teaches_nothing(serve, caplog, message):
    server = serve(failed(400, message))
    llm = box(server, capabilities=EVERYTHING)
    with pytest.raises(RefusedError):
        ask(llm)
    assert len(server.bodies) == 1
    assert llm.capabilities.row == EVERYTHING
    assert not caplog.records


@pytest.mark.parametrize(
    ("parameter", "message", "error"),
    [
        ("stop", "stop_sequences: each stop sequence must contain non-whitespace", {}),  # Anthropic
        ("stop", "Invalid 'stop': array too long. Expected an array with maximum length 4.", {}),  # OpenAI
        ("n", "Invalid 'n': integer above maximum value. Expected a value <= 8, but got 9 instead.", {}),
        ("n", "Multiple candidates is not enabled for this model", {}),  # Gemini 3
        ("n", "Unable to submit request because it has a candidateCount value of 9", {}),  # Vertex
        ("n", "n > 1 is not supported", {}),
        ("n", "out of range", {"param": "n"}),
    ],
)
def test_what_is_made_up_for_here_is_dropped_whatever_is_wrong_with_it(
    serve, caplog, parameter, message, error
):
    server = serve(refusing(parameter, message, **error))
    llm = box(server, capabilities=EVERYTHING)
    whole = Filled(llm, capabilities=llm.capabilities)
    assert len(ask(whole).completions) == len(ask(whole).completions) == 3
    assert llm.capabilities.row == replace(EVERYTHING, **{parameter: False})
    assert len(caplog.records) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_other_refusals_teach_nothing_whatever_they_say(serve, status):
    server = serve(failed(status, "temperature is not supported"))
    llm = box(server)
    with pytest.raises(RefusedError):
        ask(llm)
    assert len(server.bodies) == 1
    assert llm.capabilities.row == CONSERVATIVE


def test_what_was_not_sent_cannot_be_dropped(serve):
    server = serve(failed(400, "Unsupported parameter: 'seed'"))
    llm = box(server)
    with pytest.raises(RefusedError):
        ask(llm)
    assert len(server.bodies) == 1


def test_several_refusals_are_learned_one_after_another(serve):
    def picky(body: Body) -> Reply:
        found = next((name for name in ("temperature", "n", "stop", "seed") if name in body), None)
        return failed(400, f"Unsupported parameter: '{found}'")(body) if found else said("a")(body)

    server = serve(picky)
    llm = box(server, capabilities=EVERYTHING)
    assert ask(llm).completions
    assert len(server.bodies) == 5
    assert llm.capabilities.row == Capabilities(temperature=False)


@pytest.mark.parametrize("parameter", ["temperature", "max_tokens"])
def test_first_calls_made_together_all_succeed_and_warn_once(serve, caplog, parameter):
    server = serve(refusing(parameter, f"Unsupported parameter: '{parameter}'"))
    llm = box(server)

    async def together() -> list[Any]:
        return await asyncio.gather(*(llm.complete(PROMPT, ASKED) for _ in range(8)))

    assert all(reply.completions for reply in asyncio.run(together()))
    assert len(caplog.records) == 1


def test_an_endpoint_that_ignores_n_is_asked_one_by_one_from_then_on(serve, caplog):
    server = serve(said("a"))
    llm = box(server, capabilities=EVERYTHING)
    whole = Filled(llm, capabilities=llm.capabilities)
    assert len(ask(whole).completions) == len(ask(whole).completions) == 3
    assert [body.get("n") for body in server.bodies] == [3, None, None, None, None, None]
    assert len(caplog.records) == 1


@given(st.text(max_size=200))
def test_no_words_teach_that_a_request_without_parameters_should_be_sent_again(words):
    learned = Learned(UNKNOWN, EMPTIEST)
    sent = {"model": UNKNOWN, "messages": [{"role": "user", "content": "x"}]}
    assert not learned.refused(f"not supported: {words}", sent)
    assert learned.row == EMPTIEST


# ------------------------------------------------------------------------------------ the emptiest endpoint


class Longest:
    """The longer, the better."""

    def score(self, question: str, texts: Sequence[str]) -> list[float]:
        return [float(len(text)) for text in texts]

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        return [float(len(text)) for _, text in pairs]


class Instructed:
    """Puts a system turn before every prompt."""

    def __init__(self, llm: LLM) -> None:
        self.llm, self.name = llm, llm.name

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        told = replace(prompt, messages=(Message("system", "Be brief."), *prompt.messages))
        return await self.llm.complete(told, sampling)


def bare(body: Body) -> Reply:
    """Takes turns of user and assistant and a length, and nothing else; goes on beyond the end of a step."""
    extra = set(body) - {"model", "messages", "max_tokens"}
    if extra:
        return failed(400, f"Unsupported parameter: '{min(extra)}'", param=min(extra))(body)
    if any(message["role"] == "system" for message in body["messages"]):
        return failed(400, "Unsupported value: 'messages[0].role' does not support 'system'")(body)
    is_begun = "Add 3 and 4." in json.dumps(body["messages"])
    return said("#### 7\nand so on" if is_begun else "Add 3 and 4.\n#### 8\nand so on")(body)


@pytest.mark.parametrize("row", [EMPTIEST, EVERYTHING, CONSERVATIVE], ids=["told", "learned", "unknown"])
def test_sentence_level_search_works_on_an_endpoint_that_takes_nothing(serve, row):
    server = serve(bare)
    llm = box(server, capabilities=row)
    question = Question("q", "What is 3 + 4?", answer="7")
    whole = Instructed(Filled(llm, capabilities=llm.capabilities))
    settings = BeamSettings(width=2, samples=2, max_steps=4)
    pool = asyncio.run(beam_search(question, whole, tasks.numeric(), Longest(), settings))
    assert [(each.text, each.verdict) for each in pool.candidates] == [
        ("Add 3 and 4.\n#### 7", Verdict.RIGHT)  # all draws were equal
    ]
    assert set(server.bodies[-1]) == {"model", "messages", "max_tokens"}
    assert not any(
        getattr(llm.capabilities.row, name) for name in ("temperature", "n", "stop", "seed", "system")
    )
