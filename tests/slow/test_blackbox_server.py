from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from trimtab.errors import ConfigError, RunError
from trimtab.llm.embedded import running, serve, world
from trimtab.llm.embedded.decoding import Request, complete
from trimtab.llm.embedded.model import PACKAGED, Model
from trimtab.llm.embedded.vocabulary import Vocabulary
from trimtab.llm.embedded.world import Fault

pytestmark = pytest.mark.slow

NAME = "trimtab-blackbox"
QUESTIONS = world.questions(21, 24)


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with running() as url:
        yield url


@pytest.fixture
def client(base_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, text: str, **extra: Any) -> Any:
    messages: list[Any] = [{"role": "user", "content": text}]
    return client.chat.completions.create(**{"model": NAME, "messages": messages, **extra})


def texts(reply: Any) -> list[str]:
    return [choice.message.content for choice in reply.choices]


def stats(base_url: str) -> dict[str, int]:
    found: dict[str, int] = httpx.get(f"{base_url}/stats").json()
    return found


def test_n_answers_come_back_in_order_and_the_same_seed_gives_them_again(client: openai.OpenAI) -> None:
    question = QUESTIONS[0].text
    first, second = (ask(client, question, n=8, seed=5, max_tokens=100) for _ in range(2))
    assert [choice.index for choice in first.choices] == list(range(8))
    assert texts(first) == texts(second)
    assert texts(ask(client, question, n=8, seed=6)) != texts(first)
    drawn = complete(Model.load(), [Request(question + "\n", n=8, seed=5, max_tokens=100)])[0]
    assert [completion.text for completion in drawn.completions] == texts(first)


def test_one_step_at_a_time_makes_a_chain(client: openai.OpenAI) -> None:
    question, chain = QUESTIONS[3].text, ""
    for _ in range(6):
        step = ask(client, f"{question}\n{chain}", stop="\n", seed=1).choices[0]
        assert "\n" not in step.message.content
        chain += step.message.content
        if world.final_number(chain) is not None:
            break
        chain += "\n"
    assert world.final_number(chain) is not None


def test_usage_counts_real_tokens_and_the_servers_count_agrees(client: openai.OpenAI, base_url: str) -> None:
    before = stats(base_url)
    reply = ask(client, QUESTIONS[1].text, n=3, seed=2)
    vocabulary = Model.load().vocabulary
    said = sum(len(vocabulary.encode(text)) + 1 for text in texts(reply))  # and each one's end
    assert reply.usage.prompt_tokens == len(vocabulary.encode(QUESTIONS[1].text + "\n")) + 1
    assert reply.usage.completion_tokens == said
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + said
    after = stats(base_url)
    assert after["calls"] == before["calls"] + 1
    assert after["completion_tokens"] == before["completion_tokens"] + said


def test_a_length_limit_is_kept_under_either_name(client: openai.OpenAI) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        reply = ask(client, QUESTIONS[2].text, **{name: 3})
        assert reply.choices[0].finish_reason == "length"
        assert reply.usage.completion_tokens == 3


def test_temperature_zero_always_says_the_same(client: openai.OpenAI) -> None:
    assert len(set(texts(ask(client, QUESTIONS[4].text, n=4, temperature=0)))) == 1


async def test_many_calls_at_once_get_what_each_would_get_alone(base_url: str) -> None:
    async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:

        async def drawn(text: str) -> list[str]:
            messages: list[Any] = [{"role": "user", "content": text}]
            return texts(await client.chat.completions.create(model=NAME, messages=messages, n=4, seed=9))

        together = await asyncio.gather(*(drawn(question.text) for question in QUESTIONS))
        alone = [await drawn(question.text) for question in QUESTIONS]
    assert together == alone


def test_a_client_that_hangs_up_leaves_the_server_answering(client: openai.OpenAI, base_url: str) -> None:
    hasty = openai.OpenAI(base_url=base_url, api_key="none", max_retries=0, timeout=0.02)
    with hasty, pytest.raises(openai.APITimeoutError):
        ask(hasty, QUESTIONS[6].text, n=100, seed=3)
    assert texts(ask(client, QUESTIONS[6].text, seed=3))


def test_both_models_are_listed_and_answer(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names[0] == NAME
    for name in names:
        assert world.final_number(texts(ask(client, QUESTIONS[5].text, model=name, seed=1))[0]) is not None


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"logprobs": True}, "logprobs"),
        ({"stream": True}, "stream"),
        ({"temperature": 9}, "temperature"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"tools": []}, "tools"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(
    client: openai.OpenAI, extra: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, "any", **extra)
    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt-9") as refused:
        ask(client, "any", model="gpt-9")
    assert refused.value.code == "model_not_found"


def test_a_prompt_that_does_not_fit_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, "lamps " * 500)
    assert refused.value.code == "context_length_exceeded"


def test_a_prefilled_answer_is_refused(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "any"}, {"role": "assistant", "content": "The"}]
    with pytest.raises(openai.BadRequestError, match="prefill"):
        client.chat.completions.create(model=NAME, messages=messages)


def test_a_body_that_is_no_json_is_refused_in_the_same_shape(base_url: str) -> None:
    reply = httpx.post(
        f"{base_url}/chat/completions", content=b"{", headers={"content-type": "application/json"}
    )
    assert reply.status_code == 400
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


def test_an_unknown_path_is_refused_in_the_same_shape(base_url: str) -> None:
    reply = httpx.get(f"{base_url}/nothing")
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "unknown_url"
    assert httpx.get(base_url.removesuffix("/v1") + "/health").json() == {"status": "ok"}


def test_a_server_with_a_key_answers_only_to_that_key() -> None:
    with running(api_key="right") as url:
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=url, api_key="wrong", max_retries=0).models.list()
        assert openai.OpenAI(base_url=url, api_key="right").models.list().data


def test_a_port_in_use_is_said_to_be_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
            serve(port)
        with pytest.raises(RunError, match="did not start"), running(port):
            pass


def test_the_servers_process_ends_with_the_block() -> None:
    with running() as url:
        assert stats(url)["calls"] == 0
    with pytest.raises(httpx.ConnectError):
        stats(url)


def test_the_packaged_weights_are_small_and_know_every_word_of_the_world() -> None:
    assert sum(file.stat().st_size for file in PACKAGED.parent.glob("*.safetensors")) <= 8_000_000
    known = set(Model.load().vocabulary.pieces)
    spoken = Vocabulary.of(f"{question.text}\n{question.rationale}" for question in world.questions(3, 3000))
    assert set(spoken.pieces) <= known


def test_the_black_box_is_what_the_demo_needs() -> None:
    found = world.problems(77, 240)
    asked = [Request(problem.text + "\n", n=8, seed=index) for index, problem in enumerate(found)]
    singles, majorities, oracles, slips, wrong = 0.0, 0, 0, 0, 0
    for problem, drawn in zip(found, complete(Model.load(), asked), strict=True):
        numbers = [world.final_number(completion.text) for completion in drawn.completions]
        wanted = problem.answer(problem.house)
        singles += numbers.count(wanted) / 8
        majorities += max(numbers, key=numbers.count) == wanted
        oracles += wanted in numbers
        faults = [world.fault(problem, completion.text) for completion in drawn.completions]
        wrong += sum(fault is not Fault.NONE for fault in faults)
        slips += sum(fault in (Fault.SLIP, Fault.GARBLED, Fault.UNREADABLE) for fault in faults)
    assert 0.30 <= singles / len(found) <= 0.60
    assert oracles / len(found) >= 0.85
    assert abs(majorities - singles) / len(found) <= 0.15
    assert slips / wrong <= 0.10
