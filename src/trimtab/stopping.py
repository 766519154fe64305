"""The decision rules: one question's candidates become one answer. Pure; no model is asked here.

Every rule lays weight on candidates and answers with the final answer on which most weight lies. Ties fall
to the answer drawn earliest. Candidates without a readable final answer have no vote. Duplicates vote as
often as they were drawn. When to stop drawing belongs here too, once it is decided draw by draw. Not here:
how candidates are drawn (`drawing`), scored or calibrated (`energy`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from trimtab.types import Candidate, Verdict

RuleName = Literal["argmax", "majority", "weighted_vote", "importance_vote"]

# From nearly argmax to nearly majority; finite, so that a manifest can hold the choice as JSON.
TEMPERATURES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)
LEAST_CONFIDENCE = 1e-9  # isotonic calibration may say 0; its logarithm must stay finite


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

    def __post_init__(self) -> None:
        if self.name not in _LOG_WEIGHTS:
            raise ValueError(f"a decision rule is one of {', '.join(_LOG_WEIGHTS)}; {self.name!r} came")
        if not self.temperature > 0:
            raise ValueError(f"a decision rule's temperature lies above 0; {self.temperature} came")


@dataclass(frozen=True, slots=True)
class Decision:
    """What a rule decided.

    `confidence` is P(the chosen final answer is right): the share for votes; for argmax the candidate's own
    calibrated confidence, None where there is none. An unreadable decision has no answer and no confidence.
    """

    index: int  # of the representative: the answer's highest-scored candidate, the earliest among equals
    candidate: Candidate
    answer: str | None
    share: float  # of all weight, how much lies on this answer; 0 when no candidate is readable
    confidence: float | None


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
    votes = _votes(voters, weights(voters, rule))
    answer = max(votes, key=votes.__getitem__)  # the first of equals: the one drawn earliest
    index = _representative([index for index in readable if candidates[index].answer == answer], candidates)
    share = min(votes[answer] / math.fsum(votes.values()), 1.0)
    confidence = candidates[index].confidence if rule.name == "argmax" else share
    return Decision(index, candidates[index], answer, share, confidence)


def _votes(voters: Sequence[Candidate], weighed: Sequence[float]) -> dict[str, float]:
    """The weight on each answer, in the order drawn; exact sums, so that ties do not hang on the order."""
    ballots: dict[str, list[float]] = {}
    for voter, weight in zip(voters, weighed, strict=True):
        ballots.setdefault(voter.answer or "", []).append(weight)
    return {answer: math.fsum(ballot) for answer, ballot in ballots.items()}


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
    """The temperature of the grid under which most weight lies on right candidates.

    Judged by the mean over questions of log((n share + 1) / (n + 2)), with n readable candidates and `share`
    of the weight on right ones: a proper score with Laplace's floor, smooth where accuracy on few questions
    jumps. Questions without a verdict or a readable candidate say nothing and are left out. Ties go to the
    larger temperature, that is, nearer to majority.

    Raises:
        ValueError: the grid is empty, or the rule needs scores that are missing.
    """
    if not grid:
        raise ValueError("choosing a temperature needs at least one to choose from")
    judged = [voters for candidates in dev if (voters := _judged_voters(candidates))]
    return max(grid, key=lambda t: (_mean_log_share(judged, DecisionRule(rule_name, t)), t))


def _judged_voters(candidates: Sequence[Candidate]) -> list[Candidate]:
    return [c for c in candidates if c.answer is not None and c.verdict in (Verdict.RIGHT, Verdict.WRONG)]


def _mean_log_share(questions: Sequence[Sequence[Candidate]], rule: DecisionRule) -> float:
    logs = [_log_share(voters, rule) for voters in questions]
    return math.fsum(logs) / len(logs) if logs else 0.0


def _log_share(voters: Sequence[Candidate], rule: DecisionRule) -> float:
    weighed = weights(voters, rule)
    right = (w for voter, w in zip(voters, weighed, strict=True) if voter.verdict is Verdict.RIGHT)
    share = math.fsum(right) / math.fsum(weighed)
    return math.log((len(voters) * share + 1) / (len(voters) + 2))
