"""Laws of chat completions: what is adapted, what is passed on, and how either is sent."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from loopback import said
from serving import (
    LINES,
    QUESTION,
    UPSTREAM_KEY,
    ByLength,
    load,
    parts_of,
    running,
    scripted,
    told,
    versioned,
)
from trimtab.drawing import answer_question
from trimtab.errors import EndpointError, RefusedError
from trimtab.llm import ScriptedLLM
from trimtab.llm.observed import Tracer
from trimtab.serve.adapters import Registry
from trimtab.serve.metrics import shares_between, stability_index
from trimtab.serve.streaming import once_there
from trimtab.types import Question

pytestmark = pytest.mark.slow


async def test_an_adapted_answer_is_the_one_that_answer_question_gives():
    served = load("sums", 1, None)
    wanted = await answer_question(
        Question("q", QUESTION), scripted(), served.task, served.rule, served.how, scorer=ByLength(),
        calibrate=served.calibrate,
    )  # fmt: skip
    async with running(parts_of()) as server:
        found = (await server.chat(trimtab={"question_id": "q"})).json()
    assert found["choices"][0]["message"]["content"] == wanted.text == LINES[0]
    own = found["trimtab"]
    assert (own["answer"], own["confidence"], own["score"]) == (
        wanted.answer,
        wanted.confidence,
        wanted.score,
    )
    assert own["candidates"] == 4
    assert found["usage"] == {
        "prompt_tokens": wanted.usage.input_tokens,
        "completion_tokens": wanted.usage.output_tokens,
        "total_tokens": wanted.usage.input_tokens + wanted.usage.output_tokens,
    }


async def test_the_question_id_and_the_seed_choose_the_draws():
    box = scripted()
    async with running(parts_of(box)) as server:
        for own in ({"question_id": "a"}, {"question_id": "a"}, {"question_id": "b"}):
            await server.chat(seed=5, trimtab=own)
    asked = [prompt.question_id for prompt in box.prompts]
    assert asked == ["a", "a", "b"]


async def test_n_gives_the_chosen_answer_and_then_the_next_best_by_score():
    async with running(parts_of()) as server:
        choices = (await server.chat(n=3)).json()["choices"]
    assert [each["message"]["content"] for each in choices] == [LINES[0], LINES[2], LINES[1]]
    assert [each["index"] for each in choices] == [0, 1, 2]


async def test_more_answers_than_are_drawn_are_drawn():
    async with running(parts_of()) as server:
        found = (await server.chat(n=6)).json()
    assert len(found["choices"]) == found["trimtab"]["candidates"] == 6


async def test_what_was_said_before_goes_ahead_of_the_tasks_own_prompt():
    box = scripted()
    earlier = [
        {"role": "developer", "content": "be kind"},
        {"role": "assistant", "content": [{"type": "text", "text": "ok"}]},
    ]
    async with running(parts_of(box)) as server:
        await server.chat(messages=[*earlier, {"role": "user", "content": QUESTION}])
    first, second, *own = box.prompts[0].messages
    assert (first.role, first.content, second.role, second.content) == (
        "system",
        "be kind",
        "assistant",
        "ok",
    )
    assert QUESTION in own[-1].content


async def test_an_answer_ends_before_the_clients_stop():
    async with running(parts_of()) as server:
        found = (await server.chat(stop="\nThe")).json()
    assert found["choices"][0]["message"]["content"] == "It is 1 + 1 = 2."
    assert found["trimtab"]["answer"] == "2"


async def test_what_is_not_heeded_is_said():
    async with running(parts_of()) as server:
        found = (await server.chat(temperature=0.0, top_p=0.5)).json()
    assert found["trimtab"]["ignored"] == ["temperature", "top_p"]


async def test_a_stream_is_the_answer_in_pieces_with_comments_before_and_what_it_cost_at_the_end():
    async with running(parts_of()) as server:
        whole = (await server.chat()).json()
        body = (await server.chat(stream=True, stream_options={"include_usage": True})).text
    assert body.startswith(": ")
    *chunks, usage, end = told(body)
    assert end == "[DONE]"
    assert "".join(each["choices"][0]["delta"].get("content", "") for each in chunks) == LINES[0]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert usage["usage"] == whole["usage"]
    assert usage["choices"] == []


async def test_a_stream_without_the_option_says_nothing_of_usage():
    async with running(parts_of()) as server:
        documents = told((await server.chat(stream=True, n=2)).text)
    assert all("usage" not in each for each in documents[:-1])
    assert {each["choices"][0]["index"] for each in documents[:-1]} == {0, 1}


async def test_comments_come_for_as_long_as_the_work_goes_on():
    async def slow() -> str:
        await asyncio.sleep(0.05)
        return "there"

    pieces = [piece async for piece in once_there(slow(), lambda word: [word.encode()], every_s=0.01)]
    assert pieces[-1] == b"there"
    assert len(pieces) > 3
    assert all(piece.startswith(b": ") for piece in pieces[:-1])


async def test_an_error_while_streaming_is_the_last_event():
    failing = ScriptedLLM([], failures={1: EndpointError("http://inside/v1 did not answer within 1 s")})
    async with running(parts_of(failing)) as server:
        response = await server.chat(stream=True)
    assert response.status_code == 200
    (only,) = told(response.text)
    assert only["error"]["code"] == "upstream_timeout"
    assert "inside" not in response.text


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (EndpointError("http://inside down"), 502),
        (EndpointError("busy", status=429), 429),
        (RefusedError("wrong key sk-inside", status=401), 502),
        (RefusedError("too long", status=400), 400),
    ],
)
async def test_a_failing_black_box_is_told_by_its_status_and_by_nothing_else(error, status):
    async with running(parts_of(ScriptedLLM([], failures={1: error}))) as server:
        response = await server.chat()
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert "inside" not in response.text
    assert (response.headers.get("retry-after") is not None) == (status == 429)


@pytest.mark.parametrize(
    "extra",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"response_format": {"type": "json_object"}},
        {"logprobs": True},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "begun"}]},
    ],
)
async def test_what_an_adapter_can_make_nothing_of_is_passed_on_and_said_so(serve, extra):
    box = serve(said("hello"))
    async with running(parts_of(url=box.url)) as server:
        response = await server.chat(**extra)
    assert response.headers["x-trimtab-adapted"] == "false"
    assert response.headers["x-trimtab-reason"]
    assert response.json()["choices"][0]["message"]["content"] == "hello"
    sent = box.bodies[0]
    assert sent["model"] == "box"
    assert {key: sent[key] for key in extra} == extra


async def test_the_black_boxs_own_name_passes_everything_through_and_keeps_it(serve):
    box = serve(said("hello", tokens=(7, 3)))
    async with running(parts_of(url=box.url, run_id="of its own")) as server:
        response = await server.chat(model="box", temperature=0.3, trimtab={"question_id": "x"}, custom=[1])
        kept = server.parts.store.inference(response.json()["trimtab"]["inference_id"])
        paid = server.parts.store.usage_of("of its own")
    assert kept is not None
    assert (kept.adapter, kept.text, kept.usage.input_tokens, kept.usage.output_tokens) == ("", "hello", 7, 3)
    assert (paid.calls, paid.input_tokens) == (1, 7)
    assert box.bodies[0]["custom"] == [1]
    assert "trimtab" not in box.bodies[0]
    assert box.keys == [f"Bearer {UPSTREAM_KEY}"]


STREAM = "".join(
    f"data: {json.dumps(each)}\n\n"
    for each in (
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "he"}}]},
        {"choices": [{"index": 0, "delta": {"content": "llo"}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 2}},
    )
)


@pytest.mark.parametrize("counted", [True, False])
async def test_a_stream_passed_on_keeps_its_deltas_and_tells_usage_to_who_asked(serve, counted):
    box = serve(lambda body: (200, {"content-type": "text/event-stream"}, f"{STREAM}data: [DONE]\n\n"))
    async with running(parts_of(url=box.url)) as server:
        asked = {"stream_options": {"include_usage": True}} if counted else {}
        response = await server.chat(model="box", stream=True, **asked)
        kept = server.parts.store.inference(response.headers["x-trimtab-inference-id"])
    *chunks, end = told(response.text)
    assert end == "[DONE]"
    assert len(chunks) == (3 if counted else 2)
    assert kept is not None
    assert (kept.text, kept.usage.input_tokens, kept.usage.output_tokens) == ("hello", 4, 2)
    assert box.bodies[0]["stream_options"] == {"include_usage": True}


async def test_a_stream_that_breaks_off_is_charged_at_its_worst_and_told(serve):
    box = serve(lambda body: (200, {}, STREAM.partition('data: {"choices": []')[0] + "data: {broken\n\n"))
    async with running(parts_of(url=box.url)) as server:
        response = await server.chat(model="box", stream=True, max_tokens=50)
    assert told(response.text)[-1]["error"]["code"] == "upstream_failed"


async def test_what_the_endpoint_refuses_is_told_in_its_words_and_without_its_key(serve):
    words = f"max_tokens is too large for {UPSTREAM_KEY}"
    box = serve(lambda body: (400, {}, json.dumps({"error": {"message": words}})))
    async with running(parts_of(url=box.url)) as server:
        response = await server.chat(model="box")
    assert response.status_code == 400
    assert "max_tokens is too large" in response.text
    assert UPSTREAM_KEY not in response.text


@pytest.mark.parametrize("reply", [(401, {}, "bad key"), (500, {}, "trace"), (200, {}, "{}"), (200, {}, "[")])
async def test_an_endpoint_that_does_not_answer_as_it_should_is_a_502(serve, reply):
    box = serve(lambda body: reply)
    async with running(parts_of(url=box.url)) as server:
        response = await server.chat(model="box")
    assert response.status_code == 502


async def test_every_adapted_answer_is_kept_with_its_candidates_before_it_is_sent():
    async with running(parts_of()) as server:
        answered = [
            (await server.chat(stream=stream)).headers["x-trimtab-inference-id"] for stream in (True, False)
        ]
        kept = [server.parts.store.inference(each) for each in answered]
    for each in kept:
        assert each is not None
        assert [candidate.text for candidate in each.candidates] == list(LINES)
        assert (each.adapter, each.version, each.chosen, each.task) == ("sums", 1, 0, "numeric")


async def test_a_version_is_named_and_a_canary_gets_its_share():
    loaded = Registry(
        {"sums": None}, load, versioned((1, "serving", 1), (2, "canary", 0.3), (3, "retired", 0))
    )
    assert (await loaded.find("sums", 0.31)).version == 1
    assert (await loaded.find("sums", 0.29)).version == 2
    assert (await loaded.find("sums@v3", 0.0)).version == 3
    assert (await loaded.find("sums@v3:fast", 0.0)).how.wave == 2
    for unknown in ("sums@v4", "sums@3", "sums:slow", "other", "sums@v1@v1", ""):
        assert await loaded.find(unknown, 0.5) is None


async def test_a_promotion_is_noticed_within_seconds():
    now, rows = [0.0], [(1, "serving", 1.0)]
    registry = Registry({"sums": None}, load, lambda name: versioned(*rows)(name), clock=lambda: now[0])
    assert (await registry.find("sums", 0.5)).version == 1
    rows[:] = [(1, "retired", 1.0), (2, "serving", 1.0)]
    now[0] = 3.0
    assert (await registry.find("sums", 0.5)).version == 2


async def test_the_fast_form_draws_no_more_once_it_is_sure():
    agreed = ScriptedLLM(lambda prompt, number: LINES[0])
    async with running(parts_of(agreed)) as server:
        fast = (await server.chat(model="sums:fast")).json()
        whole = (await server.chat()).json()
    assert fast["trimtab"]["candidates"] < whole["trimtab"]["candidates"] == 4
    assert fast["choices"][0]["message"] == whole["choices"][0]["message"]


async def test_models_are_adapters_their_forms_and_the_black_box():
    async with running(parts_of()) as server:
        listed = [each["id"] for each in (await server.http.get("/v1/models")).json()["data"]]
        one = await server.http.get("/v1/models/sums@v1")
        none = await server.http.get("/v1/models/nothing")
    assert listed == ["sums", "sums:fast", "sums@v1", "sorter", "box"]
    assert one.json()["id"] == "sums@v1"
    assert none.status_code == 404


async def test_scores_and_ranks_are_the_scorers():
    async with running(parts_of()) as server:
        texts = ["long answer", "short", "the longest answer"]
        scored = await server.http.post("/v1/score", json={"model": "sums", "text_1": "q", "text_2": texts})
        body = {"model": "sums", "query": "q", "documents": [texts[0], {"text": texts[2]}], "top_n": 1}
        ranked = await server.http.post("/v1/rerank", json={**body, "return_documents": True})
        kept = server.parts.store.inference(ranked.json()["trimtab"]["inference_id"])
    assert [each["score"] for each in scored.json()["data"]] == [1.1, 0.5, 1.8]
    (best,) = ranked.json()["results"]
    assert (best["index"], best["document"]["text"]) == (1, texts[2])
    assert 0 <= best["relevance_score"] <= 1
    assert kept is not None
    assert kept.text == texts[2]


async def test_texts_and_pairs_are_classified_and_each_is_remembered():
    async with running(parts_of()) as server:
        found = (await server.http.post("/v1/classify", json={"input": ["good day", ["a", "b"]]})).json()
        kept = server.parts.store.inference(found["data"][0]["inference_id"])
    assert [(each["label"], each["num_classes"]) for each in found["data"]] == [("good", 2), ("bad", 2)]
    assert kept is not None
    assert (kept.question, kept.text, kept.confidence) == ("good day", "good", 0.9)


async def test_metrics_count_what_was_answered_and_how_far_confidence_has_moved():
    async with running(parts_of()) as server:
        await server.chat()
        figures = (await server.http.get("/metrics")).text
    assert 'trimtab_answers_total{adapter="sums@v1",status="answered"} 1.0' in figures
    assert 'trimtab_score_count{adapter="sums@v1"} 4.0' in figures
    drift = next(line for line in figures.splitlines() if line.startswith("trimtab_confidence_drift{"))
    assert float(drift.split()[-1]) == pytest.approx(0.005 * (0.5 - 0.25))
    assert "trimtab_score_psi{" not in figures  # nobody knows the scores that are usual


async def test_metrics_say_how_far_the_shares_of_scores_have_moved():
    def known(name, version, folder):
        return replace(load(name, version, folder), score_deciles=tuple(tenth / 2 for tenth in range(1, 10)))

    registry = Registry({"sums": Path("sums")}, known)
    async with running(parts_of(registry=registry)) as server:
        await server.chat()
        figures = (await server.http.get("/metrics")).text
    shares = [0.1 * (1 - 0.005) + 0.005 * count / 4 for count in (0, 1, 1, 1, 0, 0, 1, 0, 0, 0)]
    wanted = sum((share - 0.1) * math.log(share / 0.1) for share in shares)
    index = next(line for line in figures.splitlines() if line.startswith("trimtab_score_psi{"))
    assert float(index.split()[-1]) == pytest.approx(wanted)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12).filter(any))
def test_the_index_is_nothing_where_nothing_has_moved_and_never_less(weights):
    shares = [weight / sum(weights) for weight in weights]
    assert stability_index([1 / len(shares)] * len(shares)) == pytest.approx(0)
    assert stability_index(shares) >= 0


@given(st.lists(st.floats(-9, 9), min_size=1), st.lists(st.floats(-9, 9), max_size=9))
def test_every_score_is_in_one_part(values, bounds):
    shares = shares_between(sorted(bounds), values)
    assert len(shares) == len(bounds) + 1
    assert sum(shares) == pytest.approx(1)


async def test_a_request_is_a_span_its_calls_are_the_children_and_the_callers_span_the_parent(serve):
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    parts = parts_of(url=serve(said("hello")).url, spans=provider)
    upstream = replace(parts.upstream, observers=[Tracer(provider)])
    parent = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
    call = {"model": "box", "messages": [{"role": "user", "content": QUESTION}]}
    async with running(replace(parts, upstream=upstream)) as server:
        response = await server.http.post("/v1/chat/completions", json=call, headers={"traceparent": parent})
    inner, outer = exporter.get_finished_spans()
    assert (inner.name, outer.name) == ("chat box", "POST /v1/chat/completions")
    assert inner.parent.span_id == outer.context.span_id
    assert f"{outer.context.trace_id:032x}-{outer.parent.span_id:016x}" in parent
    told = {"http.response.status_code": 200, "trimtab.request_id": response.headers["x-request-id"]}
    assert told.items() <= outer.attributes.items()
    assert QUESTION not in str(dict(outer.attributes))
