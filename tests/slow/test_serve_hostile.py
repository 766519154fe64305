"""Whatever comes is no server error, and nothing of the inside goes out: bodies, headers, sizes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import UPSTREAM_KEY, parts_of, running, scripted
from trimtab.serve.limits import Caps
from trimtab.types import Completion, Completions, Prompt, Sampling, Usage

pytestmark = pytest.mark.slow

any_text = st.text(st.characters(exclude_categories=[]), max_size=30)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | any_text
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3)
)
parts = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "x"])}, optional={"text": anything}
)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "system", "assistant", "tool", "king"]) | anything},
    optional={"content": any_text | st.lists(parts, max_size=2) | anything, "tool_calls": anything},
)
FIELDS = (
    "n stream seed max_tokens stop temperature trimtab",
    "stream_options tools response_format modalities metadata",
)
names = st.sampled_from(["sums", "sums:fast", "sums@v1", "box", "sums@v99999999999"])
calls = st.fixed_dictionaries(
    {"model": names | anything, "messages": st.lists(messages, max_size=3) | anything},
    optional=dict.fromkeys(" ".join(FIELDS).split(), anything),
)
PATHS = [
    "/v1/chat/completions",
    "/v1/score",
    "/v1/rerank",
    "/v1/classify",
    "/v1/models",
    "/nothing",
    "/metrics",
]
INSIDE = (UPSTREAM_KEY, "Traceback", "/src/trimtab", "127.0.0.1:1/")


def written(document: object) -> bytes:
    return json.dumps(document, ensure_ascii=True).encode()  # NaN and Infinity are written as they are


def check(response) -> None:
    assert response.status_code < 500 or response.status_code == 502, response.text
    assert not any(secret in response.text for secret in INSIDE)
    if response.status_code >= 400:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]


@given(call=calls)
async def test_no_call_is_a_server_error(call):
    async with running(parts_of(url="http://127.0.0.1:1/v1")) as server:
        response = await server.http.post("/v1/chat/completions", content=written(call))
        check(response)


@given(
    path=st.sampled_from(PATHS),
    method=st.sampled_from(["POST", "GET", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"]),
    body=st.binary(max_size=60) | anything.map(written),
    headers=st.dictionaries(
        st.sampled_from(
            ["authorization", "x-api-key", "origin", "x-request-id", "content-type", "host", "accept"]
        ),
        st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40).map(str.strip),
        max_size=4,
    ),
)
async def test_no_body_header_or_method_is_a_server_error(path, method, body, headers):
    async with running(parts_of()) as server:
        raw = {name: value.encode("latin-1") for name, value in headers.items()}
        check(await server.http.request(method, path, content=body, headers=raw))


@pytest.mark.parametrize(
    "body",
    [b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b"", b"null", b'{"n": ' + b"9" * 10_000 + b"}",
     b'{"seed": 1e999}',
     b'"\\ud800"', b'{"model": "\\ud800", "messages": [{"role": "user", "content": "\\ud800"}]}'],
)  # fmt: skip
@pytest.mark.parametrize("path", PATHS[:4])
async def test_bodies_made_to_hurt_a_reader_are_refused(path, body):
    async with running(parts_of()) as server:
        response = await server.http.post(path, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    check(response)


@pytest.mark.parametrize("path", PATHS[:4])
@pytest.mark.parametrize("said", [True, False])
async def test_a_body_that_is_too_long_is_cut_off_whatever_it_says_of_its_length(path, said):
    async def pieces():
        for _ in range(20):
            yield b" " * 1000

    async with running(parts_of(caps=Caps(body_bytes=10_000))) as server:
        content = b" " * 20_000 if said else pieces()
        response = await server.http.post(path, content=content, headers={"content-type": "application/json"})
    assert response.status_code == 413
    check(response)


class Odd:
    """A black box that says what no text should hold."""

    name = "box"

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        texts = ["half a pair \ud83d and a NUL \0", "data: [DONE]\n\n", "The answer is 2."]
        return Completions(tuple(map(Completion, texts)), Usage(1, 1, 1), "box")


@pytest.mark.parametrize("stream", [True, False])
async def test_texts_that_no_wire_takes_are_sent_all_the_same(stream):
    async with running(parts_of(Odd())) as server:
        response = await server.chat(stream=stream, n=3)
    assert response.status_code == 200
    assert response.text.isascii()


async def test_an_error_that_nobody_foresaw_is_told_without_a_word_of_it():
    class Broken:
        name = "box"

        async def complete(self, prompt, sampling):
            raise KeyError(UPSTREAM_KEY)

    async with running(parts_of(Broken())) as server:
        response = await server.chat()
    assert response.status_code == 500
    assert response.headers["x-request-id"] in response.text
    assert "KeyError" not in response.text
    assert UPSTREAM_KEY not in response.text


async def test_a_request_keeps_a_name_of_its_own_that_is_fit_for_a_log():
    async with running(parts_of(scripted())) as server:
        good = await server.http.get("/health", headers={"x-request-id": "abc-1.2_3"})
        bad = await server.http.get("/health", headers={"x-request-id": '"},{"x": "'})
    assert good.headers["x-request-id"] == "abc-1.2_3"
    assert bad.headers["x-request-id"].isalnum()
