"""`Relay`: a request passed on as it came, and the endpoint's own bytes given back.

For a server that answers in the black box's place: what it does not adapt goes through here with as little
work as can be, on connections that are kept open. No retries: whoever asked knows best whether to ask again.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from trimtab.errors import EndpointError, LLMError, RefusedError
from trimtab.llm.transport import NOT_CONNECTED, OpenAITransport, excerpt, retry_after_s

FAILING = 500
THROTTLED = 429
READ_BYTES = 1 << 16


class Relay:
    """Passes chat completions on to one endpoint; for one event loop.

    Args:
        transport: the endpoint, with its key and headers; they never come from what is passed on.
        connections: how many may be open at once.
        timeout_s: the longest wait for an answer, or for the next piece of one.
    """

    def __init__(
        self, transport: OpenAITransport, *, connections: int = 200, timeout_s: float = 60.0
    ) -> None:
        self._transport = transport
        self._connections = connections
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    @property
    def endpoint(self) -> str:
        """Where requests go, without any credentials in it."""
        return self._transport.endpoint

    async def whole(self, model: str, body: bytes) -> bytes:
        """The endpoint's answer to one request. Raises LLMError."""
        async with self._answered(model, body) as response:
            return await response.read()

    async def pieces(self, model: str, body: bytes) -> AsyncIterator[bytes]:
        """The endpoint's answer as it comes, in whole lines. Raises LLMError."""
        async with self._answered(model, body) as response:
            rest = b""
            async for some in response.content.iter_any():
                lines, mark, rest = (rest + some).rpartition(b"\n")
                if mark:
                    yield lines + mark
            if rest:
                yield rest

    async def close(self) -> None:
        """Let go of the connections; a later request opens new ones."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    @asynccontextmanager
    async def _answered(self, model: str, body: bytes) -> AsyncIterator[aiohttp.ClientResponse]:
        # Raised after the except block, so that no error holds the request, which holds the key.
        try:
            url = self._transport.chat_url(model)
            async with self._opened().post(url, data=body, allow_redirects=False) as response:
                if response.status != 200:
                    raise self._said_no(response, await response.content.read(READ_BYTES))
                yield response
                return
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            failed = self._cut_off(error)
        raise failed

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_read=self._timeout_s, sock_connect=10)
            self._session = self._transport.session(self._connections, timeout)
        return self._session

    def _said_no(self, response: aiohttp.ClientResponse, said: bytes) -> LLMError:
        words = excerpt(self._transport.redacted(" ".join(said.decode("utf-8", "replace").split())))
        message = f"{self.endpoint} answered {response.status}: {words}"
        given = {"status": response.status, "request_id": response.headers.get("x-request-id")}
        if response.status < FAILING and response.status != THROTTLED:
            refused = RefusedError(message, **given)  # type: ignore[arg-type]
            refused.said = excerpt(self._transport.redacted(_words(said)))
            return refused
        failing = EndpointError(message, retryable=True, **given)  # type: ignore[arg-type]
        failing.retry_after_s = retry_after_s(response.headers)
        return failing

    def _cut_off(self, error: BaseException) -> EndpointError:
        if isinstance(error, NOT_CONNECTED):
            return EndpointError(f"{self.endpoint} could not be reached", retryable=True)
        if isinstance(error, TimeoutError):
            return EndpointError(
                f"{self.endpoint} did not answer within {self._timeout_s:g} s", retryable=True
            )
        return EndpointError(f"{self.endpoint} broke off ({type(error).__name__})", retryable=True)


def _words(said: bytes) -> str:
    """What an endpoint says in an error of OpenAI's shape; empty where it has another."""
    try:
        error = json.loads(said)["error"]
        return " ".join(str(error["message"] if isinstance(error, dict) else error).split())
    except (ValueError, RecursionError, LookupError, TypeError):
        return ""
