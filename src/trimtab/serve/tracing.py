"""One OpenTelemetry span a request, by the HTTP conventions; the spans of its calls are its children.

Only imported where spans are sent somewhere: OpenTelemetry comes with an extra.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from typing import Any

from opentelemetry.trace import SpanKind, StatusCode, TracerProvider, get_tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import Scope

FAILING = 500


class RequestSpans:
    """Makes the spans.

    Args:
        provider: where they go.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = get_tracer("trimtab.serve", metadata.version("trimtab"), tracer_provider=provider)
        self._parents = TraceContextTextMapPropagator()

    @contextmanager
    def around(self, scope: Scope, method: str) -> Iterator[RequestSpan]:
        """The span of one request, a child of the caller's own where its `traceparent` names one."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        parent = self._parents.extract(headers)
        asked = {"http.request.method": method, "url.path": scope["path"], "url.scheme": scope["scheme"]}
        with self._tracer.start_as_current_span(
            method, context=parent, kind=SpanKind.SERVER, attributes=asked
        ) as span:
            yield RequestSpan(span)


class RequestSpan:
    """One request's."""

    def __init__(self, span: Any) -> None:
        self._span = span

    def end(self, method: str, route: str, status: int, said: Mapping[str, Any]) -> None:
        """Says what became of the request."""
        self._span.update_name(f"{method} {route}")
        self._span.set_attribute("http.route", route)
        self._span.set_attribute("http.response.status_code", status)
        self._span.set_attributes({f"trimtab.{name}": value for name, value in said.items()})
        if status >= FAILING:
            self._span.set_attribute("error.type", str(status))
            self._span.set_status(StatusCode.ERROR)
