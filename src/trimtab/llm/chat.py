"""`ChatLLM`: any OpenAI-compatible endpoint, through the official SDK.

Errors of the SDK are turned into ours here, and secrets are taken out of them. Retries live in `retry`,
the keeping of paid responses in `kept`, asking again for what is missing of n in `filled`. The key is
handed in by the caller, who may read the environment.
"""

from __future__ import annotations

import asyncio
import base64
import email.utils
import json
import re
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

import openai

from trimtab.errors import ConfigError, EndpointError, LLMError, RefusedError
from trimtab.llm.retry import AttemptFailedError, retried
from trimtab.llm.stops import before_stop
from trimtab.types import Completion, Completions, Prompt, Sampling, Usage

OPENAI_URL = "https://api.openai.com/v1"
SHOWN = 400  # how many characters of a server's words an error repeats
RETRYABLE_4XX = frozenset({408, 409, 425, 429})
# What servers themselves echo of a key that is not ours word for word ("Incorrect API key: sk-ab***xyz").
KEY_LIKE = re.compile(r"(?:\bBearer\s+|\bsk-)[^\s\"',;]+")


@dataclass(frozen=True, slots=True)
class _Line:
    """What belongs to one event loop: connections cannot be used from another."""

    client: openai.AsyncOpenAI
    free: asyncio.Semaphore


