"""Laws of prices: the user's own come first, published ones come from the package, nothing is fetched."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from genai_prices import Usage as Tokens
from genai_prices import calc_price
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import ConfigError
from trimtab.llm.prices import Prices, refuse_unpriced
from trimtab.types import Usage

OPENAI = "https://api.openai.com/v1"
ANTHROPIC = "https://api.anthropic.com/v1"
GOOGLE = "https://generativelanguage.googleapis.com/v1beta/openai"
LOCAL = "http://127.0.0.1:8000/v1"
MILLION = Usage(1_000_000, 1_000_000, 1)


@given(tokens_in=st.integers(0, 10**7), tokens_out=st.integers(0, 10**7))
def test_the_users_own_prices_are_dollars_a_million_tokens(tokens_in, tokens_out):
    prices = Prices(LOCAL, usd_per_million_in=3.0, usd_per_million_out=15.0)
    paid = prices.usd("whatever", Usage(tokens_in, tokens_out, 1))
    assert paid == pytest.approx(tokens_in * 3e-6 + tokens_out * 15e-6)


def test_the_users_own_prices_come_before_published_ones_and_before_the_free_models():
    prices = Prices(OPENAI, usd_per_million_in=1.0, usd_per_million_out=1.0)
    assert prices.usd("gpt-4o-mini", MILLION) == 2.0
    assert prices.usd("trimtab-blackbox", MILLION) == 2.0


@pytest.mark.parametrize("one", ["usd_per_million_in", "usd_per_million_out"])
def test_one_price_without_the_other_is_refused(one):
    with pytest.raises(ConfigError, match="pairs"):
        Prices(LOCAL, **{one: 1.0})


@pytest.mark.parametrize(
    ("url", "model"),
    [
        (OPENAI, "gpt-4o-mini"),
        (OPENAI, "gpt-4o-mini-2024-07-18"),
        (ANTHROPIC, "claude-sonnet-4-5"),
        (GOOGLE, "gemini-2.5-pro"),
    ],
)
@pytest.mark.parametrize("tokens_in", [1, 199_999, 200_000, 200_001, 1_000_000])
def test_a_published_price_is_that_of_the_package_at_every_length(url, model, tokens_in):
    slow = calc_price(Tokens(input_tokens=tokens_in, output_tokens=700), model, provider_api_url=url)
    assert Prices(url).usd(model, Usage(tokens_in, 700, 1)) == pytest.approx(float(slow.total_price))


def test_without_an_address_the_price_is_openais():
    assert Prices().usd("gpt-4o-mini", MILLION) == Prices(OPENAI).usd("gpt-4o-mini", MILLION)


def test_without_an_address_a_name_may_begin_with_its_provider():
    assert Prices().usd("anthropic/claude-sonnet-4-5", Usage(1000, 10, 1)) == Prices(ANTHROPIC).usd(
        "claude-sonnet-4-5", Usage(1000, 10, 1)
    )
    assert Prices().usd("gemini/gemini-2.5-pro", MILLION) == Prices(GOOGLE).usd("gemini-2.5-pro", MILLION)


@pytest.mark.parametrize(
    ("url", "model"),
    [
        (OPENAI, "no-such-model"),
        (LOCAL, "gpt-4o-mini"),  # a namesake at another endpoint is another model
        (LOCAL, "anthropic/claude-sonnet-4-5"),
        (None, "no-such-provider/model"),
    ],
)
def test_an_unknown_price_is_none_and_is_refused_by_name_of_the_flags(url, model):
    prices = Prices(url)
    assert prices.usd(model, MILLION) is None
    assert prices.priced(model, MILLION) == MILLION
    with pytest.raises(ConfigError, match=r"--usd-per-million-in and --usd-per-million-out .* --unpriced"):
        refuse_unpriced(prices, model)


def test_the_embedded_models_cost_nothing():
    assert Prices(LOCAL).usd("trimtab-blackbox", MILLION) == 0.0
    refuse_unpriced(Prices(LOCAL), "trimtab-blackbox")


def test_at_batch_prices_half_is_paid_published_or_not():
    for prices in (
        Prices(OPENAI),
        Prices("https://x.openai.azure.com/openai"),  # nothing is published of Azure's batches
        Prices(LOCAL, usd_per_million_in=1.0, usd_per_million_out=2.0),
    ):
        usual = prices.usd("gpt-4o-mini", MILLION)
        assert usual is not None
        assert prices.usd("gpt-4o-mini", MILLION, is_batch=True) == pytest.approx(usual / 2)


def test_a_priced_usage_keeps_its_counts():
    priced = Prices(OPENAI).priced("gpt-4o-mini", Usage(10, 20, 3))
    assert (priced.input_tokens, priced.output_tokens, priced.calls) == (10, 20, 3)
    assert priced.usd == pytest.approx(10 * 0.15e-6 + 20 * 0.6e-6)


def test_nothing_is_fetched_and_nothing_runs_in_the_background(monkeypatch):
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened for a price")

    monkeypatch.setattr(socket.socket, "connect", refused)
    before = threading.active_count()
    assert Prices(OPENAI).usd("gpt-4o", MILLION) is not None
    assert Prices(ANTHROPIC).usd("claude-sonnet-4-5", MILLION) is not None
    assert threading.active_count() == before


def test_a_price_is_looked_up_once_a_model():
    prices = Prices(ANTHROPIC)
    prices.usd("claude-sonnet-4-5", MILLION)
    began = time.perf_counter()
    for _ in range(1000):
        prices.usd("claude-sonnet-4-5", Usage(1000, 100, 1))
    assert time.perf_counter() - began < 0.1  # a look-up takes 0.3 ms
