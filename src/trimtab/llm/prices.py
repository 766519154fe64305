"""What tokens cost: the user's own figures, else those that genai-prices keeps for the known providers.

Nothing is fetched: the figures are those of the installed package, and its updater is never started.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from trimtab.errors import ConfigError
from trimtab.types import Usage

if TYPE_CHECKING:
    from genai_prices.types import PriceCalculation

MILLION = 1_000_000
BATCH_SHARE = 0.5  # of the usual price: what OpenAI, Azure, Anthropic and Google ask for their batch APIs
FREE = ("trimtab-blackbox",)  # the embedded models, by how their names begin
OPENAI_URL = "https://api.openai.com/v1"
# Providers as litellm's model names begin with them, where genai-prices calls them otherwise.
PROVIDERS = {
    "gemini": "google",
    "vertex_ai": "google",
    "bedrock": "aws",
    "together_ai": "together",
    "fireworks_ai": "fireworks",
    "xai": "x-ai",
}

Price = Callable[[Usage], float]


class Prices:
    """Dollars for tokens of the models behind one endpoint.

    Cached input tokens are counted at the full price, so that a figure never says too little. At batch
    prices half is counted where nothing else is published.

    Args:
        base_url: the endpoint, which tells the provider. Left out it is OpenAI's own, or the provider that
            a model's name begins with, as litellm writes it (`anthropic/…`).
        usd_per_million_in: the user's own price of a million input tokens, for every model here.
        usd_per_million_out: likewise of output tokens.

    Raises:
        ConfigError: one of the two without the other.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        usd_per_million_in: float | None = None,
        usd_per_million_out: float | None = None,
    ) -> None:
        if (usd_per_million_in is None) != (usd_per_million_out is None):
            raise ConfigError(
                "prices come in pairs: give both --usd-per-million-in and --usd-per-million-out"
            )
        self._url = base_url
        self._own: Price | None = None
        if usd_per_million_in is not None and usd_per_million_out is not None:
            self._own = _linear(usd_per_million_in, usd_per_million_out)
        self._known: dict[tuple[str, bool], Price | None] = {}

    def usd(self, model: str, usage: Usage, *, is_batch: bool = False) -> float | None:
        """What this usage of a model costs; None where no price is known."""
        wanted = (model, is_batch)
        if wanted not in self._known:
            self._known[wanted] = self._looked_up(model, is_batch)
        price = self._known[wanted]
        return None if price is None else price(usage)

    def priced(self, model: str, usage: Usage, *, is_batch: bool = False) -> Usage:
        """The usage with its dollars filled in."""
        return replace(usage, usd=self.usd(model, usage, is_batch=is_batch))

    def _looked_up(self, model: str, is_batch: bool) -> Price | None:
        if self._own is not None:
            return _times(self._own, BATCH_SHARE) if is_batch else self._own
        if model.startswith(FREE):
            return _linear(0.0, 0.0)
        return _published(model, self._url, is_batch)


def refuse_unpriced(prices: Prices, model: str) -> None:
    """Raises ConfigError where no price is known for a model: a run would not know what it spends."""
    if prices.usd(model, Usage(1, 1, 1)) is None:
        raise ConfigError(
            f"no price is known for model '{model}' at this endpoint; give --usd-per-million-in and "
            "--usd-per-million-out (0 for a model of your own), or --unpriced to go on without dollars"
        )


def _linear(per_million_in: float, per_million_out: float) -> Price:
    def usd(usage: Usage) -> float:
        return (usage.input_tokens * per_million_in + usage.output_tokens * per_million_out) / MILLION

    return usd


def _times(price: Price, share: float) -> Price:
    return lambda usage: price(usage) * share


# --------------------------------------------------------------------------- what is published


@lru_cache(maxsize=256)
def _published(model: str, url: str | None, is_batch: bool) -> Price | None:
    """The published price of a model at a known provider's endpoint; None where either is not known."""
    place = _place(model, url)
    if place is None:
        return None
    found = _calculated(Usage(1, 1), place, is_batch)
    if not is_batch:
        return _price(found, place, is_batch=False)
    if found.model_price == _calculated(Usage(1, 1), place, is_batch=False).model_price:
        return _times(_price(found, place, is_batch=False), BATCH_SHARE)
    return _price(found, place, is_batch=True)


def _place(model: str, url: str | None) -> dict[str, Any] | None:
    """How genai-prices is asked for a model: at an address, or by the provider in the model's name."""
    provider, slash, name = model.partition("/")
    named = {"provider_id": PROVIDERS.get(provider, provider), "model_ref": name}
    asked: list[dict[str, Any]] = [{"provider_api_url": url or OPENAI_URL, "model_ref": model}]
    asked += [named] if slash and url is None else []
    return next((each for each in asked if _is_known(each)), None)


def _is_known(place: dict[str, Any]) -> bool:
    try:
        _calculated(Usage(1, 1), place, is_batch=False)
    except LookupError:
        return False
    return True


def _price(found: PriceCalculation, place: dict[str, Any], *, is_batch: bool) -> Price:
    """The price as a sum, looked up once; asked for anew where a long input has a price of its own."""
    rates = [_rate(each) for each in (found.model_price.input_mtok, found.model_price.output_mtok)]
    shortest_tier = min(start for _, start in rates)
    usual = _linear(*(rate for rate, _ in rates))

    def usd(usage: Usage) -> float:
        if usage.input_tokens <= shortest_tier:
            return usual(usage)
        return float(_calculated(usage, place, is_batch).total_price)

    return usd


def _rate(price: Any) -> tuple[float, float]:
    """Dollars a million tokens, and up to how many input tokens; what is not listed is free."""
    if price is None:
        return 0.0, math.inf
    if isinstance(price, Decimal):
        return float(price), math.inf
    return float(price.base), min(tier.start for tier in price.tiers)


def _calculated(usage: Usage, place: dict[str, Any], is_batch: bool) -> PriceCalculation:
    from genai_prices import Usage as Tokens
    from genai_prices import calc_price

    tokens = Tokens(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)
    context: Any = {"processing": "batch"} if is_batch else None
    return calc_price(tokens, price_context=context, **place)
