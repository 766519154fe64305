"""Held-out questions: contrasts for early stopping, calibrations, temperatures, accuracy.

They are never fitted on. What is reported here chooses between rounds; honest figures come from `evaluate`,
on questions that chose nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, quantiles
from typing import Any, Literal, get_args

from trimtab.energy import Calibration, fit_calibration
from trimtab.energy.calibrate import calibrate_decisions
from trimtab.energy.manifest import RuleSettings
from trimtab.pools import recalibrated, share_right
from trimtab.sequential import LEAST, choose_certainty
from trimtab.stopping import (
    DecisionCalibration,
    DecisionRule,
    RuleName,
    choose_temperature,
    decide,
)
from trimtab.types import Contrast, Judgement, Pool, Verdict

USUAL_FROM = 100  # candidates: with fewer, a tenth of them is noise
WATCHED = 4  # answers a side that early stopping looks at


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What the adapter reaches on held-out questions, and what was chosen there."""

    questions: int
    accuracy: Mapping[str, float]  # by method; "chosen" is the rule's own
    rule: DecisionRule  # the chosen one
    calibration: Calibration | None  # of single answers
    rules: tuple[DecisionRule, ...] = ()  # all of them, each with what was chosen for it
    score_deciles: tuple[float, ...] = ()  # of single answers; empty where they are few

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
        rules = tuple(_rule_from_record(each) for each in record["rules"])
        rule = _rule_from_record(record["rule"])
        deciles = tuple(record.get("score_deciles", ()))
        return cls(record["questions"], record["accuracy"], rule, calibration, rules, deciles)

    def manifest_fields(self) -> dict[str, Any]:
        """The fields of an adapter's `Manifest` that were chosen here."""
        rules = {
            each.name: RuleSettings(
                temperature=each.temperature, calibration=each.calibration, certainty=each.certainty
            )
            for each in self.rules
        }
        return {
            "rule": self.rule.name,
            "rules": rules,
            "calibration": self.calibration,
            "score_deciles": self.score_deciles,
        }


def _rule_from_record(record: Mapping[str, Any]) -> DecisionRule:
    calibration = record["calibration"]
    if calibration is not None:
        calibration = DecisionCalibration(**calibration)
    return DecisionRule(record["name"], record["temperature"], calibration, record.get("certainty", LEAST))


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
    """Calibration, every decision rule's temperature and calibration, the chosen rule, and accuracy.

    The pools are scored and judged. Without held-out questions the rule is argmax where answers do not
    compare and an uncalibrated importance vote, Eq. 1's own weights, where they do.
    """
    calibration = _calibration(pools)
    if calibration is not None:
        pools = recalibrated(pools, calibration.confidences)
    name = _chosen_name(rule, is_comparable, calibration is not None)
    rules = [_fitted(each, pools) for each in get_args(RuleName)] if calibration is not None else []
    chosen = next((each for each in rules if each.name == name), DecisionRule(name))
    methods = {
        "majority": DecisionRule("majority"),
        "best_of_n": DecisionRule("argmax"),
        "chosen": chosen,
    }
    accuracy = {name: _accuracy(pools, each) for name, each in methods.items()} if pools else {}
    if pools:
        accuracy["single"] = fmean(share_right(pool) for pool in pools)
        accuracy["oracle"] = fmean(float(share_right(pool) > 0) for pool in pools)
    return HeldOut(len(pools), accuracy, chosen, calibration, tuple(rules), score_deciles(pools))


def score_deciles(pools: Sequence[Pool]) -> tuple[float, ...]:
    """The nine scores between which tenths of all candidates lie; none where there are too few to tell."""
    scores = [each.score for pool in pools for each in pool.candidates if each.score is not None]
    return tuple(quantiles(scores, n=10)) if len(scores) >= USUAL_FROM else ()


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


def _chosen_name(rule: RuleName | Literal["auto"], is_comparable: bool, is_calibrated: bool) -> RuleName:
    if rule != "auto":
        return rule
    if not is_comparable:
        return "argmax"
    return "weighted_vote" if is_calibrated else "importance_vote"


def _fitted(name: RuleName, pools: Sequence[Pool]) -> DecisionRule:
    """The rule with its temperature, if it has one, a calibration of its decisions, and when to stop."""
    temperature = 1.0
    if name in ("weighted_vote", "importance_vote"):
        temperature = choose_temperature([pool.candidates for pool in pools], name)
    rule = DecisionRule(name, temperature)
    certainty = choose_certainty([pool.candidates for pool in pools], rule)
    return replace(rule, calibration=_decision_calibration(pools, rule), certainty=certainty)


def _decision_calibration(pools: Sequence[Pool], rule: DecisionRule) -> DecisionCalibration | None:
    """None where no decision has both evidence and a verdict."""
    decisions = [decide(pool.candidates, rule) for pool in pools if pool.candidates]
    points = [
        (each.evidence, each.candidate.verdict is Verdict.RIGHT)
        for each in decisions
        if each.evidence is not None and each.candidate.verdict is not Verdict.UNJUDGED
    ]
    if not points:
        return None
    return calibrate_decisions([evidence for evidence, _ in points], [right for _, right in points])


def _accuracy(pools: Sequence[Pool], rule: DecisionRule) -> float:
    return fmean(float(_is_right(pool, rule)) for pool in pools)


def _is_right(pool: Pool, rule: DecisionRule) -> bool:
    if not pool.candidates:
        return False
    return decide(pool.candidates, rule).candidate.verdict is Verdict.RIGHT
