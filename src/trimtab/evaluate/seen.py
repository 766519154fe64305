"""One question after the other: what is kept of each once it is decided.

Figures, and the few examples that a report shows; never the texts of all answers, so that memory does not
grow with them. What the figures come to stands in `compare`.
"""

from __future__ import annotations

import math
import random
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappush, heappushpop
from itertools import combinations

import numpy as np

from trimtab.evaluate.breakdown import Resampling
from trimtab.evaluate.comparison import (
    MAJORITY,
    ORACLE,
    SINGLE,
    STOPPED,
    Budget,
    Counts,
    Draws,
    Shown,
    SideBySide,
    Stopping,
)
from trimtab.evaluate.costs import estimated_usage
from trimtab.evaluate.intervals import Estimate, mean_estimate
from trimtab.evaluate.measures import Parted, parted
from trimtab.pools import share_right
from trimtab.sequential import needed
from trimtab.stopping import DecisionRule, decide
from trimtab.types import AnswerStatus, Candidate, Pool, Usage, Verdict

SUBSETS = 16  # seeded subsets a question and number of draws; all of them where there are no more
SHOWN = 4  # examples kept of each kind


@dataclass(frozen=True, slots=True)
class Ending:
    """How one question ended under one rule."""

    status: AnswerStatus
    chosen: Candidate | None = None
    confidence: float | None = None

    @property
    def is_right(self) -> bool:
        """True when the chosen candidate is."""
        return self.chosen is not None and self.chosen.verdict is Verdict.RIGHT

    def or_abstained(self, below: float) -> Ending:
        """The same, or an abstention where it is less confident than that."""
        unsure = self.confidence is not None and self.confidence < below
        return Ending(AnswerStatus.ABSTAINED, self.chosen, self.confidence) if unsure else self


def ending(candidates: Sequence[Candidate], rule: DecisionRule) -> Ending:
    """How a question with these candidates ends under the rule."""
    if not candidates:
        return Ending(AnswerStatus.FAILED)
    decision = decide(candidates, rule)
    if decision.answer is None:
        return Ending(AnswerStatus.UNREADABLE, decision.candidate)
    return Ending(AnswerStatus.ANSWERED, decision.candidate, decision.confidence)


