"""The black box behind the server: how it is asked, and what it shares with everyone who asks it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from trimtab.drawing import BeamSettings, Waves
from trimtab.llm import Budget, Limiter, Limits, Prices
from trimtab.llm.budget import worst_case
from trimtab.llm.observed import Observer
from trimtab.llm.relay import Relay
from trimtab.types import LLM, Completions, Message, Prompt, Sampling, Usage


@dataclass(frozen=True, slots=True)
class Upstream:
    """One model at one endpoint.

    `relay` is None where requests cannot be passed on as they are.
    """

    name: str  # as the endpoint knows it
    llm: LLM  # for adapted answers: all draws asked for, each kept before it is used
    relay: Relay | None = None
    prices: Prices = field(default_factory=Prices)
    limiter: Limiter = field(default_factory=Limiter)
    budget: Budget = field(default_factory=lambda: Budget(Limits()))
    payer: str = ""  # name of the environment variable that holds the key
    observers: Sequence[Observer] = ()
    length: str = "max_tokens"  # what the model calls the longest answer

    @property
    def endpoint(self) -> str:
        """Where requests are passed on to, without credentials."""
        return self.relay.endpoint if self.relay is not None else ""

    def priced(self, usage: Usage) -> Usage:
        """The usage with its dollars, where the price is known."""
        return self.prices.priced(self.name, usage)


class Preceded:
    """A black box that is sent some messages before every prompt: what was said earlier in a conversation."""

    def __init__(self, llm: LLM, earlier: Sequence[Message]) -> None:
        self._llm, self._earlier = llm, tuple(earlier)

    @property
    def name(self) -> str:
        """The name of the model inside."""
        return self._llm.name

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """What the model inside answers. Raises what it raises."""
        return await self._llm.complete(
            replace(prompt, messages=(*self._earlier, *prompt.messages)), sampling
        )


def worst_of(messages: Sequence[Message], how: Sampling | Waves | BeamSettings) -> Usage:
    """The most that one adapted answer can use, unpriced: every draw is asked for by a request of its own."""
    if isinstance(how, BeamSettings):
        requests = how.width * how.samples * how.max_steps
        each = worst_case(messages, 1, how.max_tokens)
        chain = how.max_steps * how.max_tokens  # the answer so far travels with each request
        return Usage(requests * (each.input_tokens + chain), requests * each.output_tokens, requests)
    sampling = how.sampling if isinstance(how, Waves) else how
    each = worst_case(messages, 1, sampling.max_tokens)
    return Usage(sampling.n * each.input_tokens, sampling.n * each.output_tokens, sampling.n)
