"""One HTTP request to an OpenAI-compatible endpoint: one attempt, nothing more.

An HTTP library's errors are turned into ours here, and secrets are taken out of them. What a request says is
made in `chat`, attempts are counted in `retry`. The key is handed in by the caller, who may read the
environment.
"""

from __future__ import annotations

import asyncio
import base64
import email.utils
import json
import re
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar, Protocol
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx

from trimtab.errors import ConfigError, EndpointError, LLMError, RefusedError
from trimtab.types import Usage

OPENAI_URL = "https://api.openai.com/v1"
KEPT_ALIVE_S = 4.0  # an idle connection: servers close them too, the impatient ones after five seconds
SHOWN = 400  # how many characters of a server's words an error repeats
NOT_CONNECTED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)  # no request has gone out
RETRYABLE_4XX = frozenset({408, 409, 425, 429})
# What servers themselves echo of a key that is not ours word for word ("Incorrect API key: sk-ab***xyz").
KEY_LIKE = re.compile(r"(?:\bB(?:earer|asic)\s+|\bsk-)[^\s\"',;]+")


@dataclass(frozen=True, slots=True)
class RawReply:
    """What an endpoint answered with status 200, as JSON gives it."""

    document: Any
    status: int
    request_id: str | None


class AttemptError(Exception):
    """One request failed: the error to report, and what its sender must know beside it."""

    def __init__(
        self,
        error: LLMError,
        *,
        may_be_billed: bool,
        parameter: str | None = None,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.may_be_billed = may_be_billed  # the endpoint may have done the work before it failed
        self.parameter = parameter  # what it objects to, where it names that in a field of its own
        self.usage = usage  # what it says it used all the same


@dataclass(frozen=True, slots=True)
class Said:
    """An endpoint's answer with a status that is not 200."""

    status: int
    words: str  # its own
    headers: Mapping[str, str]
    code: str | None = None
    parameter: str | None = None  # what it objects to, where it names that in a field of its own

    @property
    def request_id(self) -> str | None:
        """How the endpoint calls the request."""
        return self.headers.get("x-request-id")


class NotAnsweredError(Exception):
    """A reply that holds no answer, in its sender's words."""

    def __init__(self, said: Said) -> None:
        super().__init__(said.words)
        self.said = said


class _UnreadableReplyError(ValueError):
    """A reply with status 200 that is not JSON."""


class Transport(Protocol):
    """A way to send one chat completion request."""

    @property
    def endpoint(self) -> str:
        """Where it goes, without any credentials."""
        ...

    async def send(
        self, body: Mapping[str, Any], timeout_s: float, idempotency_key: str | None = None
    ) -> RawReply:
        """The endpoint's answer to one request. Raises AttemptError."""
        ...

    async def close(self) -> None:
        """Let go of this event loop's connections."""
        ...

    def redacted(self, text: str) -> str:
        """The text without the secrets that it sends."""
        ...


class OpenAITransport:
    """Any endpoint that speaks OpenAI's chat completions, Azure's deployments among them.

    Over aiohttp: the official SDK doubles the time that a request takes of our processor (decision 0039).

    Args:
        base_url: the endpoint, with its `/v1`; OpenAI's own if left out. A login in it is sent as basic
            authorization where no key is given. A query in it goes with each request, and into the logs of
            the HTTP library: secrets belong in `headers`.
        api_key: sent as bearer token (Azure: as `api-key`); never shown in a message, a repr or a log.
        headers: sent with each request, for endpoints that want more; kept as secret as the key.
        api_version: makes it Azure's: the base URL is the resource's then, and the model a deployment's name.
        connections: how many may be open at once.

    Raises:
        ConfigError: a base URL without scheme and host, or a key that cannot stand in a header.
    """

    # How a request may end without an answer; time that has run out is an OSError.
    failures: ClassVar[tuple[type[Exception], ...]] = (
        aiohttp.ClientError,
        OSError,
        NotAnsweredError,
        _UnreadableReplyError,
    )

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        api_version: str | None = None,
        connections: int = 200,
    ) -> None:
        self._url = base_url or OPENAI_URL
        self._key = (api_key or "").strip()
        self._headers = dict(headers or {})
        self._api_version = api_version
        self._connections = connections
        self._clients: dict[asyncio.AbstractEventLoop, Any] = {}
        self._openers: dict[asyncio.AbstractEventLoop, AsyncGenerator[Any, None]] = {}
        self._refuse_unusable()

    def __repr__(self) -> str:
        return f"OpenAITransport({self.endpoint!r})"

    @property
    def endpoint(self) -> str:
        """The base URL, without any credentials in it."""
        parts = urlsplit(self._url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    async def send(
        self, body: Mapping[str, Any], timeout_s: float, idempotency_key: str | None = None
    ) -> RawReply:
        """The endpoint's answer to one request.

        Raises:
            AttemptError: with an EndpointError (unreachable, timed out or failing) or a RefusedError in it.
        """
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        # Errors are raised after their except block, so that not even __context__ holds the library's
        # exception: it holds the request, and the request holds the key.
        try:
            async with asyncio.timeout(timeout_s):
                return await self._posted(dict(body), headers)
        except self.failures as error:
            failed = self._failure(error, str(body.get("model")), timeout_s)
        raise failed

    async def _posted(self, body: dict[str, Any], headers: dict[str, str]) -> RawReply:
        session: aiohttp.ClientSession = await self._client()
        url, written = self.chat_url(str(body.get("model"))), json.dumps(body).encode("ascii")
        async with session.post(url, data=written, headers=headers) as response:
            content = await response.read()
        if not response.ok:
            raise NotAnsweredError(_said(response.status, response.headers, content))
        return RawReply(
            _document(content, response.headers), response.status, response.headers.get("x-request-id")
        )

    def chat_url(self, model: str) -> str:
        """Where chat completions of a model are asked for, with the query of the base URL."""
        query = urlsplit(self._url).query
        if self._api_version is None:
            return f"{self.endpoint.rstrip('/')}/chat/completions{'?' if query else ''}{query}"
        deployment = f"{self.endpoint.rstrip('/')}/openai/deployments/{quote(model, safe='')}"
        return f"{deployment}/chat/completions?api-version={quote(self._api_version)}"

    def request_headers(self) -> dict[str, str]:
        """What each request is sent with, the key among it: for the wire alone."""
        named = {"api-key": self._key} if self._api_version else {"Authorization": f"Bearer {self._key}"}
        return {**(named if self._key else self._login()), **self._headers}

    async def close(self) -> None:
        """Close this event loop's connections; a later request opens new ones."""
        opener = self._openers.get(asyncio.get_running_loop())
        if opener is not None:
            await opener.aclose()

    # ------------------------------------------------------------------ errors

    def _failure(self, error: Exception, model: str, timeout_s: float) -> AttemptError:
        if isinstance(error, NotAnsweredError):
            return self._answered(error.said, model)
        if isinstance(error, _UnreadableReplyError):
            what = f"gave a reply that cannot be read ({self._shown(error)})"
            return self._failing(what, may_be_billed=True)
        return self._cut_off(causes(error), timeout_s)

    def _answered(self, said: Said, model: str) -> AttemptError:
        words = self._shown(said.words).rstrip(".")
        is_spent = said.code == "insufficient_quota"  # comes as 429, and no wait helps
        if (said.status >= 500 or said.status in RETRYABLE_4XX) and not is_spent:
            asked = retry_after_s(said.headers)
            wait = f", and asks to wait {asked:g} s" if asked else ""
            what = f"answered {said.status}: {words}{wait}"
            failed = self._failing(what, said.status, said.request_id, may_be_billed=False)
            failed.error.retry_after_s = asked
            return failed
        message = self.redacted(
            f"{self.endpoint} refused the request for model '{model}' with status {said.status}: "
            f"{words}. {_advice(said.status)}"
        )
        refused = RefusedError(message, status=said.status, request_id=said.request_id)
        return AttemptError(refused, may_be_billed=False, parameter=said.parameter)

    def _cut_off(self, causes: Sequence[BaseException], timeout_s: float) -> AttemptError:
        reason = next((f"{type(c).__name__}: {self._shown(c)}" for c in reversed(causes) if str(c)), "")
        if any(isinstance(cause, NOT_CONNECTED) for cause in causes):
            return self._failing(f"could not be reached ({reason})", may_be_billed=False)
        if any(isinstance(cause, TimeoutError) for cause in causes):
            return self._failing(f"did not answer within {timeout_s:g} s", may_be_billed=True)
        return self._failing(f"broke off before it had answered ({reason})", may_be_billed=True)

    def _failing(
        self, what: str, status: int | None = None, request_id: str | None = None, *, may_be_billed: bool
    ) -> AttemptError:
        message = self.redacted(
            f"{self.endpoint} {what}. Check that the base URL is right (it usually ends in /v1), and the "
            "server up, reachable from here and not overloaded."
        )
        error = EndpointError(message, retryable=True, status=status, request_id=request_id)
        return AttemptError(error, may_be_billed=may_be_billed)

    def _shown(self, said: object) -> str:
        """A server's words in one short line, cut after the secrets are out: half of one is no match."""
        return excerpt(self.redacted(" ".join(str(said).split())))

    def redacted(self, text: str) -> str:
        """The text without key, login, headers or anything that looks like a key."""
        parts = urlsplit(self._url)
        queried = [value for _, value in parse_qsl(parts.query)]
        logins = [value.removeprefix("Basic ") for value in self._login().values()]
        secrets = [self._key, unquote(parts.password or ""), *logins, *queried, *self._headers.values()]
        for secret in sorted(secrets, key=len, reverse=True):
            if len(secret) > 3:  # shorter ones are placeholders, and blanking them would garble the message
                text = text.replace(secret, "[redacted]")
        return KEY_LIKE.sub("[redacted]", text)

    # ------------------------------------------------------------------ connections

    def _login(self) -> dict[str, str]:
        login = urlsplit(self._url).netloc.rpartition("@")[0]
        if self._key or not login:
            return {}
        return {"Authorization": f"Basic {base64.b64encode(unquote(login).encode()).decode()}"}

    def _refuse_unusable(self) -> None:
        parts = urlsplit(self._url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                f"a base URL starts with http:// or https:// and names a host, e.g. {OPENAI_URL}; "
                f"this one does not: {self.endpoint or '(empty)'}"
            )
        if not (self._key.isascii() and self._key.isprintable()):
            raise ConfigError(
                "the API key holds characters that cannot be sent; was it pasted whole and alone?"
            )

    async def _client(self) -> Any:
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            self._openers[loop] = self._opened(loop)
            self._clients[loop] = await anext(self._openers[loop])
        return self._clients[loop]

    async def _opened(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[Any, None]:
        # A generator, because an event loop that ends closes its open generators: the connections go with
        # the loop even where nobody calls close().
        client = self._made()
        try:
            yield client
        finally:
            del self._clients[loop], self._openers[loop]
            await client.close()

    def _made(self) -> Any:
        """What this event loop's requests go through; it has an async `close`."""
        return self.session(self._connections, aiohttp.ClientTimeout(total=None))  # `send` limits the whole

    def session(self, connections: int, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
        """At most so many connections to the endpoint, which send its key and headers with each request."""
        is_tls = urlsplit(self._url).scheme == "https"
        about = {"Accept": "application/json", "User-Agent": f"trimtab/{version('trimtab')}"}
        return aiohttp.ClientSession(
            headers={**about, "Content-Type": "application/json", **self.request_headers()},
            connector=aiohttp.TCPConnector(
                limit=connections,
                keepalive_timeout=KEPT_ALIVE_S,
                ssl=httpx.create_ssl_context() if is_tls else True,  # trusts what other Python clients do
            ),
            timeout=timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=_proxy(self._url),
        )


def unreadable(transport: Transport, reply: RawReply, usage: Usage | None) -> AttemptError:
    """The error of a reply with status 200 that holds no completions."""
    shown = excerpt(transport.redacted(" ".join(str(reply.document).split())))
    error = EndpointError(
        f"{transport.endpoint} gave a reply that is not a chat completion ({shown}). "
        "Check that the base URL is right (it usually ends in /v1).",
        retryable=True,
        status=reply.status,
        request_id=reply.request_id,
    )
    return AttemptError(error, may_be_billed=True, usage=usage)


def _document(content: bytes, headers: Mapping[str, str]) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        said = f"{headers.get('content-type')}: {error}: {content[: 10 * SHOWN]!r}"
        raise _UnreadableReplyError(said) from None


def _said(status: int, headers: Mapping[str, str], content: bytes) -> Said:
    """What a reply says that holds no answer: an error of OpenAI's shape, or else all of it."""
    text = content.decode("utf-8", "replace").strip()
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return Said(status, text or "nothing", headers)
    said = document.get("error", document) if isinstance(document, dict) else document
    told = said if isinstance(said, dict) else {}
    return Said(status, str(told.get("message") or text), headers, told.get("code"), told.get("param"))


def _proxy(url: str) -> str | None:
    """The proxy that the system has for the address; looked up once, as aiohttp does it for each request."""
    parts = urlsplit(url)
    if proxy_bypass(parts.hostname or ""):
        return None
    known = getproxies()
    return known.get(parts.scheme) or known.get("all")


def causes(error: BaseException) -> list[BaseException]:
    """The error and what it was made of, on its way up from the connection."""
    found = [error]
    while (earlier := found[-1].__cause__ or found[-1].__context__) is not None:
        found.append(earlier)
    return found


def excerpt(line: str) -> str:
    """A line, not too long."""
    return line if len(line) <= SHOWN else line[:SHOWN] + "…"


def _advice(status: int) -> str:
    if status in (401, 403):
        return "Check the API key: is it set, whole, and meant for this endpoint and model?"
    if status == 404:
        return "Check the model's name and the base URL (it usually ends in /v1)."
    if status == 429:
        return "The account's quota is spent: check its plan and billing."
    return "Check the parameters; --capabilities says which of them a model takes."


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """What `Retry-After` asks for: seconds or an HTTP date; `retry-after-ms` is Azure's and finer."""
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    said = headers.get("retry-after")
    if (seconds := _number(said)) is not None:
        return seconds
    date = email.utils.parsedate_tz(said) if said else None
    return max(0.0, email.utils.mktime_tz(date) - time.time()) if date else None


def _number(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"\s*\d+(?:\.\d+)?\s*", text) else None
