"""Observers, which are told of every call as it ends: a log line, an OpenTelemetry span, running totals.

Calls are made, and observers told, in `chat` and `batch`. No key comes this way; what was asked and answered
goes into spans alone, and only when that is wanted.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from trimtab.errors import ConfigError, MissingExtraError
from trimtab.types import Call, Completions, Message, Outcome, Prompt, Sampling, Usage

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import TracerProvider as AnyTracerProvider

LOGGER = logging.getLogger("trimtab.calls")
WINDOW_S = 30.0  # how far back the present speed looks: long beside one call, short beside a run


class Observer(Protocol):
    """Who is told of calls. It raises nothing: a call that was paid for is not lost to its log."""

    def ended(
        self, call: Call, prompt: Prompt, completions: Completions | None, sampling: Sampling | None = None
    ) -> None:
        """One HTTP request has ended; without completions, it failed."""
        ...


# --------------------------------------------------------------------------- a log line


class CallLog:
    """One JSON line a call, appended to a file as the call ends, and told to the logger `trimtab.calls`.

    A line is written whole: several processes may share the file, and a killed one leaves no half line.
    When the disk refuses a line, the log ends with a warning and the run goes on.

    Args:
        path: the file, made if missing; without one, there is the logger alone.

    Raises:
        ConfigError: the file cannot be written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._path = path
        self._file = None if path is None else _appending(path)

    def ended(
        self, call: Call, prompt: Prompt, completions: Completions | None, sampling: Sampling | None = None
    ) -> None:
        """Writes the call's line: what it was for, how it went and what it cost."""
        self._write({**_line(call), "question": prompt.question_id})

    def replayed(self, model: str, prompt: Prompt, n: int) -> None:
        """Writes that `n` draws came out of the cache: a line with "cache": "hit", and nothing paid."""
        self._write(
            {
                "time": _iso(time.time()),
                "purpose": str(prompt.purpose),
                "model": model,
                "n": n,
                "cache": "hit",
                "question": prompt.question_id,
            }
        )

    def close(self) -> None:
        """Let go of the file; later calls reach the logger alone."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def __enter__(self) -> CallLog:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _write(self, line: dict[str, Any]) -> None:
        LOGGER.debug("%s", line, extra={"call": line})
        with self._lock:
            if self._file is None:
                return
            try:
                self._file.write(f"{json.dumps(line, ensure_ascii=False)}\n".encode("utf-8", "replace"))
            except OSError as error:
                self._file.close()
                self._file = None
                LOGGER.warning("%s: no more calls are logged here: %s", self._path, error)


def _appending(path: Path) -> Any:
    """The file, unbuffered: each line goes to the system in one write, at the file's end."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab", buffering=0)
    except OSError as error:
        raise ConfigError(f"log: {path} cannot be written: {error.strerror}") from None


