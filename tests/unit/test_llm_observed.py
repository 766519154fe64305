"""Laws of the observers: the log line, the span and the running totals of a call."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from trimtab.errors import ConfigError, MissingExtraError
from trimtab.llm.observed import CallLog, Meter, Tracer, provider_to
from trimtab.types import (
    Call,
    Completion,
    Completions,
    Message,
    Outcome,
    Prompt,
    Purpose,
    Sampling,
    Usage,
)

PROMPT = Prompt((Message("system", "Be brief."), Message("user", "What is 2+3?")), "q1")
ANSWER = Completions((Completion("5"), Completion("It is 5", "length")), Usage(), "gpt-4o-mini-2024")
SAMPLING = Sampling(n=2, temperature=0.7, max_tokens=64, stop=("\n",), seed=11)


def call(**changed) -> Call:
    usual = {
        "id": "c1",
        "purpose": Purpose.SAMPLING,
        "model": "gpt-4o-mini",
        "endpoint": "https://api.openai.com/v1",
        "payer": "OPENAI_API_KEY",
        "outcome": Outcome.PAID,
        "usage": Usage(120, 30, 1, 0.0006),
        "seconds": 1.25,
        "started_at": 1_700_000_000.0,
        "n": 2,
        "status": 200,
        "request_id": "req-7",
    }
    return Call(**{**usual, **changed})


REFUSED = call(
    id="c2", outcome=Outcome.UNPAID, usage=Usage(), status=429, error="answered 429: slow down", attempt=1
)
TIMED_OUT = call(
    id="c3", outcome=Outcome.UNCERTAIN, status=None, request_id=None, error="did not answer within 60 s"
)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


# --------------------------------------------------------------------------- the log


def test_a_call_is_one_line_that_says_what_it_was_for_how_it_went_and_what_it_cost(tmp_path):
    with CallLog(tmp_path / "deep" / "calls.jsonl") as log:
        log.ended(call(), PROMPT, ANSWER)
        log.ended(REFUSED, PROMPT, None)
    paid, refused = lines(tmp_path / "deep" / "calls.jsonl")
    assert paid == {
        "time": "2023-11-14T22:13:20.000Z",
        "id": "c1",
        "purpose": "sampling",
        "model": "gpt-4o-mini",
        "endpoint": "https://api.openai.com/v1",
        "status": 200,
        "outcome": "paid",
        "seconds": 1.25,
        "input_tokens": 120,
        "output_tokens": 30,
        "usd": 0.0006,
        "attempt": 0,
        "n": 2,
        "batch": False,
        "cache": "miss",
        "request_id": "req-7",
        "error": None,
        "question": "q1",
    }
    assert (refused["status"], refused["outcome"], refused["attempt"]) == (429, "unpaid", 1)
    assert refused["error"] == "answered 429: slow down"


def test_nothing_asked_or_answered_stands_in_the_log(tmp_path):
    with CallLog(tmp_path / "calls.jsonl") as log:
        log.ended(call(), PROMPT, ANSWER, SAMPLING)
        log.replayed("gpt-4o-mini", PROMPT, 3)
    written = (tmp_path / "calls.jsonl").read_text("utf-8")
    for secret in ("Be brief", "2+3", "It is 5"):
        assert secret not in written


def test_a_line_is_in_the_file_before_the_log_is_closed(tmp_path):
    log = CallLog(tmp_path / "calls.jsonl")
    log.ended(call(), PROMPT, ANSWER)
    assert len(lines(tmp_path / "calls.jsonl")) == 1
    log.close()


def test_a_second_run_writes_below_the_first(tmp_path):
    for name in ("first", "second"):
        with CallLog(tmp_path / "calls.jsonl") as log:
            log.ended(call(id=name), PROMPT, ANSWER)
    assert [line["id"] for line in lines(tmp_path / "calls.jsonl")] == ["first", "second"]


def test_draws_from_the_cache_are_a_line_that_cost_nothing(tmp_path):
    with CallLog(tmp_path / "calls.jsonl") as log:
        log.replayed("gpt-4o-mini", PROMPT, 5)
    (line,) = lines(tmp_path / "calls.jsonl")
    assert (line["cache"], line["n"], line["purpose"], line["question"]) == ("hit", 5, "sampling", "q1")
    assert "usd" not in line


@given(error=st.text(max_size=60), model=st.text(max_size=20))
def test_whatever_a_server_says_stays_one_line_of_json(tmp_path_factory, error, model):
    path = tmp_path_factory.mktemp("log") / "calls.jsonl"
    with CallLog(path) as log:
        log.ended(call(error=error, model=model), PROMPT, None)
    written = path.read_bytes()
    assert written.count(b"\n") == 1
    assert json.loads(written)["model"] == model.encode("utf-8", "replace").decode()


def test_the_logger_hears_of_every_call_without_a_file(caplog):
    with caplog.at_level(logging.DEBUG, "trimtab.calls"):
        CallLog().ended(call(), PROMPT, ANSWER)
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG
    assert record.call["usd"] == 0.0006


def test_a_log_that_cannot_be_written_is_refused_before_the_run(tmp_path):
    with pytest.raises(ConfigError, match=r"log: .* cannot be written"):
        CallLog(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_ends_the_log_with_a_warning_and_not_the_run(caplog):
    log = CallLog(Path("/dev/full"))
    for _ in range(3):
        log.ended(call(), PROMPT, ANSWER)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "/dev/full" in warnings[0].getMessage()


# --------------------------------------------------------------------------- the span


@pytest.fixture
def spans():
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider, exporter
    provider.shutdown()


def test_a_call_is_a_client_span_by_the_gen_ai_conventions(spans):
    provider, exporter = spans
    Tracer(provider).ended(call(), PROMPT, ANSWER, SAMPLING)
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.kind) == ("chat gpt-4o-mini", SpanKind.CLIENT)
    assert (span.start_time, span.end_time) == (1_700_000_000_000_000_000, 1_700_000_001_250_000_000)
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.max_tokens": 64,
        "gen_ai.request.temperature": 0.7,
        "gen_ai.request.seed": 11,
        "gen_ai.request.stop_sequences": ("\n",),
        "gen_ai.response.model": "gpt-4o-mini-2024",
        "gen_ai.response.finish_reasons": ("stop", "length"),
        "gen_ai.usage.input_tokens": 120,
        "gen_ai.usage.output_tokens": 30,
        "server.address": "api.openai.com",
        "http.response.status_code": 200,
        "trimtab.purpose": "sampling",
        "trimtab.outcome": "paid",
        "trimtab.attempt": 0,
        "trimtab.is_batch": False,
        "trimtab.cost_usd": 0.0006,
        "trimtab.request_id": "req-7",
    }


@pytest.mark.parametrize(("failed", "kind"), [(REFUSED, "429"), (TIMED_OUT, "_OTHER")])
def test_a_failed_call_is_a_span_in_error_with_its_kind(spans, failed, kind):
    provider, exporter = spans
    Tracer(provider).ended(failed, PROMPT, None)
    (span,) = exporter.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == failed.error
    assert span.attributes["error.type"] == kind


def test_a_span_holds_what_was_said_only_when_asked_to(spans):
    provider, exporter = spans
    Tracer(provider).ended(call(), PROMPT, ANSWER)
    Tracer(provider, with_content=True).ended(call(), PROMPT, ANSWER)
    plain, full = (span.attributes for span in exporter.get_finished_spans())
    assert not any("2+3" in str(value) or "It is 5" in str(value) for value in plain.values())
    assert json.loads(full["gen_ai.input.messages"])[1] == {
        "role": "user",
        "parts": [{"type": "text", "content": "What is 2+3?"}],
    }
    assert json.loads(full["gen_ai.output.messages"])[1]["finish_reason"] == "length"


def test_a_span_hangs_on_the_one_it_is_made_in(spans):
    provider, exporter = spans
    with provider.get_tracer("user").start_as_current_span("a question") as outer:
        Tracer(provider).ended(call(), PROMPT, ANSWER)
    inner = next(span for span in exporter.get_finished_spans() if span.name.startswith("chat"))
    assert inner.parent.span_id == outer.get_span_context().span_id


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://mine.openai.azure.com/openai", "azure.ai.openai"),
        ("https://generativelanguage.googleapis.com/v1beta/openai", "gcp.gemini"),
        ("https://notopenai.com/v1", "notopenai.com"),
        ("http://127.0.0.1:8000/v1", "127.0.0.1"),
        ("", "unknown"),
    ],
)
def test_the_provider_is_named_as_the_registry_names_it_else_by_its_host(spans, endpoint, name):
    provider, exporter = spans
    Tracer(provider).ended(call(endpoint=endpoint), PROMPT, ANSWER)
    (span,) = exporter.get_finished_spans()
    assert span.attributes["gen_ai.provider.name"] == name


def test_tracing_without_the_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    with pytest.raises(MissingExtraError, match=r"trimtab\[otel\]"):
        Tracer()


SPAN_TO_STDOUT = """
from trimtab.llm.observed import provider_to
provider = provider_to("console")
provider.get_tracer("a").start_span("chat gpt-4o-mini").end()
provider.shutdown()
"""


@pytest.mark.parametrize(
    ("environment", "service"), [({}, "trimtab"), ({"OTEL_SERVICE_NAME": "mine"}, "mine")]
)
def test_spans_go_to_the_exporter_that_is_named_under_our_name_or_the_users(environment, service):
    done = subprocess.run(
        [sys.executable, "-c", SPAN_TO_STDOUT],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=True,
    )
    span = json.loads(done.stdout)
    assert span["name"] == "chat gpt-4o-mini"
    assert span["resource"]["attributes"]["service.name"] == service


def test_an_exporter_that_is_not_installed_is_refused_with_those_that_are():
    with pytest.raises(ConfigError, match=r"there are: .*console"):
        provider_to("nowhere")


# --------------------------------------------------------------------------- totals


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_meter_adds_up_what_the_ledger_would():
    meter = Meter()
    calls = [call(), REFUSED, TIMED_OUT, call(is_batch=True)]
    for each in calls:
        meter.ended(each, PROMPT, None if each.error else ANSWER)
    assert meter.usage == sum((each.usage for each in calls), Usage())
    assert (meter.usage.calls, meter.failed, meter.uncertain) == (3, 2, 1)


def test_one_unknown_price_makes_the_sum_unknown():
    meter = Meter()
    meter.ended(call(), PROMPT, ANSWER)
    meter.ended(call(usage=Usage(5, 5, 1, None)), PROMPT, ANSWER)
    assert meter.usage.usd is None


def test_speed_is_of_the_last_half_minute_alone():
    clock = Clock()
    meter = Meter(clock=clock)
    assert meter.tokens_per_s == 0
    meter.ended(call(seconds=10), PROMPT, ANSWER)  # 150 tokens in the 10 s it took
    assert meter.tokens_per_s == pytest.approx(15)
    clock.now += 10
    meter.ended(call(seconds=10), PROMPT, ANSWER)
    assert meter.tokens_per_s == pytest.approx(300 / 20)
    clock.now += 25
    assert meter.tokens_per_s == pytest.approx(150 / 30)
    clock.now += 10
    assert meter.tokens_per_s == 0


def test_a_batch_does_not_pass_for_speed():
    meter = Meter(clock=Clock())
    for _ in range(50):
        meter.ended(call(is_batch=True, seconds=7200), PROMPT, ANSWER)
    assert meter.tokens_per_s == 0
    assert meter.usage.calls == 50


def test_calls_in_flight_are_the_limiters_to_count():
    class Three:
        in_flight = 3

    assert Meter(Three()).in_flight == 3
    assert Meter().in_flight == 0


def test_draws_from_the_cache_are_counted_apart():
    meter = Meter()
    meter.replayed("gpt-4o-mini", PROMPT, 8)
    meter.replayed("gpt-4o-mini", PROMPT, 2)
    assert meter.cache_hits == 10
    assert meter.usage == Usage()
