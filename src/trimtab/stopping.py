"""The decision rules: one question's candidates become one answer. Pure; no model is asked here.

Every rule lays weight on candidates and answers with the final answer on which most weight lies. Ties fall
to the answer drawn earliest. Candidates without a readable final answer have no vote. Duplicates vote as
often as they were drawn. Not here: when enough was drawn (`sequential`), and how candidates are drawn
(`drawing`), scored, or calibrated (`energy`, which also fits `DecisionCalibration`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from trimtab.types import Candidate, Verdict

RuleName = Literal["argmax", "majority", "weighted_vote", "importance_vote"]

# From nearly argmax to nearly majority; finite, so that a manifest can hold the choice as JSON.
TEMPERATURES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)
POWERS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # of a vote's weights, when its temperature is chosen
LEAST_CONFIDENCE = 1e-9  # isotonic calibration may say 0; its logarithm must stay finite
CERTAIN = (
    1e-3  # as evidence, a confidence nearer to 0 or 1 than this says no more: one score must not decide all
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for a decision, in log odds."""

    share: float  # of the answer's share of the votes, shrunk by their number n: (n share + 1/2) / (n + 1)
    confidence: float  # of the mean calibrated confidence of the candidates behind it


@dataclass(frozen=True, slots=True)
class DecisionCalibration:
    """P(the decided answer is right), from the evidence for it; learnt on held-out decisions of one rule.

    logistic(intercept + share * evidence.share + confidence * evidence.confidence), neither weight negative.
    """

    intercept: float = 0.0
    share: float = 0.0
    confidence: float = 0.0
    points: int = 0  # how many decisions it was learnt from

    def apply(self, evidence: Evidence) -> float:
        """P(right) of a decision with this evidence."""
        line = self.intercept + self.share * evidence.share + self.confidence * evidence.confidence
        return math.exp(_log_logistic(line))


@dataclass(frozen=True, slots=True)
class DecisionRule:
    """How candidates become one answer.

    - `argmax` (the paper): the readable candidate with the highest score.
    - `majority`: every readable candidate has one vote.
    - `weighted_vote`: a vote weighs P(correct)^(1 / temperature), P being the candidate's calibrated
      confidence, or the logistic of its score where it is not calibrated. Infinite temperature is
      `majority`; towards 0 the most confident candidate decides.
    - `importance_vote`: a vote weighs exp(score / temperature).

    *Paper* (Eq. 1): p_theta = p_LLM exp(g) / Z. With draws from p_LLM, `importance_vote` at temperature 1 is
    the self-normalised importance estimate of p_theta(final answer).

    *Differs*: the paper knows only `argmax`, over all candidates; here an unreadable one is never preferred
    to a readable one.

    Raises:
        ValueError: the temperature is not above 0, or the name is not one of the four.
    """

    name: RuleName
    temperature: float = 1.0  # read by the two weighted votes only
    calibration: DecisionCalibration | None = None  # of its decisions; changes confidences, never answers
    certainty: float = 0.95  # `sequential.certainty` at which drawing may stop; 1 draws the whole budget

    def __post_init__(self) -> None:
        if self.name not in _LOG_WEIGHTS:
            raise ValueError(f"a decision rule is one of {', '.join(_LOG_WEIGHTS)}; {self.name!r} came")
        if not self.temperature > 0:
            raise ValueError(f"a decision rule's temperature lies above 0; {self.temperature} came")
        if not 0 < self.certainty <= 1:
            raise ValueError(f"a decision rule's certainty lies in (0, 1]; {self.certainty} came")


@dataclass(frozen=True, slots=True)
class Decision:
    """What a rule decided.

    `confidence` is the best that is known of P(the chosen final answer is right), and what it is depends on
    what was learnt:

    - The rule has a calibration: its P(right), learnt on held-out decisions.
    - Only the candidates are calibrated: P(a candidate drawn by the rule's weights gives this answer and is
      right), the share times the mean confidence behind it. For argmax that is the candidate's own. It says
      little of agreement, and is low rather than high.
    - Nothing is calibrated: the share alone, which is agreement and not P(right); None for argmax.

    An unreadable decision has no answer and no confidence.
    """

    index: int  # of the representative: the answer's highest-scored candidate, the earliest among equals
    candidate: Candidate
    answer: str | None
    share: float  # of all weight, how much lies on this answer; 0 when no candidate is readable
    confidence: float | None
    evidence: Evidence | None = None  # None where a candidate behind the answer has no confidence