def _line(call: Call) -> dict[str, Any]:
    return {
        "time": _iso(call.started_at),
        "id": call.id,
        "purpose": str(call.purpose),
        "model": call.model,
        "endpoint": call.endpoint,
        "status": call.status,
        "outcome": str(call.outcome),
        "seconds": round(call.seconds, 4),
        "input_tokens": call.usage.input_tokens,
        "output_tokens": call.usage.output_tokens,
        "usd": call.usage.usd,
        "attempt": call.attempt,
        "n": call.n,
        "batch": call.is_batch,
        "cache": "miss",
        "request_id": call.request_id,
        "error": call.error or None,
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --------------------------------------------------------------------------- a span

# Names that OpenTelemetry's registry gives to providers, by what their endpoints' hosts end in.
# https://opentelemetry.io/docs/specs/semconv/registry/attributes/gen-ai/
PROVIDERS = {
    "openai.com": "openai",
    "azure.com": "azure.ai.openai",
    "anthropic.com": "anthropic",
    "amazonaws.com": "aws.bedrock",
    "googleapis.com": "gcp.gemini",
    "cohere.ai": "cohere",
    "deepseek.com": "deepseek",
    "groq.com": "groq",
    "mistral.ai": "mistral_ai",
    "perplexity.ai": "perplexity",
    "x.ai": "x_ai",
}
ERROR_STATUS = 400
OTHER = "_OTHER"  # what the conventions say where an error has no name of its own


class Tracer:
    """One OpenTelemetry span a call, by the gen_ai conventions, as a child of the span it is made in.

    Args:
        provider: where spans go; the process's own if left out.
        with_content: prompts and answers in the spans too. Off by default: they may be private, and long.

    Raises:
        MissingExtraError: the extra `otel` is not installed.
    """

    def __init__(self, provider: AnyTracerProvider | None = None, *, with_content: bool = False) -> None:
        self._trace = _opentelemetry("opentelemetry.trace")
        self._with_content = with_content
        self._tracer = self._trace.get_tracer(
            "trimtab", metadata.version("trimtab"), tracer_provider=provider
        )

    def ended(
        self, call: Call, prompt: Prompt, completions: Completions | None, sampling: Sampling | None = None
    ) -> None:
        """Makes the call's span, from when it began to when it ended."""
        attributes = {
            **_asked(call, sampling),
            **_answered(call, completions),
            **(_contents(prompt, completions) if self._with_content else {}),
        }
        span = self._tracer.start_span(
            f"chat {call.model}",
            kind=self._trace.SpanKind.CLIENT,
            attributes={key: value for key, value in attributes.items() if value is not None},
            start_time=_nanoseconds(call.started_at),
        )
        if completions is None:
            span.set_status(self._trace.StatusCode.ERROR, call.error)
        span.end(_nanoseconds(call.started_at + call.seconds))


def provider_to(exporter: str = "otlp") -> TracerProvider:
    """A provider that sends spans to the installed exporter of this name; `shutdown()` flushes it.

    Where to, and with which headers, the exporter reads from OpenTelemetry's own environment variables.

    Raises:
        MissingExtraError: OpenTelemetry's SDK is not installed.
        ConfigError: there is no exporter of this name.
    """
    sdk, export = (
        _opentelemetry("opentelemetry.sdk.trace"),
        _opentelemetry("opentelemetry.sdk.trace.export"),
    )
    exporters = {each.name: each for each in metadata.entry_points(group="opentelemetry_traces_exporter")}
    if exporter not in exporters:
        known = ", ".join(sorted(exporters))
        raise ConfigError(
            f"no OpenTelemetry exporter '{exporter}' is installed (there are: {known}); "
            "otlp comes with: pip install opentelemetry-exporter-otlp"
        )
    resources = _opentelemetry("opentelemetry.sdk.resources")
    ours = resources.Resource({"service.name": "trimtab"}).merge(resources.OTELResourceDetector().detect())
    provider: TracerProvider = sdk.TracerProvider(resource=ours)
    provider.add_span_processor(export.BatchSpanProcessor(exporters[exporter].load()()))
    return provider


def _opentelemetry(module: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError:
        raise MissingExtraError("otel", "tracing") from None


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e6) * 1000  # what a float of seconds since the epoch can hold


def _asked(call: Call, sampling: Sampling | None) -> dict[str, Any]:
    host = urlsplit(call.endpoint)
    asked = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": _provider(host.hostname or ""),
        "gen_ai.request.model": call.model,
        "gen_ai.request.choice.count": call.n if call.n != 1 else None,
        "server.address": host.hostname,
        "server.port": host.port,
        "trimtab.purpose": str(call.purpose),
        "trimtab.attempt": call.attempt,
        "trimtab.is_batch": call.is_batch,
    }
    if sampling is None:
        return asked
    return {
        **asked,
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.seed": sampling.seed,
        "gen_ai.request.stop_sequences": sampling.stop or None,
    }


def _provider(host: str) -> str:
    known = (name for end, name in PROVIDERS.items() if host == end or host.endswith(f".{end}"))
    return next(known, host or "unknown")


