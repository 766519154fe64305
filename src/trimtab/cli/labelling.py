"""An LLM that labels texts, on a run's account: its cost is said first, and nothing is paid for twice.

What is asked and how replies are read is `crosstune.asking`'s; what the labels are wanted for, its callers'.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from trimtab.cli import build
from trimtab.cli.console import say
from trimtab.cli.foreseeing import BYTES_A_TOKEN, REASONED_SHARE, bytes_of
from trimtab.cli.ledger import dollars, usd_of
from trimtab.cli.outlay import Estimate, foreseeing, rates_of, spelt_usage
from trimtab.cli.running import Running, running
from trimtab.cli.settings import Settings
from trimtab.crosstune.asking import AskSettings, Said, ask_labels
from trimtab.crosstune.requesting import Text
from trimtab.crosstune.rows import LabelledText, Labels
from trimtab.llm.budget import worst_case
from trimtab.store import Store
from trimtab.types import AnswerStatus, Completion, Completions, Prompt, Sampling, Usage

if TYPE_CHECKING:
    from trimtab.crosstune import CrossTuneClassifier

KIND = "classify"  # of the run
FREE = Estimate(Usage(), Usage(), 0)


@dataclass(frozen=True, slots=True)
class Ask:
    """Texts whose labels are wanted, and one way of asking for them."""

    name: str
    texts: tuple[Text, ...]
    labels: Labels
    shots: tuple[LabelledText, ...]
    how: AskSettings

    @property
    def digest(self) -> str:
        """A hash of all that shapes the result."""
        shaping = (self.name, self.texts, self.labels, self.shots, self.how)
        return hashlib.sha256(repr(shaping).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Labelled:
    """What came of asking in one way."""

    said: tuple[Said, ...]
    seconds: float = 0.0

    @property
    def usage(self) -> Usage:
        """What was paid for it now; kept replies cost nothing."""
        return sum((said.usage for said in self.said), Usage())

    @property
    def is_cut(self) -> bool:
        """True when a limit was reached before all was asked."""
        return any(said.is_unasked for said in self.said)

    def ended(self, status: AnswerStatus) -> int:
        """How many texts ended so; those that were never asked are not among the failed."""
        return sum(said.status is status and not said.is_unasked for said in self.said)

    def to_json(self) -> dict[str, Any]:
        """Counts and cost, as commands print them."""
        counts = {
            str(status): self.ended(status) for status in AnswerStatus if status is not AnswerStatus.ABSTAINED
        }
        return {**counts, "unasked": sum(said.is_unasked for said in self.said), **spelt_usage(self.usage)}


def with_llm(settings: Settings, llm: str | None) -> Settings:
    """The settings with this model as the one that is asked, where one is named."""
    return settings.model_copy(update={"model": llm}) if llm else settings


def labels_of(model: CrossTuneClassifier) -> Labels:
    """The labels of a classifier, and what each means where it was told."""
    said = (model.descriptions or {}) if model.label_text == "full" else {}
    told = {name: [each] if isinstance(each, str) else list(each) for name, each in said.items()}
    return Labels(tuple(model.classes_.tolist()), told)


# --------------------------------------------------------------------------- the cost, beforehand


class _Free:
    """A black box that costs nothing: it says the longest label, and notes what that would cost."""

    def __init__(self, name: str, reply: str, hidden: int) -> None:
        self.name = name
        self.expected, self.worst = Usage(), Usage()
        self._reply, self._hidden = reply, hidden

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """The label, at no cost."""
        out = len(self._reply) / BYTES_A_TOKEN + REASONED_SHARE * self._hidden
        self.expected += Usage(round(bytes_of(prompt) / BYTES_A_TOKEN), max(1, round(out)), 1)
        self.worst += worst_case(prompt.messages, 1, sampling.max_tokens + self._hidden)
        return Completions((Completion(self._reply),), Usage(), self.name)


def estimated(settings: Settings, asks: Sequence[Ask]) -> Estimate:
    """What asking will cost; replies that are kept cost nothing more.

    Raises:
        ConfigError: no model is named, or its price is needed and unknown.
    """
    build.named(settings, "model")
    model = settings.model or ""
    prices, hidden = rates_of(settings)
    names = [name for ask in asks for name in ask.labels.names]
    box = _Free(model, max(names, key=len, default=""), hidden)
    with closing(build.store_of(settings)) as store:
        asyncio.run(_foreseen(settings, asks, box, store))
    questions = sum(len(set(ask.texts)) for ask in asks)
    expected, worst = (prices.priced(model, usage) for usage in (box.expected, box.worst))
    return Estimate(expected, worst, questions - expected.calls)


async def _foreseen(settings: Settings, asks: Sequence[Ask], box: _Free, store: Store) -> None:
    llm = foreseeing(box, store, settings)
    for ask in asks:
        await ask_labels(llm, ask.texts, ask.labels, ask.shots, ask.how)


def tell_estimate(settings: Settings, estimate: Estimate) -> None:
    """Says what asking will cost, before it is done."""
    usage, worst = estimate.expected, estimate.worst
    tokens = f"{usage.input_tokens + usage.output_tokens:,} tokens"
    say(
        f"asking {settings.model}: about {usage.calls:,} calls, {tokens}, ${dollars(usd_of(usage))}; "
        f"at worst ${dollars(usd_of(worst))}"
    )
    estimate.tell_kept()


# --------------------------------------------------------------------------- asking


def asked(settings: Settings, asks: Sequence[Ask], *, questions: int) -> tuple[dict[str, Labelled], int]:
    """What the LLM says, by the name of the way of asking, and the exit code: 4 where a limit has stopped it.

    Args:
        settings: of the run.
        asks: in the order in which they are done.
        questions: how many texts the command is about.

    Raises:
        LLMError: the key or model is refused, or every question failed.
    """
    if not any(ask.texts for ask in asks):
        return {ask.name: Labelled(()) for ask in asks}, 0
    with running(settings, KIND, *(ask.digest for ask in asks), questions=questions) as under_way:
        found = asyncio.run(_all_asked(asks, under_way))
    return found, under_way.exit_code


async def _all_asked(asks: Sequence[Ask], under_way: Running) -> dict[str, Labelled]:
    """One way after the other, so that each has its own time."""
    llm, found = under_way.client.model(), {}
    for ask in asks:
        started = time.monotonic()
        report = partial(under_way.bar, ask.name)
        said = await ask_labels(llm, ask.texts, ask.labels, ask.shots, ask.how, report)
        found[ask.name] = Labelled(said, time.monotonic() - started)
    return found


def tell_paid(found: Mapping[str, Labelled]) -> None:
    """Says what asking has cost."""
    usage = sum((each.usage for each in found.values()), Usage())
    say(f"the LLM: {usage.calls:,} calls paid, ${dollars(usd_of(usage))}")
