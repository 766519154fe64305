"""What asking an LLM for labels or texts will cost: foreseen with the command's own work, said and spelt out.

What a whole run of `answer`, `adapt` or `evaluate` costs is `estimating`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trimtab.cli.client import prices_of
from trimtab.cli.console import say
from trimtab.cli.foreseeing import ReadOnly, payer_scope
from trimtab.cli.ledger import usd_of
from trimtab.cli.settings import Settings
from trimtab.llm import Cached, Prices
from trimtab.llm.capabilities import capabilities_of
from trimtab.llm.prices import refuse_unpriced
from trimtab.store import Store
from trimtab.types import LLM, Usage


@dataclass(frozen=True, slots=True)
class Estimate:
    """What asking will cost, before it is done; kept replies cost nothing."""

    expected: Usage
    worst: Usage
    kept: int  # replies that are there already

    def to_json(self) -> dict[str, Any]:
        """As `--json` has it."""
        figures = {"expected": spelt_usage(self.expected), "worst": spelt_usage(self.worst)}
        return {**figures, "kept_replies": self.kept}

    def tell_kept(self) -> None:
        """Says how many replies are kept, where any is."""
        if self.kept:
            say(f"{self.kept:,} replies are kept already and cost nothing more")


def spelt_usage(usage: Usage) -> dict[str, Any]:
    """What calls cost, as JSON has it."""
    tokens = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    return {"calls": usage.calls, **tokens, "usd": usd_of(usage)}


def rates_of(settings: Settings) -> tuple[Prices, int]:
    """The prices, and the tokens of reasoning that a reply of the model may take at most.

    Raises:
        ConfigError: the model's price is needed and unknown.
    """
    model, prices = settings.model or "", prices_of(settings)
    if not settings.unpriced:
        refuse_unpriced(prices, model)
    return prices, capabilities_of(model, settings.capabilities).reasoning_tokens


def foreseeing(box: LLM, store: Store, settings: Settings) -> LLM:
    """A box that costs nothing, behind the kept replies that the run itself would find."""
    return Cached(box, ReadOnly(store), scope=payer_scope(settings), bypass=not settings.cache)
