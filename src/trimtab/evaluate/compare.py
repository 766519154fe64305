"""The paired comparison: every method over the same questions and the same draws, with intervals.

A verdict stands in each candidate; a method is right on a question when the candidate it decides for is.
Failed and unreadable questions count 0 and stay in the denominator. No model, no black box, no file here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

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
    Comparison,
)
from trimtab.evaluate.intervals import Array, Difference
from trimtab.evaluate.marks import Mark, clusters_of, unmarked
from trimtab.evaluate.measures import calibration_of, risk_of, scores_between
from trimtab.evaluate.seen import Seen
from trimtab.stopping import DecisionRule, RuleName
from trimtab.types import Pool

_METHOD_OF_RULE = {"argmax": BEST_OF_N}  # other rules are methods by their own name
_PAIRS = (
    (WEIGHTED_VOTE, MAJORITY),
    (BEST_OF_N, SINGLE),
    (WEIGHTED_VOTE, SINGLE),
    (BEST_OF_N, MAJORITY),
    (MAJORITY, SINGLE),
)


def compare(
    pools: Iterable[Pool],
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
        pools: the questions with their judged candidates, in the order drawn; each is taken once, and let go.
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
    pools, is_scored = _looked_at(pools)
    decided_by = _METHOD_OF_RULE.get(rule.name, rule.name)
    seen = Seen(
        _rules(is_scored, rule, others),
        decided_by,
        budgets=budgets,
        stop_when_sure=stop_when_sure,
        abstain_below=abstain_below,
        seed=seed,
    )
    for pool in pools:
        _refuse_partly_scored(pool, is_scored)
        seen.add(pool)
    _refuse_unusable(seen, further or {})
    drawn, decided, asked = seen.drawn, seen.decided, len(seen.ids)
    outcomes = {
        name: np.asarray(values, dtype=np.float64)
        for name, values in seen.outcomes_with(further or {}).items()
    }
    marks = marks or unmarked(seen.ids)
    paired = Resampling(clusters_of(marks), seed)
    return Comparison(
        rule=rule.name,
        temperature=rule.temperature,
        decided_by=decided_by,
        counts=decided.counts(),
        samples_per_question=drawn.number / asked,
        accuracy=paired.accuracy(outcomes),
        differences=_differences(outcomes, decided_by, paired),
        answered_right=decided.answered_right(seed),
        budget=seen.curves.budget(paired),
        draws=drawn.draws(),
        calibration=calibration_of(decided.confident),
        scores=scores_between(drawn.scores),
        usage=drawn.usage,
        estimated=drawn.estimated(),
        stopping=seen.early.stopping(drawn.number) if seen.early else None,
        mended=seen.mended.pairs(),
        worst=seen.worst.pairs(),
        clusters=len({mark.cluster for mark in marks}),
        risk=risk_of(decided.confident, asked),
        categories=by_category(outcomes, marks, paired),
        seeds=by_seed(outcomes, marks),
        costs={},
        ids=tuple(seen.ids),
        outcomes={name: tuple(values.tolist()) for name, values in outcomes.items()},
    )


def _looked_at(pools: Iterable[Pool]) -> tuple[Iterator[Pool], bool | None]:
    """The pools, none left out, and whether the first candidate among them is scored; None without any."""
    waiting = iter(pools)
    ahead: list[Pool] = []
    for pool in waiting:
        ahead.append(pool)
        if pool.candidates:
            return chain(ahead, waiting), pool.candidates[0].score is not None
    return iter(ahead), None


def _refuse_partly_scored(pool: Pool, is_scored: bool | None) -> None:
    if any((candidate.score is not None) is not is_scored for candidate in pool.candidates):
        raise ValueError("either every candidate is scored or none is")


def _refuse_unusable(seen: Seen, further: Mapping[str, Sequence[float]]) -> None:
    asked, unjudged = len(seen.ids), seen.drawn.unjudged
    if not asked:
        raise InputError("an evaluation needs at least one question; none came")
    if unjudged:
        shown = ", ".join(unjudged[:5]) + (", …" if len(unjudged) > 5 else "")
        raise InputError(
            f"an evaluation needs something to judge by: {len(unjudged)} of {asked} questions have "
            f"neither a reference answer nor a 'correct' label ({shown}); add 'answer' to these rows or "
            f"leave them out"
        )
    for name, values in further.items():
        if len(values) != asked:
            raise ValueError(f"{name}: one outcome a question is needed, {len(values)} came for {asked}")


def _rules(
    is_scored: bool | None, rule: DecisionRule, others: Sequence[DecisionRule]
) -> dict[str, DecisionRule]:
    """The rules that can be compared on these candidates, by method; `rule` itself among them."""
    if is_scored is False and rule.name != MAJORITY:
        raise InputError(
            f"the rule '{rule.name}' needs scored answers; name an adapter, or use the rule majority"
        )
    compared: tuple[RuleName, ...] = (
        ("majority",) if is_scored is False else ("majority", "argmax", "weighted_vote")
    )
    known = {each.name: each for each in (*others, rule)}
    names = dict.fromkeys((*compared, rule.name))
    return {_METHOD_OF_RULE.get(name, name): known.get(name, DecisionRule(name)) for name in names}


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