class ChatLLM:
    """A chat model behind an OpenAI-compatible endpoint.

    Args:
        model: its name, as the endpoint knows it.
        base_url: the endpoint, with its `/v1`; OpenAI's own if left out. A login in it is sent as basic
            authorization where no key is given. A query in it goes with each request, and into the logs of
            the HTTP library: secrets belong in `headers`.
        api_key: sent as bearer token; never shown in a message, a repr or a log.
        headers: sent with each request, for endpoints that want more; kept as secret as the key.
        timeout_s: the longest wait for one HTTP request.
        attempts: how often one request is tried while its error is worth another attempt.
        concurrency: requests in flight at once; one that waits before another attempt is not in flight.
        backoff_s: the longest wait after the first failed attempt; doubles with each further one.

    Raises:
        ConfigError: a base URL without scheme and host, or a key that cannot stand in a header.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
        attempts: int = 4,
        concurrency: int = 20,
        backoff_s: float = 0.5,
    ) -> None:
        self._model = model
        self._url = base_url or OPENAI_URL
        self._key = (api_key or "").strip()
        self._headers = dict(headers or {})
        self._timeout_s = timeout_s
        self._attempts = max(1, attempts)
        self._concurrency = max(1, concurrency)
        self._backoff_s = backoff_s
        self._lines: dict[asyncio.AbstractEventLoop, _Line] = {}
        self._openers: dict[asyncio.AbstractEventLoop, AsyncGenerator[_Line, None]] = {}
        self._refuse_unusable()

    def __repr__(self) -> str:
        return f"ChatLLM({self._model!r}, base_url={self.endpoint!r})"

    @property
    def name(self) -> str:
        """The model's name, as the endpoint knows it."""
        return self._model

    @property
    def endpoint(self) -> str:
        """The base URL, without any credentials in it."""
        parts = urlsplit(self._url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """Up to `sampling.n` completions of the prompt, asked for in one request.

        An endpoint may give fewer than asked for, and many give one whatever is asked; `Filled` asks again.
        `usage.calls` is 1.

        Raises:
            EndpointError: unreachable, timed out or failing, after all attempts.
            RefusedError: it understood and said no (key, model name, parameter, quota).
        """
        line = await self._line()
        return await retried(
            lambda: self._attempt(line, prompt, sampling), attempts=self._attempts, backoff_s=self._backoff_s
        )

    async def close(self) -> None:
        """Close this event loop's connections; a later call opens new ones."""
        opener = self._openers.get(asyncio.get_running_loop())
        if opener is not None:
            await opener.aclose()

    async def _attempt(self, line: _Line, prompt: Prompt, sampling: Sampling) -> Completions:
        async with line.free:
            reply = await self._reply(line.client, _body(self._model, prompt, sampling))
        try:
            return _completions(reply, sampling, self._model)
        except _UnreadableReplyError as error:
            raise self._failing(f"gave a reply that is not a chat completion ({error})") from None

    async def _reply(self, client: openai.AsyncOpenAI, body: dict[str, Any]) -> Any:
        # Errors are raised after their except block, so that not even __context__ holds the SDK's exception.
        try:
            async with asyncio.timeout(
                self._timeout_s
            ):  # the SDK's own limit is on each read, not on the whole
                return await client.chat.completions.create(**body)
        except openai.APIStatusError as error:
            failed = self._said_no(error)
        except (openai.APITimeoutError, TimeoutError):
            failed = self._failing(f"did not answer within {self._timeout_s:g} s")
        except openai.APIConnectionError as error:
            failed = self._failing(f"could not be reached ({_reason(error)})")
        except (openai.APIError, json.JSONDecodeError) as error:
            failed = self._failing(f"gave a reply that cannot be read ({error})")
        raise failed

    def _said_no(self, error: openai.APIStatusError) -> AttemptFailedError:
        status = error.status_code
        is_spent = error.code == "insufficient_quota"  # comes as 429, and no wait helps
        if (status >= 500 or status in RETRYABLE_4XX) and not is_spent:
            what = f"answered {status}: {_words(error)}"
            return self._failing(what, status, error.request_id, _retry_after_s(error.response.headers))
        message = self._clean(
            f"{self.endpoint} refused the request for model '{self._model}' with status {status}: "
            f"{_words(error)}. {_advice(status)}"
        )
        return AttemptFailedError(RefusedError(message, status=status, request_id=error.request_id))

    def _failing(
        self,
        what: str,
        status: int | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> AttemptFailedError:
        wait = f" It asks to wait {retry_after_s:g} s." if retry_after_s else ""
        message = self._clean(
            f"{self.endpoint} {what}, after up to {self._attempts} attempts.{wait} Check that the base URL "
            "is right (it usually ends in /v1), and the server up, reachable from here and not overloaded."
        )
        error: LLMError = EndpointError(message, retryable=True, status=status, request_id=request_id)
        return AttemptFailedError(error, retry_after_s)

    def _clean(self, text: str) -> str:
        parts = urlsplit(self._url)
        queried = [value for _, value in parse_qsl(parts.query)]
        secrets = [self._key, unquote(parts.password or ""), *queried, *self._headers.values()]
        for secret in sorted(secrets, key=len, reverse=True):
            if len(secret) > 3:  # shorter ones are placeholders, and blanking them would garble the message
                text = text.replace(secret, "[redacted]")
        return KEY_LIKE.sub("[redacted]", text)

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

    async def _line(self) -> _Line:
        loop = asyncio.get_running_loop()
        if loop not in self._lines:
            self._openers[loop] = self._opened(loop)
            self._lines[loop] = await anext(self._openers[loop])
        return self._lines[loop]

    async def _opened(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[_Line, None]:
        # A generator, because an event loop that ends closes its open generators: the connections go with
        # the loop even where nobody calls close().
        client = openai.AsyncOpenAI(
            api_key=self._key or "no-key",  # the SDK wants one; servers without keys do not look at it
            base_url=self.endpoint,  # the HTTP library logs whole URLs: no login may stand in this one
            default_headers={**self._login(), **self._headers},
            default_query=dict(parse_qsl(urlsplit(self._url).query)),
            timeout=self._timeout_s,
            max_retries=0,
        )
        try:
            yield _Line(client, asyncio.Semaphore(self._concurrency))
        finally:
            del self._lines[loop], self._openers[loop]
            await client.close()


class _UnreadableReplyError(ValueError):
    """A reply with status 200 that holds no completions."""


def _body(model: str, prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
    """What is sent: only what was asked for, since some endpoints refuse parameters they do not know."""
    optional = {
        "n": sampling.n if sampling.n > 1 else None,
        "temperature": sampling.temperature,
        "stop": list(sampling.stop) or None,
        "seed": sampling.seed,
    }
    return {
        "model": model,
        "messages": [{"role": message.role, "content": message.content} for message in prompt.messages],
        "max_tokens": sampling.max_tokens,
        **{key: value for key, value in optional.items() if value is not None},
    }


def _completions(reply: Any, sampling: Sampling, model: str) -> Completions:
    choices = getattr(reply, "choices", None)
    if not choices:
        raise _UnreadableReplyError(_excerpt(reply))
    read = tuple(_completion(choice, sampling.stop) for choice in choices[: sampling.n])
    return Completions(read, _usage(getattr(reply, "usage", None)), getattr(reply, "model", None) or model)


def _completion(choice: Any, stops: tuple[str, ...]) -> Completion:
    content = getattr(getattr(choice, "message", None), "content", None)
    text = content if isinstance(content, str) else ""
    cut = before_stop(text, stops)
    ran_out = choice.finish_reason == "length" and cut == text
    finish: Literal["stop", "length"] = "length" if ran_out else "stop"
    return Completion(cut, finish)


def _usage(usage: Any) -> Usage:
    return Usage(
        getattr(usage, "prompt_tokens", 0) or 0, getattr(usage, "completion_tokens", 0) or 0, calls=1
    )


def _words(error: openai.APIStatusError) -> str:
    """What the server itself said, in one short line."""
    said = error.body.get("message") if isinstance(error.body, dict) else None
    return _excerpt(said or error.message).rstrip(".")


def _excerpt(said: object) -> str:
    line = " ".join(str(said).split())
    return line if len(line) <= SHOWN else line[:SHOWN] + "…"


def _reason(error: openai.APIConnectionError) -> str:
    cause = error.__cause__
    return f"{type(cause).__name__}: {_excerpt(cause)}" if cause is not None else _excerpt(error)


def _advice(status: int) -> str:
    if status in (401, 403):
        return "Check the API key: is it set, whole, and meant for this endpoint and model?"
    if status == 404:
        return "Check the model's name and the base URL (it usually ends in /v1)."
    if status == 429:
        return "The account's quota is spent: check its plan and billing."
    return "Check the parameters: not every model takes temperature, n, stop or max_tokens."


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
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
