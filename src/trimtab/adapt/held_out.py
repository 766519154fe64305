"""Held-out questions: contrasts for early stopping, calibration, the rule's temperature, accuracy.

They are never fitted on. What is reported here chooses between rounds; honest figures come from `evaluate`,
on questions that chose nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

from trimtab.energy import Calibration, fit_calibration
from trimtab.pools import recalibrated
from trimtab.stopping import DecisionRule, RuleName, choose_temperature, decide
from trimtab.types import Contrast, Judgement, Pool, Verdict

WATCHED = 4  # answers a side that early stopping looks at


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What the adapter reaches on held-out questions, and what was chosen there."""

    questions: int
    accuracy: Mapping[str, float]  # by method; "chosen" is the rule's own
    rule: DecisionRule
    calibration: Calibration | None

    @property
    def merit(self) -> float:
        """What rounds are compared by: accuracy of the chosen rule, then of best-of-n as the tie-break."""
        return self.accuracy.get("chosen", 0.0) + 1e-6 * self.accuracy.get("best_of_n", 0.0)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> HeldOut:
        """The value that `dataclasses.asdict` turned into a record."""
        calibration = record["calibration"]
        if calibration is not None:
            lists = {key: tuple(calibration[key]) for key in ("knots", "levels")}
            calibration = Calibration(**{**calibration, **lists})
        rule = DecisionRule(**record["rule"])
        return cls(record["questions"], record["accuracy"], rule, calibration)


def judged(pool: Pool, judgement: Judgement) -> Pool:
    """The pool with the judgement as its verdicts; a candidate that was left out is unjudged."""
    verdicts = dict.fromkeys(judgement.negatives, Verdict.WRONG) | dict.fromkeys(
        judgement.positives, Verdict.RIGHT
    )
    return replace(
        pool,
        candidates=tuple(
            each
            if each.verdict is Verdict.UNREADABLE and index in judgement.negatives
            else replace(each, verdict=verdicts.get(index, Verdict.UNJUDGED))
            for index, each in enumerate(pool.candidates)
        ),
    )


def held_out_contrasts(pools: Sequence[Pool]) -> tuple[Contrast, ...]:
    """What early stopping watches: right against other answers, on questions that have both.

    At most `WATCHED` of each side, the first drawn: more would cost time at every evaluation and say little.
    """
    found = [_sides(pool) for pool in pools]
    return tuple(each for each in found if each.positives and each.negatives)


def _sides(pool: Pool) -> Contrast:
    right = _distinct(pool, (Verdict.RIGHT,))
    wrong = [text for text in _distinct(pool, (Verdict.WRONG, Verdict.UNREADABLE)) if text not in right]
    question = pool.question
    return Contrast(question.id, question.with_choices, tuple(right[:WATCHED]), tuple(wrong[:WATCHED]))


def _distinct(pool: Pool, verdicts: Sequence[Verdict]) -> list[str]:
    return list(dict.fromkeys(each.text for each in pool.candidates if each.verdict in verdicts))


def evaluate_held_out(
    pools: Sequence[Pool], rule: RuleName | Literal["auto"], is_comparable: bool
) -> HeldOut:
    """Calibration, decision rule and accuracy on scored, judged pools.

    Without held-out questions the rule is argmax where answers do not compare and an uncalibrated importance
    vote, Eq. 1's own weights, where they do.
    """
    calibration = _calibration(pools)
    if calibration is not None:
        pools = recalibrated(pools, lambda scores: calibration.apply(scores).tolist())
    chosen = _rule(pools, rule, is_comparable, calibration is not None)
    methods = {
        "majority": DecisionRule("majority"),
        "best_of_n": DecisionRule("argmax"),
        "chosen": chosen,
    }
    accuracy = {name: _accuracy(pools, each) for name, each in methods.items()} if pools else {}
    if pools:
        accuracy["single"] = fmean(_share_right(pool) for pool in pools)
        accuracy["oracle"] = fmean(float(_share_right(pool) > 0) for pool in pools)
    return HeldOut(len(pools), accuracy, chosen, calibration)


def _calibration(pools: Sequence[Pool]) -> Calibration | None:
    points = [
        (each.score, each.verdict is Verdict.RIGHT)
        for pool in pools
        for each in pool.candidates
        if each.score is not None and each.verdict is not Verdict.UNJUDGED
    ]
    if not points:
        return None
    # Platt, however many points: an isotonic map has flat parts, and a vote weighs by what lies in them too.
    return fit_calibration([score for score, _ in points], [right for _, right in points], "platt")


def _rule(
    pools: Sequence[Pool], rule: RuleName | Literal["auto"], is_comparable: bool, is_calibrated: bool
) -> DecisionRule:
    if rule == "auto":
        rule = "argmax" if not is_comparable else "weighted_vote" if is_calibrated else "importance_vote"
    if rule not in ("weighted_vote", "importance_vote") or not pools:
        return DecisionRule(rule)
    return DecisionRule(rule, choose_temperature([pool.candidates for pool in pools], rule))


def _accuracy(pools: Sequence[Pool], rule: DecisionRule) -> float:
    return fmean(float(_is_right(pool, rule)) for pool in pools)


def _is_right(pool: Pool, rule: DecisionRule) -> bool:
    if not pool.candidates:
        return False
    return decide(pool.candidates, rule).candidate.verdict is Verdict.RIGHT


def _share_right(pool: Pool) -> float:
    right = sum(each.verdict is Verdict.RIGHT for each in pool.candidates)
    return right / len(pool.candidates) if pool.candidates else 0.0
