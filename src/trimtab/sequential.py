"""When enough has been drawn: the sequential stopping rule beside a decision rule. Pure.

Drawing may stop once the answer that leads under the decision rule will most likely still lead when the
whole budget is spent. Not here: the decision itself (`stopping`), and drawing wave by wave (`drawing`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, stdev

from trimtab.stopping import DecisionRule, decide, leader, tally, weights
from trimtab.types import Candidate, Verdict

PRIOR = 0.5  # Jeffreys: pseudo-evidence of the leader and of its rival before anything is drawn
LEAST = 0.95  # the default of `DecisionRule.certainty`, and the least that is chosen
CERTAINTIES = (LEAST, 0.98, 0.99, 0.995, 0.999)  # tried on held-out questions; 1 when none will do
TOLERANCE = 0.005  # accuracy that stopping may lose: half a point
ORDERS = 8  # orders of a pool's draws each certainty is tried on


def certainty(candidates: Sequence[Candidate], rule: DecisionRule, remaining: int) -> float:
    """P(today's leader still leads after `remaining` more draws), for candidates in the order drawn.

    *Paper*: Adaptive-Consistency (Aggarwal et al., 2023) stops when a Beta posterior says that the majority
    of infinitely many draws is known. *Differs*: evidence is calibrated confidence where there is one,
    votes weigh as in the decision rule, and only the draws left can overtake: their votes follow the
    Beta-binomial, with all of them going to the leader or to its strongest rival (the cautious case).

    Every further draw is taken to weigh as much as the mean one drawn. Under `argmax` the leader falls when
    the highest score of all lies among the draws left (for exchangeable draws a chance of
    remaining / (drawn + remaining)) and there on another answer. 0.0 while nothing readable was drawn.
    """
    readable = [candidate for candidate in candidates if candidate.answer is not None]
    if not readable:
        return 0.0
    if remaining <= 0:
        return 1.0
    votes = tally(readable, weights(readable, rule))
    first = leader(votes)
    ours, theirs = _evidence(readable, first)
    if rule.name == "argmax":
        return 1.0 - remaining / (len(readable) + remaining) * theirs / (ours + theirs)
    mean_vote = math.fsum(votes.values()) / len(readable)
    lead = (votes[first] - _next_vote(votes, first)) / mean_vote  # in further draws
    return math.fsum(
        beta_binomial(for_rival, remaining, theirs, ours)
        for for_rival in range(remaining + 1)
        if 2 * for_rival - remaining <= lead
    )


def _evidence(readable: Sequence[Candidate], leader: str) -> tuple[float, float]:
    """The Beta posterior's two counts: for the leader and for the rival with the most evidence."""
    sums: dict[str, float] = {}
    for candidate in readable:
        known = 1.0 if candidate.confidence is None else candidate.confidence
        sums[candidate.answer or ""] = sums.get(candidate.answer or "", 0.0) + known
    ours = sums.pop(leader)
    return PRIOR + ours, PRIOR + max(sums.values(), default=0.0)


def _next_vote(votes: Mapping[str, float], first: str) -> float:
    return max((vote for answer, vote in votes.items() if answer != first), default=0.0)


@lru_cache(maxsize=4096)
def beta_binomial(k: int, n: int, a: float, b: float) -> float:
    """P(k of n) when the chance of each follows Beta(a, b): C(n, k) B(k + a, n - k + b) / B(a, b)."""
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(ways + _log_beta(k + a, n - k + b) - _log_beta(a, b))


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


# --------------------------------------------------------------------------- on draws that are there


@dataclass(frozen=True, slots=True)
class Stopped:
    """What stopping early is worth on pools whose draws are all there."""

    certainty: float
    drawn: float  # mean draws a question
    ratio: float  # of all there are
    accuracy: float
    difference: float  # of accuracy, to all draws
    error: float  # standard error of the difference over questions


def needed(candidates: Sequence[Candidate], rule: DecisionRule, wave: int = 1) -> int:
    """How many of these draws, taken in waves, are drawn before the leader is certain enough.

    A certainty of 1 draws them all.
    """
    return _Order(candidates, rule, wave).needed(rule.certainty)


def stopped(
    pools: Sequence[Sequence[Candidate]],
    rule: DecisionRule,
    *,
    wave: int = 1,
    orders: int = ORDERS,
    seed: int = 0,
) -> Stopped:
    """Stopping at `rule.certainty` against all draws, as the mean over several orders of each pool's draws.

    The first order is the one drawn. Empty pools count as wrong answers that took no draw.

    Raises:
        ValueError: there is no pool.
    """
    if not pools:
        raise ValueError("there is no question to stop on")
    return _stopped([_orders(pool, rule, wave, orders, seed) for pool in pools], rule.certainty)


def choose_certainty(pools: Sequence[Sequence[Candidate]], rule: DecisionRule) -> float:
    """The cheapest certainty to stop at that loses at most half a point of accuracy on held-out questions.

    As far as they can tell: a loss within one standard error of the tolerance passes, and never below the
    default, for few questions tell little. 1.0, which draws all, if none passes.
    """
    if not pools:
        return LEAST
    trials = [_orders(pool, rule, 1, ORDERS, 0) for pool in pools]
    found = (_stopped(trials, each) for each in CERTAINTIES)
    return next((each.certainty for each in found if each.difference + each.error >= -TOLERANCE), 1.0)


class _Order:
    """One order of a pool's draws; what is worked out after some of them holds at every certainty tried."""

    def __init__(self, draws: Sequence[Candidate], rule: DecisionRule, wave: int) -> None:
        self.draws, self.rule, self.wave = draws, rule, wave
        self._certainties: dict[int, float] = {}
        self._rights: dict[int, float] = {}

    def needed(self, enough: float) -> int:
        """Draws until the leader is certain enough."""
        drawn = min(self.wave, len(self.draws)) if enough < 1 else len(self.draws)
        while drawn < len(self.draws) and self.certainty(drawn) < enough:
            drawn = min(drawn + self.wave, len(self.draws))
        return drawn

    def certainty(self, drawn: int) -> float:
        """After so many draws."""
        if drawn not in self._certainties:
            left = len(self.draws) - drawn
            self._certainties[drawn] = certainty(self.draws[:drawn], self.rule, left)
        return self._certainties[drawn]

    def is_right(self, drawn: int) -> float:
        """1.0 where the decision after so many draws is right."""
        if drawn not in self._rights:
            self._rights[drawn] = _is_right(self.draws[:drawn], self.rule)
        return self._rights[drawn]


def _orders(pool: Sequence[Candidate], rule: DecisionRule, wave: int, count: int, seed: int) -> list[_Order]:
    rng = random.Random(f"{seed}:{len(pool)}:{pool[0].text if pool else ''}")
    drawn = [pool, *(rng.sample(pool, len(pool)) for _ in range(count - 1))]
    return [_Order(each, rule, wave) for each in drawn]


def _stopped(trials: Sequence[Sequence[_Order]], enough: float) -> Stopped:
    counts = [[order.needed(enough) for order in each] for each in trials]
    early = [_mean_right(each, taken) for each, taken in zip(trials, counts, strict=True)]
    # Of all draws the first order speaks: the others hold the same ones.
    full = [each[0].is_right(len(each[0].draws)) for each in trials]
    gains = [ours - theirs for ours, theirs in zip(early, full, strict=True)]
    drawn, all_draws = fmean(map(fmean, counts)), fmean(len(each[0].draws) for each in trials)
    error = stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0
    ratio = drawn / all_draws if all_draws else 1.0
    return Stopped(enough, drawn, ratio, fmean(early), fmean(gains), error)


def _mean_right(orders: Sequence[_Order], counts: Sequence[int]) -> float:
    return fmean(order.is_right(count) for order, count in zip(orders, counts, strict=True))


def _is_right(candidates: Sequence[Candidate], rule: DecisionRule) -> float:
    if not candidates:
        return 0.0
    return float(decide(candidates, rule).candidate.verdict is Verdict.RIGHT)
