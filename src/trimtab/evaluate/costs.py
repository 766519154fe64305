"""What each method costs: draws a question, and dollars a thousand questions where prices are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from trimtab.evaluate.comparison import ORACLE, SINGLE, STOPPED, Comparison, Cost
from trimtab.types import Pool, Usage

CHARACTERS_A_TOKEN = 4  # of English text: for answers that were recorded without their usage

Price = Callable[[Usage], float | None]


@dataclass(frozen=True, slots=True)
class Spent:
    """What a method that draws or asks for itself took, over all questions."""

    draws: int | None  # complete answers; None of a search, which draws step by step
    usd: float | None  # None where it is not known
    with_draws: bool = False  # on top of the draws that all methods share (a judge of them)
    output_tokens: int = 0  # of a search: what its draws are reckoned by


def spent_on(pools: Sequence[Pool]) -> Spent:
    """What drawing these pools took."""
    usage = _usage_of(pools)
    return Spent(sum(len(pool.candidates) for pool in pools), usage.usd if usage.calls else None)


def spent_searching(pools: Sequence[Pool]) -> Spent:
    """What searching for these beams took, the beams that were given up included."""
    usage = _usage_of(pools)
    return Spent(None, usage.usd if usage.calls else None, output_tokens=usage.output_tokens)


def _usage_of(pools: Sequence[Pool]) -> Usage:
    return sum((pool.usage for pool in pools), start=Usage())


def with_costs(
    comparison: Comparison, price: Price, further: Mapping[str, Spent] | None = None
) -> Comparison:
    """The comparison with what each of its methods costs.

    The draws of a question are taken to cost alike; a single one so many times less than all, which is low
    where the endpoint gives several for one reading of the prompt. Where the draws were recorded without
    their usage it is estimated from their length, a token every four characters.

    Args:
        comparison: without its costs.
        price: dollars of some usage; None where prices are not known.
        further: the methods that drew for themselves, or asked somebody about the draws.
    """
    asked, drawn, usage = comparison.counts.asked, comparison.draws.drawn, comparison.usage
    usd = usage.usd if usage.calls else price(comparison.estimated)
    every = _cost(drawn, usd, asked)
    costs = {name: every for name in comparison.accuracy if name != ORACLE}
    costs[SINGLE] = _times(every, 1 / every.draws if every.draws else 1.0)
    if comparison.stopping is not None:
        costs[STOPPED] = _times(every, comparison.stopping.samples_ratio)
    for name, spent in (further or {}).items():
        draws = _as_draws(spent, usage.output_tokens, drawn) if spent.draws is None else spent.draws
        own = _cost(draws, spent.usd, asked)
        costs[name] = _sum(every, own) if spent.with_draws else own
    return replace(comparison, costs=costs)


def estimated_usage(questions: int, asked: int, said: int) -> Usage:
    """Of drawing in one request a question, from the characters of the questions and of the answers."""
    return Usage(asked // CHARACTERS_A_TOKEN, said // CHARACTERS_A_TOKEN, questions)


def _as_draws(spent: Spent, tokens: int, drawn: int) -> float:
    """As many complete answers as a search's tokens would make; 0 where their length is not known."""
    return spent.output_tokens * drawn / tokens if tokens else 0.0


def _cost(draws: float, usd: float | None, questions: int) -> Cost:
    return Cost(draws / questions, None if usd is None else 1000 * usd / questions)


def _times(cost: Cost, share: float) -> Cost:
    usd = cost.usd_per_thousand
    return Cost(cost.draws * share, None if usd is None else usd * share)


def _sum(one: Cost, other: Cost) -> Cost:
    usd = (one.usd_per_thousand, other.usd_per_thousand)
    total = None if usd[0] is None or usd[1] is None else usd[0] + usd[1]
    return Cost(one.draws + other.draws, total)
