"""The nouns of an evaluation: what was asked, what each method reached, and all of it as plain JSON values.

Nothing is computed here; `compare` fills these in and `report` shows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from typing import Any

from trimtab.evaluate.intervals import Difference, Estimate
from trimtab.types import Usage, Verdict

SINGLE = "single"
MAJORITY = "majority"
BEST_OF_N = "best_of_n"
WEIGHTED_VOTE = "weighted_vote"
ORACLE = "oracle"
IMPORTANCE_VOTE = "importance_vote"
BEAM_SEARCH = "beam_search"
STOPPED = "stopped"
AI_JUDGE = "ai_judge"
OF = "@"  # between a method and whose it is, where that is not the adapter or black box evaluated
METHODS = (SINGLE, MAJORITY, BEST_OF_N, WEIGHTED_VOTE, ORACLE)


@dataclass(frozen=True, slots=True)
class Counts:
    """How the asked questions ended under the decision rule; the four ends add up to asked."""

    asked: int
    answered: int
    unreadable: int
    failed: int
    abstained: int


@dataclass(frozen=True, slots=True)
class Stopping:
    """What stopping when sure draws, in the order drawn and draw by draw; its accuracy is a method's."""

    certainty: float
    samples_per_question: float
    samples_ratio: float  # of all draws


@dataclass(frozen=True, slots=True)
class Draws:
    """What the drawn answers look like, over all questions."""

    drawn: int
    right: int
    unreadable: int
    unjudged: int  # counted as not right


@dataclass(frozen=True, slots=True)
class Bin:
    """The decisions whose confidence lies in (low, high]; the first bin holds 0 too."""

    low: float
    high: float
    count: int
    confidence: float | None  # mean; None in an empty bin
    right: float | None  # share right; None in an empty bin


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well the confidence of the decisions agrees with how often they are right."""

    ece: float  # expected calibration error: count-weighted mean |confidence - share right|
    brier: float  # mean squared distance of confidence and outcome
    decisions: int  # those that carry a confidence
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True)
class Scores:
    """Where the scores of right and of wrong candidates lie."""

    edges: tuple[float, ...]  # one more than bins
    right: tuple[int, ...]
    wrong: tuple[int, ...]
    pairwise_accuracy: (
        float | None
    )  # P(right outscores wrong) within a question, ties half; None without pairs


@dataclass(frozen=True, slots=True)
class Budget:
    """Accuracy when only some of the draws are used; each number of draws is averaged over seeded subsets."""

    draws: tuple[int, ...]
    accuracy: Mapping[str, tuple[Estimate, ...]]  # by method, one a number of draws
    used: tuple[float, ...] = ()  # draws a question on average: fewer where some questions have fewer

    def to_json(self) -> dict[str, Any]:
        """Plain values, in stable order."""
        curves = {name: [point.to_json() for point in curve] for name, curve in self.accuracy.items()}
        return {"draws": list(self.draws), "used": list(self.used), **curves}


@dataclass(frozen=True, slots=True)
class Risk:
    """The share right of the surest decisions alone, as more of the asked questions are answered."""

    coverage: tuple[float, ...]  # rising; the last is the share that can be decided at all
    right: tuple[float, ...]
    area: float  # mean share wrong over all coverages reached: lower is better (AURC)


@dataclass(frozen=True, slots=True)
class Category:
    """The questions of one kind."""

    asked: int
    accuracy: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class Seeds:
    """The same questions drawn again: what one seed's draws alone would have said."""

    seeds: tuple[int, ...]
    accuracy: Mapping[str, tuple[float, ...]]  # by method, one a seed


@dataclass(frozen=True, slots=True)
class Cost:
    """What a method asks for on an average question, and what that comes to."""

    draws: float
    usd_per_thousand: float | None  # None where prices are not known


@dataclass(frozen=True, slots=True)
class Shown:
    """One answer, to be read by a person."""

    method: str
    text: str
    answer: str | None
    verdict: Verdict
    score: float | None
    confidence: float | None


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Two answers to one question, to be read next to each other."""

    question_id: str
    question: str
    reference: str | None
    left: Shown
    right: Shown


@dataclass(frozen=True, slots=True)
class Comparison:
    """The methods over the same questions and the same draws."""

    rule: str  # the decision rule, as named by `stopping`
    temperature: float
    decided_by: str  # its method: a key of `accuracy`
    counts: Counts
    samples_per_question: float
    accuracy: Mapping[str, Estimate]
    differences: Mapping[str, Difference]  # "ours_minus_theirs"
    answered_right: Estimate | None  # share right of the answered ones alone; None if there are none
    budget: Budget
    draws: Draws
    calibration: Calibration | None  # None when no decision carries a confidence
    scores: Scores | None  # None when the candidates are not scored
    usage: Usage
    estimated: Usage  # by the length of the texts, for draws that were recorded without their usage
    mended: tuple[SideBySide, ...]  # left: majority's wrong answer; right: the decision's right one
    stopping: Stopping | None  # None when it was not asked for
    worst: tuple[SideBySide, ...]  # left: the decision's wrong answer; right: a right one that was drawn
    clusters: int  # of questions; as many as there are questions where none is a variant of another
    risk: Risk | None  # None when no decision carries a confidence
    categories: Mapping[str, Category]  # empty where rows name none
    seeds: Seeds | None  # None for one seed
    costs: Mapping[str, Cost]
    ids: tuple[str, ...]  # of the questions, in the order asked
    outcomes: Mapping[str, tuple[float, ...]]  # by method, one a question; for `results`, not for a report

    @property
    def questions(self) -> int:
        """Different questions asked; `counts.asked` counts each as often as it was drawn for."""
        return self.counts.asked // len(self.seeds.seeds) if self.seeds else self.counts.asked

    def to_json(self) -> dict[str, Any]:
        """Plain values, in stable order: what `evaluate --json` prints and report.json opens with."""
        return {
            **_plain(self.counts),
            "samples_per_question": self.samples_per_question,
            "rule": {"name": self.rule, "temperature": self.temperature, "method": self.decided_by},
            "accuracy": {name: estimate.to_json() for name, estimate in self.accuracy.items()},
            **{name: difference.to_json() for name, difference in self.differences.items()},
            "answered_right": self.answered_right.to_json() if self.answered_right else None,
            "budget": self.budget.to_json(),
            "candidates": _draws_json(self.draws),
            "calibration": _plain(self.calibration) if self.calibration else None,
            "scores": _plain(self.scores) if self.scores else None,
            "usage": _plain(self.usage),
            "stopping": _plain(self.stopping) if self.stopping else None,
            "mended": [_plain(pair) for pair in self.mended],
            "worst": [_plain(pair) for pair in self.worst],
            "clusters": self.clusters,
            "risk_coverage": _plain(self.risk) if self.risk else None,
            "categories": {name: _plain(each) for name, each in self.categories.items()},
            "seeds": _plain(self.seeds) if self.seeds else None,
            "costs": {name: _plain(each) for name, each in self.costs.items()},
        }


def _draws_json(draws: Draws) -> dict[str, Any]:
    share = draws.unreadable / draws.drawn if draws.drawn else None
    return {**_plain(draws), "unreadable_share": share}


def _plain(value: Any) -> Any:
    """What reading the written JSON gives back: dicts, lists, strings and numbers alone."""
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return str(value) if isinstance(value, StrEnum) else value