def _answered(call: Call, completions: Completions | None) -> dict[str, Any]:
    answered: dict[str, Any] = {
        "gen_ai.usage.input_tokens": call.usage.input_tokens,
        "gen_ai.usage.output_tokens": call.usage.output_tokens,
        "http.response.status_code": call.status,
        "trimtab.outcome": str(call.outcome),
        "trimtab.cost_usd": call.usage.usd,
        "trimtab.request_id": call.request_id,
    }
    if completions is None:
        is_of_status = call.status is not None and call.status >= ERROR_STATUS
        return {**answered, "error.type": str(call.status) if is_of_status else OTHER}
    return {
        **answered,
        "gen_ai.response.model": completions.model,
        "gen_ai.response.finish_reasons": tuple(each.finish for each in completions.completions),
    }


def _contents(prompt: Prompt, completions: Completions | None) -> dict[str, str]:
    given = () if completions is None else completions.completions
    answers = [{**_message(Message("assistant", each.text)), "finish_reason": each.finish} for each in given]
    contents = {"gen_ai.input.messages": [_message(message) for message in prompt.messages]}
    if answers:
        contents["gen_ai.output.messages"] = answers
    return {key: json.dumps(value, ensure_ascii=True) for key, value in contents.items()}


def _message(message: Message) -> dict[str, Any]:
    return {"role": message.role, "parts": [{"type": "text", "content": message.content}]}


# --------------------------------------------------------------------------- running totals


class Counting(Protocol):
    """Who counts the calls under way: the limiter."""

    @property
    def in_flight(self) -> int:
        """Calls under way."""
        ...


class Meter:
    """What the calls so far came to, and how fast they go: what a screen shows while a run goes on.

    Args:
        limiter: who counts the calls under way, if anybody does.
        clock: of the present speed.
        window_s: how far back the present speed looks.
    """

    def __init__(
        self,
        limiter: Counting | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        window_s: float = WINDOW_S,
    ) -> None:
        self._limiter = limiter
        self._clock = clock
        self._window_s = window_s
        self._lock = threading.Lock()  # a screen is drawn by a thread of its own
        self._recent: deque[tuple[float, int]] = deque()  # when calls ended, and their tokens
        self._began_at: float | None = None
        self._usage = Usage()
        self._failed = 0
        self._uncertain = 0
        self._replayed = 0

    def ended(
        self, call: Call, prompt: Prompt, completions: Completions | None, sampling: Sampling | None = None
    ) -> None:
        """Counts the call in."""
        now = self._clock()
        tokens = call.usage.input_tokens + call.usage.output_tokens
        with self._lock:
            if self._began_at is None:
                self._began_at = now - (0.0 if call.is_batch else call.seconds)
            self._usage += call.usage
            self._failed += completions is None
            self._uncertain += call.outcome is Outcome.UNCERTAIN
            self._recent.append((now, 0 if call.is_batch else tokens))  # a batch comes all at one moment
            self._forget(now)

    def replayed(self, model: str, prompt: Prompt, n: int) -> None:
        """Counts `n` draws that came out of the cache."""
        with self._lock:
            self._replayed += n

    @property
    def usage(self) -> Usage:
        """The sum over the calls that ended; its dollars are None once a price was not known."""
        with self._lock:
            return self._usage

    @property
    def failed(self) -> int:
        """Calls that gave no completion, whether another attempt was made or not."""
        return self._failed

    @property
    def uncertain(self) -> int:
        """Calls without a readable answer that may have been billed; they are counted at their worst case."""
        return self._uncertain

    @property
    def cache_hits(self) -> int:
        """Draws found in the cache."""
        return self._replayed

    @property
    def in_flight(self) -> int:
        """Calls under way."""
        return 0 if self._limiter is None else self._limiter.in_flight

    @property
    def tokens_per_s(self) -> float:
        """Tokens in and out a second, over the last half minute or since the first call."""
        now = self._clock()
        with self._lock:
            self._forget(now)
            if self._began_at is None:
                return 0.0
            seconds = min(self._window_s, now - self._began_at)
            return sum(tokens for _, tokens in self._recent) / seconds if seconds > 0 else 0.0

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0][0] < now - self._window_s:
            self._recent.popleft()
