"""The server's edge, as plain ASGI: a name for each request, its size, its log line, the last error handler.

What a request holds (a place, a part of a budget) is let go of here, once its last byte is sent.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from contextlib import AsyncExitStack, nullcontext
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trimtab.serve.errors import ApiError
from trimtab.serve.metrics import Metrics

if TYPE_CHECKING:
    from trimtab.serve.tracing import RequestSpan, RequestSpans

LOGGER = logging.getLogger("trimtab.serve")
NAMED = re.compile(r"[A-Za-z0-9._-]{1,64}")
NO_PLACE = "unmatched"
BODY_S = 30.0  # the longest wait for the next piece of a body
SAID = ("key_id", "model", "inference_id")  # by routes, of their request
METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})


class Edge:
    """Wraps the application.

    Args:
        app: what is inside.
        metrics: told of every request.
        body_bytes: the longest body.
        spans: makes a span of every request, where they are sent somewhere.
    """

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, body_bytes: int, spans: RequestSpans | None = None
    ) -> None:
        self._app, self._metrics, self._body_bytes, self._spans = app, metrics, body_bytes, spans

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the application's start and end."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request = _Request(scope, receive, send, self._body_bytes)
        with nullcontext() if self._spans is None else self._spans.around(scope, request.method) as span:
            try:
                await self._answered(request)
            finally:
                self._told(request, span)
        return None

    async def _answered(self, request: _Request) -> None:
        async with AsyncExitStack() as held:
            request.state["held"] = held
            try:
                request.refuse_too_long()
                await self._app(request.scope, request.receive, request.send)
            except ApiError as refused:
                await request.end(refused)
            except Exception:
                LOGGER.exception("a request failed", extra={"fields": {"request_id": request.id}})
                await request.end(
                    ApiError(500, f"something went wrong here; request {request.id}", code="internal")
                )

    def _told(self, request: _Request, span: RequestSpan | None) -> None:
        seconds = time.perf_counter() - request.began
        method, route = request.method, getattr(request.scope.get("route"), "path", NO_PLACE)
        self._metrics.requests.labels(route, method, str(request.status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        said = {"request_id": request.id}
        said |= {name: request.state[name] for name in SAID if name in request.state}
        if span is not None:
            span.end(method, route, request.status, said)
        about: dict[str, Any] = {"method": method, "route": route, "status": request.status}
        LOGGER.info("request", extra={"fields": {**about, "ms": round(1000 * seconds, 1), **said}})


class _Request:
    """One request on its way."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, body_bytes: int) -> None:
        self.began = time.perf_counter()
        self.scope, self._receive, self._send = scope, receive, send
        self._left = self._most = body_bytes
        self._is_read = False
        self.status = 0  # until the answer begins
        self.state: dict[str, Any] = scope.setdefault("state", {})
        self._headers = dict(scope["headers"])
        given = self._headers.get(b"x-request-id", b"").decode("latin-1")
        self.id = given if NAMED.fullmatch(given) else f"{random.getrandbits(96):024x}"
        self.state["request_id"] = self.id
        self.method = scope["method"] if scope["method"] in METHODS else "other"

    def refuse_too_long(self) -> None:
        """Raises ApiError (413) where the body is said to be longer than is taken."""
        said = self._headers.get(b"content-length", b"0")
        if said.isdigit() and int(said[:18]) > self._most:
            raise self._too_long()

    async def receive(self) -> Message:
        """The next piece of the body, then the client's going away.

        Raises:
            ApiError: 413 once it is too long, whatever was said; 408 where it does not come.
        """
        if self._is_read:
            return await self._receive()
        try:
            async with asyncio.timeout(BODY_S):
                message = await self._receive()
        except TimeoutError:
            raise ApiError(408, "the body did not come", code="timeout") from None
        self._is_read = not message.get("more_body", False)
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise self._too_long()
        return message

    async def send(self, message: Message) -> None:
        """Sends a piece of the answer, its name with the first."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", []), (b"x-request-id", self.id.encode())]
        await self._send(message)

    async def end(self, refused: ApiError) -> None:
        """Answers with an error, unless an answer has begun: that one is cut off."""
        if not self.status:
            await refused.response()(self.scope, self._receive, self.send)

    def _too_long(self) -> ApiError:
        told = f"the body is longer than the {self._most} bytes that are taken"
        return ApiError(413, told, code="body_too_long", headers={"Connection": "close"})
