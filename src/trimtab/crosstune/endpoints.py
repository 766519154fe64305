"""Black boxes behind HTTP: OpenAI-compatible `/v1/embeddings`, text-embeddings-inference's `/embed_all`.

Errors of the network become ours here, free of secrets; waiting and trying again is `llm.retry`'s. The key
is handed in by the caller, who may read the environment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import httpx
import numpy as np

from trimtab.crosstune.readings import Array, Progress, Reading
from trimtab.errors import ConfigError, EndpointError, InputError, LLMError, RefusedError
from trimtab.llm.retry import retried
from trimtab.redaction import without_url_secrets
from trimtab.types import Usage

SHOWN = 300  # how many characters of a server's words an error repeats
RETRYABLE_4XX = frozenset({408, 409, 425, 429})

Result = TypeVar("Result")


class _Endpoint:
    """What both kinds share: batches in flight, tries, errors. Not for use by itself."""

    path = ""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        dimension: int | None = None,
        batch: int = 64,
        concurrency: int = 8,
        timeout_s: float = 60.0,
        attempts: int = 4,
        backoff_s: float = 0.5,
    ) -> None:
        url = httpx.URL(base_url)
        if url.scheme not in ("http", "https") or not url.host:
            raise ConfigError(
                "a base URL starts with http:// or https:// and names a host; this one does not: "
                f"{without_url_secrets(base_url)}"
            )
        self.endpoint = without_url_secrets(base_url).rstrip("/")
        self.dimension = dimension
        self.usage = Usage()  # of everything read so far
        self._key = (api_key or "").strip()
        self._headers = dict(headers or {})
        self._batch = batch
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._backoff_s = backoff_s

    def __deepcopy__(self, memo: dict[int, object]) -> _Endpoint:
        return self  # one dimension and one usage, also among scikit-learn's clones

    @property
    def layers(self) -> tuple[int, ...]:
        """The last layer: an endpoint shows no other."""
        return (-1,)

    def read(self, texts: Sequence[str], progress: Progress | None = None) -> list[Reading]:
        """One reading a text, in order.

        Raises:
            EndpointError: unreachable, failing, or giving something else than one vector a text or token.
            RefusedError: it said no.
            InputError: a vector of another dimension than before, or than the one asked for.
        """
        return _finished(self.read_async(texts, progress))

    async def read_async(self, texts: Sequence[str], progress: Progress | None = None) -> list[Reading]:
        """As `read`, for callers that have an event loop."""
        order = sorted(range(len(texts)), key=lambda index: (-len(texts[index]), index))
        batches = [order[start : start + self._batch] for start in range(0, len(order), self._batch)]
        readings: dict[int, Reading] = {}
        free = asyncio.Semaphore(self._concurrency)
        async with httpx.AsyncClient(timeout=self._timeout_s, headers=self._all_headers()) as client:

            async def one(batch: list[int]) -> None:
                async with free:
                    found = await self._read_batch(client, [texts[index] for index in batch])
                readings.update(zip(batch, found, strict=True))
                if progress:
                    progress(len(readings), len(texts))

            await _all_or_first_error([one(batch) for batch in batches])
        return [readings[index] for index in range(len(texts))]

    def _all_headers(self) -> dict[str, str]:
        key = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return {**key, **self._headers}

    async def _read_batch(self, client: httpx.AsyncClient, texts: list[str]) -> list[Reading]:
        reply = await retried(
            lambda attempt: self._post(client, self._body(texts)),
            attempts=self._attempts,
            backoff_s=self._backoff_s,
        )
        try:
            vectors, tokens = self._vectors(reply)
            arrays = [np.asarray(each, dtype=np.float32).reshape(-1, len(each[0])) for each in vectors]
        except (KeyError, IndexError, TypeError, ValueError):
            raise EndpointError(
                f"{self.endpoint}{self.path} gave something else than vectors; is it an embeddings endpoint?"
            ) from None
        self.usage += Usage(tokens, 0, 1)
        if len(arrays) != len(texts):
            raise EndpointError(f"{self.endpoint} gave {len(arrays)} vectors for {len(texts)} texts")
        return [self._reading(each) for each in arrays]

    def _reading(self, tokens: Array) -> Reading:
        dimension = tokens.shape[1]
        if self.dimension is None:
            self.dimension = dimension
        if dimension != self.dimension:
            raise InputError(
                f"{self.endpoint} gave a vector of dimension {dimension}, but {self.dimension} is needed; "
                "is it the model that the classifier was made with?"
            )
        if not np.isfinite(tokens).all():
            raise EndpointError(f"{self.endpoint} gave a vector with numbers that are not finite")
        before, after = self._specials(len(tokens))
        return Reading(tokens[None], tokens[:1], before, after)

    async def _post(self, client: httpx.AsyncClient, body: dict[str, Any]) -> Any:
        try:
            response = await client.post(f"{self.endpoint}{self.path}", json=body)
        except httpx.TimeoutException:
            failed = self._failing(f"did not answer within {self._timeout_s:g} s")
        except httpx.HTTPError as error:
            failed = self._failing(f"could not be reached ({type(error).__name__})")
        else:
            if response.is_success:
                return self._parsed(response)
            failed = self._said_no(response)
        raise failed

    def _parsed(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError:
            failed = self._failing("gave a reply that is not JSON")
        raise failed

    def _said_no(self, response: httpx.Response) -> LLMError:
        status, words = response.status_code, self._clean(response.text)
        if status >= 500 or status in RETRYABLE_4XX:
            wait = response.headers.get("retry-after", "")
            return self._failing(
                f"answered {status}: {words}", status, float(wait) if wait.isdigit() else None
            )
        message = f"{self.endpoint}{self.path} refused with status {status}: {words}"
        return RefusedError(message, status=status)

    def _failing(self, what: str, status: int | None = None, retry_after_s: float | None = None) -> LLMError:
        message = f"{self.endpoint}{self.path} {what}, after up to {self._attempts} attempts"
        error = EndpointError(message, retryable=True, status=status)
        error.retry_after_s = retry_after_s
        return error

    def _clean(self, text: str) -> str:
        line = " ".join(text.split())[:SHOWN]
        for secret in (self._key, *self._headers.values()):
            if len(secret) > 3:  # shorter ones are placeholders
                line = line.replace(secret, "[redacted]")
        return line

    def _body(self, texts: list[str]) -> dict[str, Any]:
        raise NotImplementedError

    def _vectors(self, reply: Any) -> tuple[list[Any], int]:
        """For each text a list of vectors, and the tokens it cost."""
        raise NotImplementedError

    def _specials(self, tokens: int) -> tuple[int, int]:
        return 0, 0


class EmbeddingsEndpoint(_Endpoint):
    """An OpenAI-compatible `/v1/embeddings`: one vector a text.

    Args:
        model: its name, as the endpoint knows it.
        base_url: with its `/v1`.
        **settings: api_key, headers, dimension (checked; else that of the first vector), batch (texts a
            request), concurrency, timeout_s, attempts, backoff_s.

    Raises:
        ConfigError: a base URL without scheme and host.
    """

    path = "/embeddings"

    def __init__(self, model: str, base_url: str, **settings: Any) -> None:
        super().__init__(base_url, **settings)
        self.model = model

    @property
    def name(self) -> str:
        """The model and the endpoint, without secrets."""
        return f"{self.model}|{self.endpoint}{self.path}"

    def to_json(self) -> dict[str, Any]:
        """What a saved classifier says of it."""
        return {"model": self.model, "base_url": self.endpoint, "dimension": self.dimension}

    def _body(self, texts: list[str]) -> dict[str, Any]:
        return {"model": self.model, "input": texts, "encoding_format": "float"}

    def _vectors(self, reply: Any) -> tuple[list[Any], int]:
        rows = sorted(reply["data"], key=lambda row: row["index"])
        tokens = (reply.get("usage") or {}).get("prompt_tokens") or 0
        return [[row["embedding"]] for row in rows], int(tokens)


class TokenEmbeddingsEndpoint(_Endpoint):
    """text-embeddings-inference's `/embed_all`: one vector a token.

    Args:
        base_url: of the server.
        specials: how many special tokens its model puts before and after a text.
        **settings: as of `EmbeddingsEndpoint`.

    Raises:
        ConfigError: a base URL without scheme and host.
    """

    path = "/embed_all"

    def __init__(self, base_url: str, *, specials: tuple[int, int] = (1, 1), **settings: Any) -> None:
        super().__init__(base_url, **{"batch": 32, **settings})
        self.specials = specials

    @property
    def name(self) -> str:
        """The endpoint, without secrets."""
        return f"{self.endpoint}{self.path}"

    def to_json(self) -> dict[str, Any]:
        """What a saved classifier says of it."""
        return {"base_url": self.endpoint, "specials": list(self.specials), "dimension": self.dimension}

    def _body(self, texts: list[str]) -> dict[str, Any]:
        return {"inputs": texts, "truncate": True}

    def _vectors(self, reply: Any) -> tuple[list[Any], int]:
        return list(reply), 0

    def _specials(self, tokens: int) -> tuple[int, int]:
        return self.specials if tokens > sum(self.specials) else (0, 0)


async def _all_or_first_error(jobs: Sequence[Awaitable[None]]) -> None:
    """All jobs done; the first error, once the others are called off."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _finished(job: Coroutine[Any, Any, Result]) -> Result:
    """What the job gives, also where an event loop is running already (a notebook's)."""
    run: Callable[[Coroutine[Any, Any, Result]], Result] = asyncio.run
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return run(job)
    with ThreadPoolExecutor(1) as beside:
        return beside.submit(run, job).result()
