"""The provider's side of a batch: files and batches on OpenAI's wire format, through the official SDK.

One method is one request (a listing: one a page), tried once: trying again is the caller's, who knows what
must not be done twice. Which draws are in a batch, and what is made of its results, stands in `batch`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import httpx
import openai
from openai.types import Batch as Wire

from trimtab.errors import RefusedError
from trimtab.llm.transport import AttemptError, OpenAITransport, Said

NAME = "trimtab_batch"  # the entry of a batch's metadata that holds our name for it
PAGE = 100  # batches in one listing, the most there is
CLOCKS_S = 86_400.0  # how far the provider's clock may be behind ours
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
UPLOAD_S = 600.0  # the longest file is 200 MB
CONNECTIONS = 10
OK = 200

Got = TypeVar("Got")


@dataclass(frozen=True, slots=True)
class Remote:
    """A batch, as its provider has it."""

    id: str
    state: str  # the provider's word
    done: int  # requests
    files: tuple[str, ...]  # of results: answers, errors
    created_at: float  # seconds since the epoch
    ended_at: float  # likewise; as far as known
    error: str = ""  # why it was refused as a whole

    @property
    def is_ended(self) -> bool:
        """True when nothing more will come of it."""
        return self.state in ENDED


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one request: the body of an answer, or an error."""

    name: str
    status: int | None
    request_id: str | None
    body: Mapping[str, Any] | None
    error: str = ""