def default_rule(is_comparable: bool, temperature: float = 1.0) -> DecisionRule:
    """The weighted vote where final answers can be compared, else argmax."""
    return DecisionRule("weighted_vote" if is_comparable else "argmax", temperature)


def decide(candidates: Sequence[Candidate], rule: DecisionRule) -> Decision:
    """The rule's decision over one question's candidates, given in the order drawn.

    Raises:
        ValueError: there is no candidate, or the rule needs scores and a readable candidate has none.
    """
    if not candidates:
        raise ValueError("a decision needs at least one candidate")
    readable = [index for index, candidate in enumerate(candidates) if candidate.answer is not None]
    if not readable:
        index = _representative(range(len(candidates)), candidates)
        return Decision(index, candidates[index], None, 0.0, None)
    return _decided(candidates, readable, rule)


def _decided(candidates: Sequence[Candidate], readable: Sequence[int], rule: DecisionRule) -> Decision:
    voters = [candidates[index] for index in readable]
    weighed = weights(voters, rule)
    votes = tally(voters, weighed)
    answer = leader(votes)
    index = _representative([index for index in readable if candidates[index].answer == answer], candidates)
    share = min(votes[answer] / math.fsum(votes.values()), 1.0)
    mean = _mean_confidence(voters, weighed, answer)
    evidence = None if mean is None else _evidence(voters, rule, answer, share, mean)
    confidence = _confidence(rule, share, mean, evidence)
    return Decision(index, candidates[index], answer, share, confidence, evidence)


def _mean_confidence(voters: Sequence[Candidate], weighed: Sequence[float], answer: str) -> float | None:
    """Of the candidates behind the answer, each by its weight; None if one of them is not calibrated."""
    behind = [(v.confidence, w) for v, w in zip(voters, weighed, strict=True) if v.answer == answer]
    known = [(confidence, weight) for confidence, weight in behind if confidence is not None]
    if len(known) < len(behind):
        return None
    mean = math.fsum(confidence * weight for confidence, weight in known) / math.fsum(w for _, w in known)
    return min(mean, 1.0)


def _evidence(
    voters: Sequence[Candidate], rule: DecisionRule, answer: str, share: float, mean: float
) -> Evidence:
    number = len(voters)
    if rule.name == "argmax":  # its one vote is always all of the weight; how many agree with it is not
        share = sum(voter.answer == answer for voter in voters) / number
    shrunk = (number * share + 0.5) / (number + 1)
    return Evidence(_logit(shrunk), _logit(min(max(mean, CERTAIN), 1 - CERTAIN)))


def _confidence(
    rule: DecisionRule, share: float, mean: float | None, evidence: Evidence | None
) -> float | None:
    if rule.calibration is not None and evidence is not None:
        return rule.calibration.apply(evidence)
    if mean is not None:
        return share * mean
    return None if rule.name == "argmax" else share


def _logit(share: float) -> float:
    return math.log(share) - math.log1p(-share)


def tally(voters: Sequence[Candidate], weighed: Sequence[float]) -> dict[str, float]:
    """The weight on each answer, in the order drawn; exact sums, so that ties do not hang on the order."""
    ballots: dict[str, list[float]] = {}
    for voter, weight in zip(voters, weighed, strict=True):
        ballots.setdefault(voter.answer or "", []).append(weight)
    return {answer: math.fsum(ballot) for answer, ballot in ballots.items()}


def leader(votes: Mapping[str, float]) -> str:
    """The answer with the most weight; of equals the first, the one drawn earliest."""
    return max(votes, key=votes.__getitem__)


def _representative(indices: Sequence[int], candidates: Sequence[Candidate]) -> int:
    return max(indices, key=lambda index: (_score_or_least(candidates[index]), -index))


def _score_or_least(candidate: Candidate) -> float:
    return -math.inf if candidate.score is None else candidate.score


# --------------------------------------------------------------------------- weights


