"""The official OpenAI client and LiteLLM as peers: of our server, and under our client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import openai
import pytest

from trimtab.errors import EndpointError, RefusedError
from trimtab.llm import ChatLLM
from trimtab.llm.capabilities import capabilities_of
from trimtab.llm.embedded import running
from trimtab.types import Message, Outcome, Prompt, Sampling

pytestmark = [
    pytest.mark.slow,
    # LiteLLM's own models and modules.
    pytest.mark.filterwarnings("ignore:Item .* on TypedDict class:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

MODEL = "trimtab-blackbox"
KEY = "sk-peer-secret-0123456789"
ASKED = "Tom buys 3 pens for 4 dollars each. How much does he pay?"
PROMPT = Prompt((Message("user", ASKED),))
SAMPLING = Sampling(n=3, temperature=1.0, max_tokens=40, seed=5)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(api_key=KEY) as base_url:
        yield base_url


def texts_of_ours(url: str, **options: Any) -> list[str]:
    llm = ChatLLM(MODEL, base_url=url, api_key=KEY, **options)
    reply = asyncio.run(llm.complete(PROMPT, SAMPLING))
    return [completion.text for completion in reply.completions]


def test_the_official_client_is_told_what_ours_is(url):
    client = openai.OpenAI(base_url=url, api_key=KEY, max_retries=0)
    with client:
        reply = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": ASKED}],
            n=3,
            temperature=1.0,
            max_tokens=40,
            seed=5,
        )
    assert [choice.message.content for choice in reply.choices] == texts_of_ours(url)
    assert reply.usage is not None
    assert reply.usage.completion_tokens > 0


@pytest.fixture
def litellm() -> Any:
    if find_spec("litellm") is None:  # looked for, not imported: imported bare it asks the network
        pytest.skip("the extra litellm is not installed")
    from trimtab.llm.litellm_sdk import LiteLLMTransport

    return LiteLLMTransport


def test_through_litellm_the_same_is_said_and_charged(url, litellm):
    row = capabilities_of(MODEL)
    box = ChatLLM(f"openai/{MODEL}", transport=litellm(url, api_key=KEY), capabilities=row)
    reply = asyncio.run(box.complete(PROMPT, SAMPLING))
    assert [completion.text for completion in reply.completions] == texts_of_ours(url)
    assert [call.outcome for call in reply.calls] == [Outcome.PAID]
    assert reply.usage.output_tokens > 0


def test_a_wrong_key_and_an_endpoint_that_is_down_are_our_errors_through_litellm_too(url, litellm):
    wrong = ChatLLM(f"openai/{MODEL}", transport=litellm(url, api_key="sk-wrong-key-987654"))
    with pytest.raises(RefusedError) as refused:
        asyncio.run(wrong.complete(PROMPT, SAMPLING))
    assert refused.value.status == 401
    assert "sk-wrong" not in str(refused.value)
    down = ChatLLM(f"openai/{MODEL}", transport=litellm("http://127.0.0.1:9/v1", api_key=KEY), attempts=1)
    with pytest.raises(EndpointError):
        asyncio.run(down.complete(PROMPT, SAMPLING))