class BatchAPI(OpenAITransport):
    """The batch API of one endpoint; it connects, authenticates and explains its errors as chat's does.

    Args:
        model: named in errors.
        base_url, api_key, headers, api_version: see `OpenAITransport`.
        timeout_s: the longest wait for a request; files may take ten minutes.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        api_version: str | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        super().__init__(
            base_url, api_key=api_key, headers=headers, api_version=api_version, connections=CONNECTIONS
        )
        self._model = model
        self._timeout_s = timeout_s

    async def upload(self, filename: str, content: bytes) -> str:
        """The id of a new file. Raises LLMError."""
        client: openai.AsyncOpenAI = await self._client()
        file = (filename, content, "application/jsonl")
        return (
            await self._said(client.files.create(file=file, purpose="batch", timeout=UPLOAD_S), UPLOAD_S)
        ).id

    async def delete(self, file_id: str) -> None:
        """Returns when the file is gone, or the provider will not delete it. Raises LLMError."""
        client: openai.AsyncOpenAI = await self._client()
        with suppress(RefusedError):  # gone before, or a provider that keeps what it has
            await self._said(client.files.delete(file_id))

    async def create(self, file_id: str, name: str) -> Remote:
        """A batch of the requests in the file, under our name. Raises LLMError."""
        client: openai.AsyncOpenAI = await self._client()
        creating = client.batches.create(
            input_file_id=file_id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={NAME: name},
        )
        return _remote(await self._said(creating))

    async def find(self, name: str, file_id: str, since: float) -> Remote | None:
        """The batch of our name, or of this file, if there is one that is not older. Raises LLMError."""
        client: openai.AsyncOpenAI = await self._client()
        page = await self._said(client.batches.list(limit=PAGE))
        while True:
            for batch in page.data:
                if (batch.metadata or {}).get(NAME) == name or batch.input_file_id == file_id:
                    return _remote(batch)
            is_old = any(batch.created_at < since - CLOCKS_S for batch in page.data)
            if is_old or not page.has_next_page():  # newest first
                return None
            page = await self._said(page.get_next_page())

    async def look(self, batch_id: str) -> Remote:
        """How the batch stands. Raises LLMError."""
        client: openai.AsyncOpenAI = await self._client()
        return _remote(await self._said(client.batches.retrieve(batch_id)))

    async def results(self, remote: Remote) -> list[Result]:
        """What came of its requests, as far as anything did, in no particular order. Raises LLMError."""
        client: openai.AsyncOpenAI = await self._client()
        found: list[Result] = []
        for file_id in remote.files:
            content = await self._said(client.files.content(file_id, timeout=UPLOAD_S), UPLOAD_S)
            found.extend(results_in(content.content))
        return found

    def _said_no(self, error: openai.APIStatusError) -> AttemptError:
        told = error.body if isinstance(error.body, dict) else {}
        words = str(told.get("message") or error.message)
        said = Said(error.status_code, words, error.response.headers, error.code, error.param)
        return self._answered(said, self._model)

    def _made(self) -> openai.AsyncOpenAI:
        limits = httpx.Limits(max_connections=self._connections, max_keepalive_connections=self._connections)
        given: dict[str, Any] = {
            "api_key": self._key or "no-key",  # the SDK wants one; servers without keys do not look at it
            "default_headers": {**self._login(), **self._headers},
            "default_query": dict(parse_qsl(urlsplit(self._url).query)),
            "max_retries": 0,
            "http_client": openai.DefaultAioHttpClient(limits=limits, timeout=None),
        }
        if self._api_version is not None:
            return openai.AsyncAzureOpenAI(
                azure_endpoint=self.endpoint, api_version=self._api_version, **given
            )
        return openai.AsyncOpenAI(base_url=self.endpoint, **given)  # no login in it: whole URLs are logged

    async def _said(self, asking: Awaitable[Got], timeout_s: float | None = None) -> Got:
        # Raised after the except block, so that not even __context__ holds the SDK's exception.
        limit_s = timeout_s or self._timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return await asking
        except openai.APIStatusError as error:
            failed = self._said_no(error)
        except (openai.APITimeoutError, TimeoutError):
            failed = self._failing(f"did not answer within {limit_s:g} s", may_be_billed=True)
        except openai.APIConnectionError as error:
            reason = type(error.__cause__ or error).__name__
            failed = self._failing(f"could not be reached ({reason})", may_be_billed=True)
        except (openai.APIError, ValueError) as error:  # what is no JSON, or not of the shape agreed on
            failed = self._failing(
                f"gave a reply that cannot be read ({_one_line(str(error))})", may_be_billed=True
            )
        raise failed.error


def _remote(batch: Wire) -> Remote:
    counts = batch.request_counts
    ends = (batch.completed_at, batch.expired_at, batch.cancelled_at, batch.failed_at)
    errors = (batch.errors.data if batch.errors else None) or []
    return Remote(
        batch.id,
        batch.status,
        counts.completed + counts.failed if counts else 0,
        tuple(file_id for file_id in (batch.output_file_id, batch.error_file_id) if file_id),
        batch.created_at,
        next((end for end in ends if end is not None), batch.created_at),
        "; ".join(_one_line(each.message or each.code or "") for each in errors),
    )


def results_in(content: bytes) -> Iterator[Result]:
    """The results in a file of them; a line that cannot be read is passed over, as if it had not come."""
    for line in content.splitlines():
        result = _result(line)
        if result is not None:
            yield result


def _result(line: bytes) -> Result | None:
    """The result in a line; None where it cannot be read, as if it had not come."""
    try:
        said = json.loads(line)
    except ValueError:
        return None
    if not isinstance(said, dict) or not isinstance(said.get("custom_id"), str):
        return None
    response = _object(said.get("response"))
    status, body, request_id = (response.get(key) for key in ("status_code", "body", "request_id"))
    place = {
        "name": said["custom_id"],
        "status": status if isinstance(status, int) else None,
        "request_id": request_id if isinstance(request_id, str) else None,
    }
    if status == OK and isinstance(body, dict):
        return Result(**place, body=body)
    reason = _reason(said.get("error")) or _reason(body) or f"status {status}, without a word"
    return Result(**place, body=None, error=reason)


def _reason(said: Any) -> str:
    """What an error's JSON says: its message, or the code, on itself or one level down."""
    told = _object(_object(said).get("error")) or _object(said)
    return _one_line(str(told.get("message") or told.get("code") or ""))


def _object(said: Any) -> dict[str, Any]:
    return said if isinstance(said, dict) else {}


def _one_line(said: str) -> str:
    return " ".join(said.split())
