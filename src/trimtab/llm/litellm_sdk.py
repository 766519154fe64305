"""`LiteLLMTransport`: one request through LiteLLM, for providers that do not speak OpenAI's wire format.

Its retries, prices and callbacks stay out of it: they are `retry`'s, `prices`' and `observed`'s. Its errors
are turned into ours where the SDK's are (`transport`); here is read what they say.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import httpx
import openai

from trimtab.errors import ConfigError, MissingExtraError
from trimtab.llm.transport import AttemptError, OpenAITransport, RawReply, Said, causes

THROUGH = "litellm"  # what the ledger calls the endpoint where the model's name alone decides it
# LiteLLM can be told these by its environment only, and reads them while it is imported. Without them it asks
# the network for prices and headers, and puts a .env file it finds into this process' environment.
QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_MODE": "PRODUCTION",
}


class LiteLLMTransport(OpenAITransport):
    """Any provider that LiteLLM knows; the model's name says which, as in `anthropic/claude-sonnet-4-5`.

    Args:
        base_url: an address of the provider's other than its usual one.
        api_key: the provider's key; never shown in a message, a repr or a log. Without a key and a base
            URL, LiteLLM looks for the provider's own in the environment.
        headers: sent with each request; kept as secret as the key.

    Raises:
        MissingExtraError: the extra `litellm` is not installed.
        ConfigError: a base URL without scheme and host or with a query, a key that cannot stand in a header.
    """

    failures = (openai.APIError, TimeoutError)

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._is_usual = base_url is None
        super().__init__(base_url, api_key=api_key, headers=headers)
        if httpx.URL(self._url).query:
            raise ConfigError("with litellm, a base URL has no query: give --headers what the endpoint wants")
        self._litellm = _imported()

    def __repr__(self) -> str:
        return f"LiteLLMTransport({self.endpoint!r})"

    @property
    def endpoint(self) -> str:
        """The base URL without any credentials in it; "litellm" where the model's name decides."""
        return THROUGH if self._is_usual else super().endpoint

    async def _posted(self, body: dict[str, Any], headers: dict[str, str]) -> RawReply:
        await self._client()  # what closes this event loop's connections with it
        reply = await self._litellm.acompletion(
            **body,
            api_base=None if self._is_usual else self.endpoint,
            # Without one, OPENAI_API_KEY would go to whoever the base URL belongs to.
            api_key=self._key or (None if self._is_usual else "no-key"),
            extra_headers={**self._login(), **self._headers, **headers} or None,
            max_retries=0,
            num_retries=0,
            drop_params=False,  # what a model does not take is for us to know
        )
        sent = getattr(reply, "_response_headers", None) or {}
        return RawReply(_document(reply), 200, sent.get("x-request-id"))

    def _failure(self, error: Exception, model: str, timeout_s: float) -> AttemptError:
        """The status that LiteLLM gives is often made up: what came over the wire stands behind its error."""
        behind = causes(error)
        answer = next((c.response for c in behind if isinstance(c, httpx.HTTPStatusError)), None)
        if answer is not None:
            return self._answered(_said(error, answer.status_code, answer.headers), model)
        status = getattr(error, "status_code", None)
        if len(behind) == 1 and isinstance(status, int) and status < 500:
            return self._answered(_said(error, status, {}), model)  # LiteLLM's own no: nothing was sent
        return self._cut_off(behind, timeout_s)

    def _made(self) -> Any:
        return SimpleNamespace(close=self._closed)

    async def _closed(self) -> None:
        await self._litellm.close_litellm_async_clients()
        # It finds clients by the event loop's address, which the next loop may have too.
        self._litellm.in_memory_llm_clients_cache.flush_cache()


def _said(error: Exception, status: int, headers: Mapping[str, str]) -> Said:
    said = getattr(error, "body", None)
    body = said if isinstance(said, dict) else {}
    words = str(body.get("message") or getattr(error, "message", error))
    return Said(status, words, headers, body.get("code"), body.get("param"))


def _document(reply: Any) -> Any:
    """The reply as JSON would give it, without the zeros that stand for a usage nobody reported."""
    document = reply.model_dump(warnings=False)
    usage = document.get("usage")
    if isinstance(usage, dict) and not usage.get("total_tokens"):
        del document["usage"]
    return document


def _imported() -> Any:
    with _quiet():
        try:
            litellm: Any = import_module("litellm")
        except ModuleNotFoundError:
            raise MissingExtraError("litellm", "provider litellm") from None
        # Read at a model's first call else, when the environment says nothing any more.
        import_module("litellm.anthropic_beta_headers_manager").get_provider_name("anthropic")
    litellm.suppress_debug_info = True  # else it prints to stdout, where answers go
    for logger in ("LiteLLM", "openai._base_client"):  # below warnings they log our headers
        logging.getLogger(logger).setLevel(logging.WARNING)
    return litellm


@contextmanager
def _quiet() -> Iterator[None]:
    """What is said of it in `QUIET`, unless the user says otherwise; the environment is left as it was."""
    told = {name: value for name, value in QUIET.items() if name not in os.environ}
    os.environ.update(told)
    try:
        yield
    finally:
        for name in told:
            del os.environ[name]
