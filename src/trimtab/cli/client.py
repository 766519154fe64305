"""One client for a whole run: what all its black boxes share, and what is charged for what they do.

One limiter, one budget inside the key's, one table of prices, one set of observers, one ledger. The wrappers
themselves live in `llm`; here they are put together from the settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from trimtab.cli.settings import Settings, api_key, headers_of
from trimtab.errors import ConfigError
from trimtab.llm import Budget, Cached, ChatLLM, Filled, Limiter, Limits, Prices
from trimtab.llm.capabilities import capabilities_of
from trimtab.llm.observed import CallLog, Meter, Observer, Tracer, provider_to
from trimtab.llm.prices import refuse_unpriced
from trimtab.llm.transport import OpenAITransport, Transport
from trimtab.store import Store
from trimtab.types import LLM

if TYPE_CHECKING:
    from trimtab.scale.leases import LeasedBudget, LeasedLimiter

CONNECTIONS = 1000  # open at once, whatever the limiter grows to: it never grows beyond `concurrency`


class Client:
    """The black boxes of one run; as a context manager, its log and spans are complete when it is left.

    Args:
        settings: the run's.
        store: where draws and the ledger are kept.
        run_id: on whose account.
        leased: a limiter and a budget of elsewhere in the place of its own.

    Raises:
        ConfigError: a price is needed and unknown; a key, header, capability or limit cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        run_id: str,
        leased: tuple[LeasedLimiter, LeasedBudget] | None = None,
    ) -> None:
        self._settings, self._store, self._run_id = settings, store, run_id
        self.prices = prices_of(settings)
        self.budget = _budget(settings, store, run_id)
        self.limiter = Limiter(
            most=settings.concurrency,
            requests_per_minute=settings.requests_per_minute,
            tokens_per_minute=settings.tokens_per_minute,
        )
        self._turns: Limiter | LeasedLimiter = leased[0] if leased else self.limiter
        self._purse: Budget | LeasedBudget = leased[1] if leased else self.budget
        self.meter = Meter(self._turns)
        self._log = CallLog(settings.log)
        self.spans = provider_to(settings.trace) if settings.trace else None
        traced = [Tracer(self.spans, with_content=settings.trace_content)] if self.spans else []
        self.observers: list[Observer] = [self.meter, self._log, *traced]
        self._boxes: dict[str, ChatLLM] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._log.close()
        if self.spans is not None:
            self.spans.shutdown()

    def box(self, name: str | None = None) -> ChatLLM:
        """The chat model of the settings, or another at the same endpoint; each is made once."""
        name = name or self._settings.model or ""
        if name not in self._boxes:
            box = self._made(name)
            if not self._settings.unpriced:
                refuse_unpriced(self.prices, name)
            self._boxes[name] = box
        return self._boxes[name]

    def model(self, name: str | None = None) -> LLM:
        """The same with all its draws, none of them paid for twice."""
        box = self.box(name)
        samples = self._store.samples_of(self._run_id)
        cached = Cached(
            box,
            samples,
            scope=box.endpoint,
            bypass=not self._settings.cache,
            watch=[self.meter, self._log],
        )
        return Filled(cached, capabilities=box.capabilities)

    def _made(self, name: str) -> ChatLLM:
        settings = self._settings
        return ChatLLM(
            name,
            transport=transport_of(settings),
            payer=settings.api_key_env,
            timeout_s=settings.timeout_s,
            call_deadline_s=settings.call_deadline_s,
            capabilities=capabilities_of(name, settings.capabilities),
            limiter=self._turns,
            prices=self.prices,
            budget=self._purse,
            watch=self.observers,
            idempotent=self._run_id if settings.cache else None,
        )


def prices_of(settings: Settings) -> Prices:
    """What tokens cost at the endpoint of the settings."""
    return Prices(
        settings.base_url,
        usd_per_million_in=settings.usd_per_million_in,
        usd_per_million_out=settings.usd_per_million_out,
    )


def transport_of(settings: Settings) -> Transport:
    """The way to the endpoint of the settings.

    Raises:
        ConfigError: no key where one is needed; an address, header or key that cannot be used.
    """
    if settings.provider == "litellm":
        from trimtab.llm.litellm_sdk import LiteLLMTransport

        # OpenAI's key, the usual default, is not for whatever provider a model's name says: without a
        # variable named for it, LiteLLM looks for the provider's own.
        own = api_key(settings) if "api_key_env" in settings.model_fields_set else None
        return LiteLLMTransport(settings.base_url, api_key=own, headers=headers_of(settings))
    key = api_key(settings)
    if key is None and settings.base_url is None:
        raise ConfigError(
            f"no key for the black box: set the environment variable {settings.api_key_env}, name another "
            "one with --api-key-env, or give --base-url of an endpoint that needs none"
        )
    if settings.provider == "azure" and not (settings.base_url and settings.api_version):
        raise ConfigError("provider azure needs --base-url (the resource's address) and --api-version")
    return OpenAITransport(
        settings.base_url,
        api_key=key,
        headers=headers_of(settings),
        api_version=settings.api_version if settings.provider == "azure" else None,
        connections=min(CONNECTIONS, settings.concurrency),
    )


def _budget(settings: Settings, store: Store, run_id: str) -> Budget:
    """The run's limits inside those of its key; what was spent before counts."""
    of_run = Limits(settings.max_usd, settings.max_total_tokens, settings.max_calls, settings.max_wall_s)
    of_key = Limits(settings.key_max_usd, settings.key_max_tokens, settings.key_max_calls)
    if settings.unpriced and (of_run.usd is not None or of_key.usd is not None):
        raise ConfigError("a limit in dollars cannot be kept with --unpriced: give prices, or limit tokens")
    key = Budget(
        of_key,
        spent=store.usage_of_key(settings.api_key_env),
        name=f"the limit of key {settings.api_key_env}",
    )
    return Budget(of_run, spent=store.usage_of(run_id), name="the limit of this run", outer=key)
