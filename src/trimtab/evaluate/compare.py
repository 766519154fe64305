"""The paired comparison: every method over the same questions and the same draws, with intervals.

A verdict stands in each candidate; a method is right on a question when the candidate it decides for is.
Failed and unreadable questions count 0 and stay in the denominator. No model, no black box, no file here.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from trimtab.errors import InputError
from trimtab.evaluate.breakdown import Resampling, by_category, by_seed
from trimtab.evaluate.comparison import (
    BEST_OF_N,
    MAJORITY,
    OF,
    ORACLE,
    SINGLE,
    STOPPED,
    WEIGHTED_VOTE,
    Budget,
    Comparison,
    Counts,
    Draws,
    Shown,
    SideBySide,
    Stopping,
)
from trimtab.evaluate.intervals import (
    Array,
    Difference,
    Estimate,
    mean_estimate,
)
from trimtab.evaluate.marks import Mark, clusters_of, unmarked
from trimtab.evaluate.measures import calibration_of, risk_of, scores_of
from trimtab.pools import share_right
from trimtab.sequential import needed
from trimtab.stopping import DecisionRule, RuleName, decide
from trimtab.types import AnswerStatus, Candidate, Pool, Usage, Verdict

SUBSETS = 16  # seeded subsets a question and number of draws; all of them where there are no more
SHOWN = 4  # examples kept of each kind

_METHOD_OF_RULE = {"argmax": BEST_OF_N}  # other rules are methods by their own name
_PAIRS = (
    (WEIGHTED_VOTE, MAJORITY),
    (BEST_OF_N, SINGLE),
    (WEIGHTED_VOTE, SINGLE),
    (BEST_OF_N, MAJORITY),
    (MAJORITY, SINGLE),
)


@dataclass(frozen=True, slots=True)
class _Ending:
    """How one question ended under one rule."""

    status: AnswerStatus
    chosen: Candidate | None = None
    confidence: float | None = None

    @property
    def is_right(self) -> bool:
        return self.chosen is not None and self.chosen.verdict is Verdict.RIGHT


def compare(
    pools: Sequence[Pool],
    rule: DecisionRule,
    *,
    others: Sequence[DecisionRule] = (),
    budgets: Sequence[int] | None = None,
    further: Mapping[str, Sequence[float]] | None = None,
    marks: Sequence[Mark] | None = None,
    stop_when_sure: bool = False,
    abstain_below: float = 0.0,
    seed: int = 0,
) -> Comparison:
    """What each method reaches on these questions at equal numbers of draws.

    `single` is the mean share right over a question's draws: the expected accuracy of one draw. `majority`,
    `best_of_n` (highest score) and `weighted_vote` decide over all draws; `oracle` is right when any draw is.
    Unscored candidates leave `best_of_n` and `weighted_vote` out. Abstaining moves a question's count and
    `answered_right`, never a method's accuracy.

    Args:
        pools: the questions with their judged candidates, in the order drawn.
        rule: what decides.
        others: how `majority`, `best_of_n` (argmax) and `weighted_vote` decide where `rule` is another one,
            each with the temperature chosen for it (`Manifest.decision_rules`). One that is not among them is
            plain, the weighted vote at temperature 1; those of other names are not compared.
        budgets: numbers of draws for the accuracy curves; by default 1, 2, 4, … and the most drawn. A
            question with fewer draws uses those it has. Empty for no curves.
        further: methods that are not rules on these scores (`beam_search`, `ai_judge@gpt`,
            `weighted_vote@other`), one outcome in [0, 1] a question, in order.
        marks: for each pool its cluster, category and seed; by default clusters are as `cluster_of` reads
            the ids. Variants, and one question drawn with several seeds, are resampled together.
        stop_when_sure: compare `stopped` too: the rule on the first of the draws alone, as many as it takes
            to be as certain as `rule.certainty` (`sequential`).
        abstain_below: a decision less confident than this is an abstention.
        seed: of resampling and of the curves' subsets.

    Raises:
        InputError: there are no questions, some have nothing to judge their answers by, or the rule needs
            scores that are not there.
        ValueError: some candidates are scored and some are not, or `further` is not of the same questions.
    """
    _refuse_unusable(pools, further or {})
    rules = _rules(pools, rule, others)
    decided_by = _METHOD_OF_RULE.get(rule.name, rule.name)
    endings = {name: [_ending(pool.candidates, each) for pool in pools] for name, each in rules.items()}
    decided = [_or_abstained(ending, abstain_below) for ending in endings[decided_by]]
    needs = [needed(pool.candidates, rule) for pool in pools] if stop_when_sure else []
    early = {STOPPED: _stopped(pools, rule, needs)} if stop_when_sure else {}
    outcomes = _outcomes(pools, endings, {**early, **(further or {})})
    marks = marks or unmarked(pool.question.id for pool in pools)
    paired = Resampling(clusters_of(marks), seed)
    confident = [(e.confidence, e.is_right) for e in decided if e.confidence is not None]
    return Comparison(
        rule=rule.name,
        temperature=rule.temperature,
        decided_by=decided_by,
        counts=_counts(decided),
        samples_per_question=float(np.mean([len(pool.candidates) for pool in pools])),
        accuracy=paired.accuracy(outcomes),
        differences=_differences(outcomes, decided_by, paired),
        answered_right=_answered_right(decided, seed),
        budget=_budget(pools, rules, _numbers_of_draws(pools, budgets), paired),
        draws=_draws(pools),
        calibration=calibration_of(confident),
        scores=scores_of([pool.candidates for pool in pools]),
        usage=sum((pool.usage for pool in pools), start=Usage()),
        stopping=_stopping(pools, rule, needs) if stop_when_sure else None,
        mended=_mended(pools, decided_by, endings),
        worst=_worst(pools, decided_by, endings[decided_by]),
        clusters=len({mark.cluster for mark in marks}),
        risk=risk_of(confident, len(pools)),
        categories=by_category(outcomes, marks, paired),
        seeds=by_seed(outcomes, marks),
        costs={},
        ids=tuple(pool.question.id for pool in pools),
        outcomes={name: tuple(map(float, values)) for name, values in outcomes.items()},
    )


# --------------------------------------------------------------------------- deciding


def _refuse_unusable(pools: Sequence[Pool], further: Mapping[str, Sequence[float]]) -> None:
    if not pools:
        raise InputError("an evaluation needs at least one question; none came")
    unjudged = [pool.question.id for pool in pools if pool.candidates and not _is_judged(pool)]
    if unjudged:
        shown = ", ".join(unjudged[:5]) + (", …" if len(unjudged) > 5 else "")
        raise InputError(
            f"an evaluation needs something to judge by: {len(unjudged)} of {len(pools)} questions have "
            f"neither a reference answer nor a 'correct' label ({shown}); add 'answer' to these rows or "
            f"leave them out"
        )
    for name, values in further.items():
        if len(values) != len(pools):
            raise ValueError(f"{name}: one outcome a question is needed, {len(values)} came for {len(pools)}")


def _is_judged(pool: Pool) -> bool:
    return any(candidate.verdict is not Verdict.UNJUDGED for candidate in pool.candidates)


def _rules(
    pools: Sequence[Pool], rule: DecisionRule, others: Sequence[DecisionRule]
) -> dict[str, DecisionRule]:
    """The rules that can be compared on these candidates, by method; `rule` itself among them."""
    scored = {candidate.score is not None for pool in pools for candidate in pool.candidates}
    if len(scored) > 1:
        raise ValueError("either every candidate is scored or none is")
    if False in scored and rule.name != MAJORITY:
        raise InputError(
            f"the rule '{rule.name}' needs scored answers; name an adapter, or use the rule majority"
        )
    compared: tuple[RuleName, ...] = (
        ("majority",) if False in scored else ("majority", "argmax", "weighted_vote")
    )
    known = {each.name: each for each in (*others, rule)}
    names = dict.fromkeys((*compared, rule.name))
    return {_METHOD_OF_RULE.get(name, name): known.get(name, DecisionRule(name)) for name in names}


def _ending(candidates: Sequence[Candidate], rule: DecisionRule) -> _Ending:
    if not candidates:
        return _Ending(AnswerStatus.FAILED)
    decision = decide(candidates, rule)
    if decision.answer is None:
        return _Ending(AnswerStatus.UNREADABLE, decision.candidate)
    return _Ending(AnswerStatus.ANSWERED, decision.candidate, decision.confidence)


def _or_abstained(ending: _Ending, abstain_below: float) -> _Ending:
    unsure = ending.confidence is not None and ending.confidence < abstain_below
    return _Ending(AnswerStatus.ABSTAINED, ending.chosen, ending.confidence) if unsure else ending


def _stopped(pools: Sequence[Pool], rule: DecisionRule, needs: Sequence[int]) -> list[float]:
    first = [pool.candidates[:count] for pool, count in zip(pools, needs, strict=True)]
    return [float(_ending(candidates, rule).is_right) for candidates in first]


def _stopping(pools: Sequence[Pool], rule: DecisionRule, needs: Sequence[int]) -> Stopping:
    drawn = sum(len(pool.candidates) for pool in pools)
    return Stopping(rule.certainty, sum(needs) / len(pools), sum(needs) / drawn if drawn else 1.0)


def _outcomes(
    pools: Sequence[Pool], endings: Mapping[str, Sequence[_Ending]], further: Mapping[str, Sequence[float]]
) -> dict[str, Array]:
    """One outcome a question by method, in the order in which methods are shown."""
    found = {
        SINGLE: [share_right(pool) for pool in pools],
        **{name: [float(ending.is_right) for ending in ends] for name, ends in endings.items()},
        **further,
        ORACLE: [float(share_right(pool) > 0) for pool in pools],
    }
    return {name: np.asarray(values, dtype=np.float64) for name, values in found.items()}


# --------------------------------------------------------------------------- adding up


def _counts(endings: Sequence[_Ending]) -> Counts:
    by_status = {status: sum(ending.status is status for ending in endings) for status in AnswerStatus}
    return Counts(
        asked=len(endings),
        answered=by_status[AnswerStatus.ANSWERED],
        unreadable=by_status[AnswerStatus.UNREADABLE],
        failed=by_status[AnswerStatus.FAILED],
        abstained=by_status[AnswerStatus.ABSTAINED],
    )


def _answered_right(endings: Sequence[_Ending], seed: int) -> Estimate | None:
    answered = [float(ending.is_right) for ending in endings if ending.status is AnswerStatus.ANSWERED]
    return mean_estimate(answered, seed=seed) if answered else None


def _differences(outcomes: Mapping[str, Array], decided_by: str, paired: Resampling) -> dict[str, Difference]:
    known = {SINGLE, MAJORITY, BEST_OF_N, WEIGHTED_VOTE, ORACLE}
    others = [name for name in outcomes if OF in name]
    extra = [
        (name, base) for name in outcomes if name not in {*known, *others} for base in (SINGLE, MAJORITY)
    ]
    extra += [(STOPPED, decided_by)] if decided_by != MAJORITY else []
    extra += [(decided_by, name) for name in others]
    return {
        f"{ours}_minus_{theirs}": paired.difference(outcomes[ours], outcomes[theirs])
        for ours, theirs in (*_PAIRS, *extra)
        if ours in outcomes and theirs in outcomes
    }


def _draws(pools: Sequence[Pool]) -> Draws:
    candidates = [candidate for pool in pools for candidate in pool.candidates]
    return Draws(
        drawn=len(candidates),
        right=sum(candidate.verdict is Verdict.RIGHT for candidate in candidates),
        unreadable=sum(candidate.answer is None for candidate in candidates),
        unjudged=sum(candidate.verdict is Verdict.UNJUDGED for candidate in candidates),
    )


# --------------------------------------------------------------------------- accuracy against draws


def _numbers_of_draws(pools: Sequence[Pool], budgets: Sequence[int] | None) -> tuple[int, ...]:
    most = max(len(pool.candidates) for pool in pools)
    if budgets is not None:
        return tuple(sorted({number for number in budgets if 1 <= number <= most}))
    powers = [2**exponent for exponent in range(most.bit_length())]
    return tuple(sorted({*powers, most} - {0}))


def _budget(
    pools: Sequence[Pool], rules: Mapping[str, DecisionRule], draws: tuple[int, ...], paired: Resampling
) -> Budget:
    if not draws:
        return Budget((), {})
    curves = {
        name: np.array([[_mean_right(pool, rule, number, paired.seed) for number in draws] for pool in pools])
        for name, rule in rules.items()
    }
    used = tuple(float(np.mean([min(number, len(pool.candidates)) for pool in pools])) for number in draws)
    return Budget(draws, {name: paired.estimates(curve) for name, curve in curves.items()}, used)


def _mean_right(pool: Pool, rule: DecisionRule, number: int, seed: int) -> float:
    if not pool.candidates:
        return 0.0
    rights = [_ending(subset, rule).is_right for subset in _subsets(pool, number, seed)]
    return sum(rights) / len(rights)


def _subsets(pool: Pool, number: int, seed: int) -> Iterator[tuple[Candidate, ...]]:
    """Subsets of `number` draws in the order drawn: all where they are few, else a seeded choice."""
    have = len(pool.candidates)
    number = min(number, have)
    if number == 1 or math.comb(have, number) <= SUBSETS:
        yield from combinations(pool.candidates, number)
        return
    rng = random.Random(f"{seed}:{number}:{pool.question.id}")
    for _ in range(SUBSETS):
        yield tuple(pool.candidates[index] for index in sorted(rng.sample(range(have), number)))


# --------------------------------------------------------------------------- examples to read


def _mended(
    pools: Sequence[Pool], decided_by: str, endings: Mapping[str, Sequence[_Ending]]
) -> tuple[SideBySide, ...]:
    """Where the decision is right and the vote wrong, the surest first (ties: in the order asked)."""
    found = [
        (decision.confidence or 0.0, _pair(pool, (MAJORITY, vote.chosen), (decided_by, decision.chosen)))
        for pool, vote, decision in zip(pools, endings[MAJORITY], endings[decided_by], strict=True)
        if decision.is_right and not vote.is_right and vote.chosen and decision.chosen
    ]
    return _surest(found)


def _worst(pools: Sequence[Pool], decided_by: str, endings: Sequence[_Ending]) -> tuple[SideBySide, ...]:
    """Where the decision is wrong though a right answer was drawn, the surest first."""
    found = []
    for pool, ending in zip(pools, endings, strict=True):
        right = next((c for c in pool.candidates if c.verdict is Verdict.RIGHT), None)
        if right is not None and not ending.is_right and ending.chosen is not None:
            found.append(
                (ending.confidence or 0.0, _pair(pool, (decided_by, ending.chosen), (ORACLE, right)))
            )
    return _surest(found)


def _surest(found: Sequence[tuple[float, SideBySide]]) -> tuple[SideBySide, ...]:
    return tuple(pair for _, pair in sorted(found, key=lambda item: -item[0])[:SHOWN])


def _pair(pool: Pool, left: tuple[str, Candidate], right: tuple[str, Candidate]) -> SideBySide:
    return SideBySide(
        pool.question.id, pool.question.with_choices, pool.question.answer, _shown(*left), _shown(*right)
    )


def _shown(method: str, candidate: Candidate) -> Shown:
    return Shown(
        method, candidate.text, candidate.answer, candidate.verdict, candidate.score, candidate.confidence
    )
