"""A new version of an adapter against the one that serves: the same candidates, chosen among by both.

Two looks: a frozen holdout that neither was trained on, and shadow traffic, the recent answers as they were
drawn. Nothing is drawn anew, so a trial costs scoring alone. What follows from a trial is the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from trimtab.evaluate.intervals import Difference, paired_difference
from trimtab.pools import Calibrate, scored
from trimtab.stopping import Decision, DecisionRule, decide
from trimtab.types import Pool, Scorer, Verdict

MARGIN = 0.02  # the loss that the interval must rule out; ours
UNKNOWN = 0.5  # what a choice counts that nobody has judged: moving to it is half a gain, or half a loss


@dataclass(frozen=True, slots=True)
class Contender:
    """One version, ready to choose."""

    scorer: Scorer
    rule: DecisionRule
    calibrate: Calibrate | None = None

    def decisions(self, pools: Sequence[Pool]) -> list[Decision | None]:
        """What it chooses for each question; None where there is nothing to choose from."""
        ready = scored(pools, self.scorer, self.calibrate)
        return [decide(pool.candidates, self.rule) if pool.candidates else None for pool in ready]


@dataclass(frozen=True, slots=True)
class Paired:
    """Both versions on the same judged questions."""

    questions: int
    serving: float  # share right
    new: float
    difference: Difference  # new less serving


@dataclass(frozen=True, slots=True)
class Trial:
    """What a trial shows, and whether it is a significant non-loss."""

    holdout: Paired | None  # None: nothing is held out
    shadow: Paired | None  # of the shadow traffic, what was judged; None: nothing
    replayed: int  # answers of the shadow traffic
    changed: float  # share of them that would have been others
    margin: float

    @property
    def objection(self) -> str:
        """Why the new version may not be promoted; empty where it may."""
        if self.holdout is None:
            return "nothing is held out to compare on"
        if self.holdout.difference.low < -self.margin:
            low = 100 * self.holdout.difference.low
            return (
                f"a loss of {100 * self.margin:g} points is not ruled out: the interval begins at {low:+.1f}"
            )
        if self.shadow is not None and self.shadow.difference.high < 0:
            return "it does worse on shadow traffic"
        return ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "objection": self.objection}


def trial(
    holdout: Sequence[Pool],
    shadow: Sequence[Pool],
    serving: Contender,
    new: Contender,
    *,
    margin: float = MARGIN,
    seed: int = 0,
) -> Trial:
    """Both versions on a holdout and on shadow traffic, neither of which the new one was trained on.

    Args:
        holdout: judged questions.
        shadow: recent answers; those that are judged are compared, all are counted for changes.
        serving: the version that serves.
        new: the one that may.
        margin: the loss that the holdout must rule out, as a share.
        seed: of the intervals' resampling.
    """
    ours, theirs = new.decisions(shadow), serving.decisions(shadow)
    changed = [_meaning(one) != _meaning(other) for one, other in zip(ours, theirs, strict=True)]
    spoken_of = [at for at, pool in enumerate(shadow) if _is_judged(pool)]
    return Trial(
        _paired(serving.decisions(holdout), new.decisions(holdout), seed),
        _paired([theirs[at] for at in spoken_of], [ours[at] for at in spoken_of], seed),
        len(shadow),
        fmean(changed) if changed else 0.0,
        margin,
    )


def outcome(decision: Decision | None) -> float:
    """1 for right, 0 for wrong or nothing, a half for what nobody has judged."""
    if decision is None:
        return 0.0
    known: Mapping[Verdict, float] = {Verdict.RIGHT: 1.0, Verdict.UNJUDGED: UNKNOWN}
    return known.get(decision.candidate.verdict, 0.0)


def _paired(serving: Sequence[Decision | None], new: Sequence[Decision | None], seed: int) -> Paired | None:
    if not new:
        return None
    theirs, ours = [outcome(each) for each in serving], [outcome(each) for each in new]
    return Paired(len(ours), fmean(theirs), fmean(ours), paired_difference(ours, theirs, seed=seed))


def _is_judged(pool: Pool) -> bool:
    return any(each.verdict is not Verdict.UNJUDGED for each in pool.candidates)


def _meaning(decision: Decision | None) -> str | None:
    if decision is None:
        return None
    return decision.candidate.text if decision.answer is None else decision.answer