class Seen:
    """The questions seen so far.

    Args:
        rules: what decides, by method.
        decided_by: the method of them that the evaluation is of.
        budgets: numbers of draws for the curves; by default 1, 2, 4, … and the most drawn.
        stop_when_sure: decide on the first of the draws alone too.
        abstain_below: a decision less confident than this is an abstention.
        seed: of the curves' subsets.
    """

    def __init__(
        self,
        rules: Mapping[str, DecisionRule],
        decided_by: str,
        *,
        budgets: Sequence[int] | None,
        stop_when_sure: bool,
        abstain_below: float,
        seed: int,
    ) -> None:
        self._rules = rules
        self._decided_by = decided_by
        self._abstain_below = abstain_below
        self.ids: list[str] = []
        self.outcomes = {name: array("d") for name in (SINGLE, *rules, ORACLE)}
        self.decided = Decided()
        self.drawn = Drawn()
        self.early = Early(rules[decided_by]) if stop_when_sure else None
        self.curves = Curves(rules, budgets, seed)
        self.mended = Surest()
        self.worst = Surest()

    def add(self, pool: Pool) -> None:
        """One more question."""
        endings = {name: ending(pool.candidates, rule) for name, rule in self._rules.items()}
        self.ids.append(pool.question.id)
        self._add_outcomes(share_right(pool), {name: float(each.is_right) for name, each in endings.items()})
        self.decided.add(endings[self._decided_by].or_abstained(self._abstain_below))
        self.drawn.add(pool)
        if self.early is not None:
            self.early.add(pool)
        self.curves.add(pool, endings)
        self._add_examples(pool, endings[MAJORITY], endings[self._decided_by])

    def _add_outcomes(self, share: float, right: Mapping[str, float]) -> None:
        for name, value in {SINGLE: share, **right, ORACLE: float(share > 0)}.items():
            self.outcomes[name].append(value)

    def _add_examples(self, pool: Pool, vote: Ending, decision: Ending) -> None:
        """Where the decision mends the vote, and where it is wrong though a right answer was drawn."""
        if vote.chosen is None or decision.chosen is None:
            return
        surely, chosen = decision.confidence or 0.0, (self._decided_by, decision.chosen)
        right = next((each for each in pool.candidates if each.verdict is Verdict.RIGHT), None)
        if decision.is_right and not vote.is_right:
            self.mended.add(surely, pool, (MAJORITY, vote.chosen), chosen)
        if right is not None and not decision.is_right:
            self.worst.add(surely, pool, chosen, (ORACLE, right))

    def outcomes_with(self, further: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
        """One outcome a question by method, in the order in which methods are shown."""
        last = self.outcomes[ORACLE]
        early = {STOPPED: self.early.outcomes} if self.early else {}
        return {**{n: v for n, v in self.outcomes.items() if n != ORACLE}, **early, **further, ORACLE: last}


class Decided:
    """How the questions ended, and how sure their decisions were."""

    def __init__(self) -> None:
        self._statuses: Counter[AnswerStatus] = Counter()
        self._answered = array("d")
        self.confident: list[tuple[float, bool]] = []  # with a confidence: it, and whether it was right

    def add(self, end: Ending) -> None:
        """One more."""
        self._statuses[end.status] += 1
        if end.status is AnswerStatus.ANSWERED:
            self._answered.append(float(end.is_right))
        if end.confidence is not None:
            self.confident.append((end.confidence, end.is_right))

    def counts(self) -> Counts:
        """By status."""
        return Counts(
            asked=self._statuses.total(),
            answered=self._statuses[AnswerStatus.ANSWERED],
            unreadable=self._statuses[AnswerStatus.UNREADABLE],
            failed=self._statuses[AnswerStatus.FAILED],
            abstained=self._statuses[AnswerStatus.ABSTAINED],
        )

    def answered_right(self, seed: int) -> Estimate | None:
        """The share right of the answered ones; None without any."""
        return mean_estimate(self._answered, seed=seed) if self._answered else None


class Drawn:
    """The draws themselves: how many, what they look like, what they cost."""

    def __init__(self) -> None:
        self.number = 0
        self.usage = Usage()
        self.unjudged: list[str] = []  # questions with nothing to judge any of their answers by
        self.scores: list[Parted] = []
        self._verdicts: Counter[Verdict] = Counter()
        self._unreadable = 0
        self._questions = 0
        self._asked = 0  # characters
        self._said = 0

    def add(self, pool: Pool) -> None:
        """One more question's."""
        verdicts = Counter(candidate.verdict for candidate in pool.candidates)
        if pool.candidates and verdicts[Verdict.UNJUDGED] == len(pool.candidates):
            self.unjudged.append(pool.question.id)
        self.number += len(pool.candidates)
        self.usage += pool.usage
        self._verdicts += verdicts
        self._unreadable += sum(candidate.answer is None for candidate in pool.candidates)
        self._questions += 1
        self._asked += len(pool.question.with_choices)
        self._said += sum(len(candidate.text) for candidate in pool.candidates)
        if any(candidate.score is not None for candidate in pool.candidates):
            self.scores.append(parted(pool.candidates))

    def draws(self) -> Draws:
        """What they look like."""
        return Draws(
            drawn=self.number,
            right=self._verdicts[Verdict.RIGHT],
            unreadable=self._unreadable,
            unjudged=self._verdicts[Verdict.UNJUDGED],
        )

    def estimated(self) -> Usage:
        """What they would have cost, by their length."""
        return estimated_usage(self._questions, self._asked, self._said)


class Early:
    """The rule on the first of the draws alone, as many as it takes to be certain."""

    def __init__(self, rule: DecisionRule) -> None:
        self._rule = rule
        self._needed = 0
        self.outcomes = array("d")

    def add(self, pool: Pool) -> None:
        """One more question's."""
        count = needed(pool.candidates, self._rule)
        self._needed += count
        self.outcomes.append(float(ending(pool.candidates[:count], self._rule).is_right))

    def stopping(self, drawn: int) -> Stopping:
        """What it spares, of so many draws in all."""
        ratio = self._needed / drawn if drawn else 1.0
        return Stopping(self._rule.certainty, self._needed / len(self.outcomes), ratio)


# --------------------------------------------------------------------------- accuracy against draws


class Curves:
    """Each rule's outcomes when only some of the draws are used.

    With as many draws as a question has, or more, its outcome is that of all of them: a number of draws is
    worked out for the questions that have more, and the most drawn need not be known before the last one.
    """

    def __init__(self, rules: Mapping[str, DecisionRule], budgets: Sequence[int] | None, seed: int) -> None:
        self._rules = rules
        self._budgets = budgets
        self._seed = seed
        self._drawn = array("q")
        self._all = {name: array("d") for name in rules}
        self._fewer: dict[int, dict[str, array[float]]] = {}

    def add(self, pool: Pool, endings: Mapping[str, Ending]) -> None:
        """One more question, and how it ended with all of its draws."""
        for number in self._numbers(len(pool.candidates) - 1):
            if number not in self._fewer:  # so far no question had more draws than this
                self._fewer[number] = {name: column[:] for name, column in self._all.items()}
        for number, columns in self._fewer.items():
            for name, column in columns.items():
                column.append(self._right(pool, name, number, endings[name]))
        for name, column in self._all.items():
            column.append(float(endings[name].is_right))
        self._drawn.append(len(pool.candidates))

    def budget(self, paired: Resampling) -> Budget:
        """The curves with their intervals."""
        draws = self._shown()
        if not draws:
            return Budget((), {})
        curves = {
            name: np.column_stack([self._fewer.get(number, self._all)[name] for number in draws])
            for name in self._rules
        }
        used = tuple(float(np.minimum(self._drawn, number).mean()) for number in draws)
        return Budget(tuple(draws), {name: paired.estimates(curve) for name, curve in curves.items()}, used)

    def _shown(self) -> list[int]:
        most = max(self._drawn)
        last = {most} - {0} if self._budgets is None else set()
        return sorted({*self._numbers(most), *last})

    def _numbers(self, most: int) -> list[int]:
        """The numbers of draws to work out, up to so many."""
        if self._budgets is not None:
            return sorted({number for number in self._budgets if 1 <= number <= most})
        return [2**exponent for exponent in range(max(most, 0).bit_length())]

    def _right(self, pool: Pool, name: str, number: int, full: Ending) -> float:
        if number >= len(pool.candidates):
            return float(full.is_right)
        subsets = _subsets(pool, number, self._seed)
        rights = [ending(subset, self._rules[name]).is_right for subset in subsets]
        return sum(rights) / len(rights)


def _subsets(pool: Pool, number: int, seed: int) -> Iterator[tuple[Candidate, ...]]:
    """Subsets of `number` draws in the order drawn: all where they are few, else a seeded choice."""
    have = len(pool.candidates)
    if number == 1 or math.comb(have, number) <= SUBSETS:
        yield from combinations(pool.candidates, number)
        return
    rng = random.Random(f"{seed}:{number}:{pool.question.id}")
    for _ in range(SUBSETS):
        yield tuple(pool.candidates[index] for index in sorted(rng.sample(range(have), number)))


# --------------------------------------------------------------------------- examples to read


class Surest:
    """The few examples that were decided most surely; of equals those asked first."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, SideBySide]] = []  # the one to give up first on top
        self._came = 0

    def add(
        self, confidence: float, pool: Pool, left: tuple[str, Candidate], right: tuple[str, Candidate]
    ) -> None:
        """One more."""
        self._came += 1
        put = heappush if len(self._heap) < SHOWN else heappushpop
        put(self._heap, (confidence, -self._came, _pair(pool, left, right)))

    def pairs(self) -> tuple[SideBySide, ...]:
        """The surest first."""
        return tuple(pair for _, _, pair in sorted(self._heap, reverse=True))


def _pair(pool: Pool, left: tuple[str, Candidate], right: tuple[str, Candidate]) -> SideBySide:
    return SideBySide(
        pool.question.id, pool.question.with_choices, pool.question.answer, _shown(*left), _shown(*right)
    )


def _shown(method: str, candidate: Candidate) -> Shown:
    return Shown(
        method, candidate.text, candidate.answer, candidate.verdict, candidate.score, candidate.confidence
    )
