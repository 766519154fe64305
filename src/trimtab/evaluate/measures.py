"""How well confidence agrees with being right, and how well scores tell right candidates from wrong ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trimtab.evaluate.comparison import Bin, Calibration, Risk, Scores
from trimtab.evaluate.intervals import Array
from trimtab.types import Candidate, Verdict

Parted = tuple[tuple[float, ...], tuple[float, ...]]  # the scores of right and of wrong candidates

BINS = 10  # Guo et al. 2017, "On Calibration of Modern Neural Networks" use 15; ours see fewer questions
SCORE_BINS = 24
RISK_POINTS = 20  # of the curve that is kept; its area is that of every step


def calibration_of(decisions: Sequence[tuple[float, bool]], *, bins: int = BINS) -> Calibration | None:
    """Reliability of (confidence, is right) pairs in bins of equal width; None without any."""
    if not decisions:
        return None
    found = tuple(_bin(decisions, index, bins) for index in range(bins))
    brier = sum((confidence - right) ** 2 for confidence, right in decisions) / len(decisions)
    return Calibration(sum(map(_gap, found)) / len(decisions), brier, len(decisions), found)


def _gap(held: Bin) -> float:
    """Count-weighted distance of confidence and share right; 0 for an empty bin."""
    if held.confidence is None or held.right is None:
        return 0.0
    return held.count * abs(held.confidence - held.right)


def _bin(decisions: Sequence[tuple[float, bool]], index: int, bins: int) -> Bin:
    low, high = index / bins, (index + 1) / bins
    inside = [(c, right) for c, right in decisions if low < c <= high or (index == 0 and c == 0)]
    if not inside:
        return Bin(low, high, 0, None, None)
    confidence = sum(c for c, _ in inside) / len(inside)
    return Bin(low, high, len(inside), confidence, sum(right for _, right in inside) / len(inside))


def risk_of(decisions: Sequence[tuple[float, bool]], asked: int) -> Risk | None:
    """Selective accuracy of (confidence, is right) pairs among `asked` questions; None without any.

    Decisions of equal confidence are answered or left out together, as one threshold cannot part them.

    *Paper*: El-Yaniv and Wiener (2010), risk against coverage; its area as in Geifman et al. (2019).
    """
    if not decisions:
        return None
    ordered = sorted(decisions, key=lambda each: -each[0])
    confidence = np.array([each[0] for each in ordered])
    answered = np.arange(1, len(ordered) + 1)
    right = np.cumsum([each[1] for each in ordered])
    ends = np.flatnonzero(np.append(confidence[1:] != confidence[:-1], True))
    share = (right[ends] / answered[ends]).astype(float)
    steps = np.diff(answered[ends], prepend=0)
    kept = np.unique(np.linspace(0, len(ends) - 1, min(RISK_POINTS, len(ends))).round().astype(int))
    return Risk(
        coverage=tuple(float(n) / asked for n in answered[ends][kept]),
        right=tuple(float(each) for each in share[kept]),
        area=float(((1 - share) * steps).sum() / steps.sum()),
    )


def scores_of(pools: Sequence[Sequence[Candidate]]) -> Scores | None:
    """Histograms of the scores of right and wrong candidates on shared edges; None where none is scored."""
    return scores_between([parted(pool) for pool in pools])


def parted(pool: Sequence[Candidate]) -> Parted:
    """The scores of one question's right candidates, and of its wrong ones."""
    wrong = (*_scores(pool, Verdict.WRONG), *_scores(pool, Verdict.UNREADABLE))
    return tuple(_scores(pool, Verdict.RIGHT)), wrong


def scores_between(questions: Sequence[Parted], *, bins: int = SCORE_BINS) -> Scores | None:
    """`scores_of` questions whose scores are parted already."""
    right = [score for rights, _ in questions for score in rights]
    wrong = [score for _, wrongs in questions for score in wrongs]
    if not right and not wrong:
        return None
    edges = _edges([*right, *wrong], bins)
    return Scores(
        edges=tuple(float(edge) for edge in edges),
        right=tuple(int(n) for n in np.histogram(right, edges)[0]),
        wrong=tuple(int(n) for n in np.histogram(wrong, edges)[0]),
        pairwise_accuracy=_pairwise_accuracy(questions),
    )


def _edges(scores: Sequence[float], bins: int) -> Array:
    """Edges of equal bins over the scores; scores that are all but equal get a range of one around them."""
    low, high = min(scores), max(scores)
    if high - low <= 1e-6 * max(1.0, abs(low), abs(high)):  # no room for distinct edges between them
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, bins + 1)


def _scores(pool: Sequence[Candidate], verdict: Verdict) -> list[float]:
    return [c.score for c in pool if c.score is not None and c.verdict is verdict]


def _pairwise_accuracy(questions: Sequence[Parted]) -> float | None:
    """P(a right candidate outscores a wrong one of the same question), ties counting half."""
    won, pairs = 0.0, 0
    for rights, wrongs in questions:
        right, wrong = np.array(rights)[:, None], np.array(wrongs)[None, :]
        won += float((right > wrong).sum()) + 0.5 * float((right == wrong).sum())
        pairs += right.size * wrong.size
    return won / pairs if pairs else None