def weights(voters: Sequence[Candidate], rule: DecisionRule) -> list[float]:
    """The weight of each candidate under the rule, the heaviest at 1.

    Raises:
        ValueError: the rule needs scores and a candidate has none.
    """
    logs = _LOG_WEIGHTS[rule.name](voters, rule.temperature)
    heaviest = max(logs, default=0.0)
    return [math.exp(log - heaviest) for log in logs]


def _one_vote_each(voters: Sequence[Candidate], temperature: float) -> list[float]:
    return [0.0] * len(voters)


def _all_on_the_highest(voters: Sequence[Candidate], temperature: float) -> list[float]:
    scores = [_score(voter) for voter in voters]
    chosen = max(range(len(scores)), key=lambda index: (scores[index], -index), default=0)
    return [0.0 if index == chosen else -math.inf for index in range(len(scores))]


def _log_confidences(voters: Sequence[Candidate], temperature: float) -> list[float]:
    return [_log_confidence(voter) / temperature for voter in voters]


def _tempered_scores(voters: Sequence[Candidate], temperature: float) -> list[float]:
    return [_score(voter) / temperature for voter in voters]


def _log_confidence(voter: Candidate) -> float:
    if voter.confidence is None:
        return _log_logistic(_score(voter))
    return math.log(max(voter.confidence, LEAST_CONFIDENCE))


def _log_logistic(score: float) -> float:
    return min(score, 0.0) - math.log1p(math.exp(-abs(score)))


def _score(voter: Candidate) -> float:
    if voter.score is None:
        raise ValueError("this rule needs scored candidates and one has no score; majority needs none")
    return voter.score


_LOG_WEIGHTS: dict[str, Callable[[Sequence[Candidate], float], list[float]]] = {
    "argmax": _all_on_the_highest,
    "majority": _one_vote_each,
    "weighted_vote": _log_confidences,
    "importance_vote": _tempered_scores,
}


# --------------------------------------------------------------------------- the temperature


def choose_temperature(
    dev: Sequence[Sequence[Candidate]], rule_name: RuleName, grid: Sequence[float] = TEMPERATURES
) -> float:
    """The temperature of the grid under which right answers are the likeliest to win.

    Judged by the mean over questions of log((n p + 1) / (n + 2)), with n readable candidates and p the chance
    that a right answer wins, each answer's chance being proportional to a power of its weight (a conditional
    logit, McFadden 1974): a proper score with Laplace's floor, smooth where accuracy on few questions jumps.
    Each temperature is taken with the power that suits it best. Without it, a low temperature would be chosen
    for being surer of the same winners. Questions without a verdict or a readable candidate say nothing and
    are left out. Ties go to the larger temperature, that is, nearer to majority.

    Raises:
        ValueError: the grid is empty, or the rule needs scores that are missing.
    """
    if not grid:
        raise ValueError("choosing a temperature needs at least one to choose from")
    judged = [voters for candidates in dev if (voters := _judged_voters(candidates))]
    return max(grid, key=lambda t: (_log_likelihood(judged, DecisionRule(rule_name, t)), t))


def _judged_voters(candidates: Sequence[Candidate]) -> list[Candidate]:
    return [c for c in candidates if c.answer is not None and c.verdict in (Verdict.RIGHT, Verdict.WRONG)]


def _log_likelihood(questions: Sequence[Sequence[Candidate]], rule: DecisionRule) -> float:
    """Of right answers winning, at the best power: the mean over questions."""
    votes = [(len(voters), *_split_votes(voters, rule)) for voters in questions]
    return max(
        math.fsum(_log_chance(*each, power) for each in votes) / max(len(votes), 1) for power in POWERS
    )


def _split_votes(voters: Sequence[Candidate], rule: DecisionRule) -> tuple[list[float], list[float]]:
    """The weights on right answers and those on wrong ones, each relative to the leader's."""
    votes = tally(voters, weights(voters, rule))
    most = max(votes.values())
    right = {voter.answer for voter in voters if voter.verdict is Verdict.RIGHT}
    return (
        [weight / most for answer, weight in votes.items() if answer in right],
        [weight / most for answer, weight in votes.items() if answer not in right],
    )


def _log_chance(drawn: int, right: Sequence[float], wrong: Sequence[float], power: float) -> float:
    won = math.fsum(weight**power for weight in right)
    lost = math.fsum(weight**power for weight in wrong)
    return math.log((drawn * won / (won + lost) + 1) / (drawn + 2))
