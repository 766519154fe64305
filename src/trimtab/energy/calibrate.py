"""Scores to probabilities: what share of answers with this score is right.

Platt's logistic curve for few points, isotonic regression for many. Both never fall as the score rises. From
decisions to probabilities by the same means. No torch here; how scores are made is `model`'s, what is decided
with probabilities is `stopping`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from trimtab.stopping import DecisionCalibration, Evidence

Method = Literal["platt", "isotonic"]
Array = NDArray[np.float64]

ISOTONIC_FROM = 1000  # below about 1,000 points isotonic overfits (Niculescu-Mizil & Caruana 2005, fig. 5)
RIDGE = 1e-3  # on the slope of standardised scores: finite also when one score separates right from wrong
# On both slopes of decisions: stronger, since there is one decision a question where there are many scored
# answers, and share and confidence go together. On simulated questions 0.05 to 0.15 did best from 20 to 60.
DECISION_RIDGE = 0.1


@dataclass(frozen=True, slots=True)
class Calibration:
    """A rising map from score to P(correct).

    Platt uses `slope` and `intercept`; isotonic goes in straight lines through (`knots`, `levels`).
    """

    method: Method
    slope: float = 0.0
    intercept: float = 0.0
    knots: tuple[float, ...] = ()
    levels: tuple[float, ...] = ()
    points: int = 0  # how many scores it was learnt from

    def apply(self, scores: ArrayLike) -> Array:
        """P(correct) for each score."""
        values = np.asarray(scores, dtype=np.float64)
        if self.method == "platt":
            return np.asarray(expit(self.slope * values + self.intercept), dtype=np.float64)
        return np.interp(values, self.knots, self.levels)

    def confidences(self, scores: Sequence[float]) -> list[float]:
        """P(correct) for each score, as plain numbers."""
        return [float(probability) for probability in self.apply(scores)]


def calibrate(
    scores: ArrayLike, outcomes: Sequence[bool] | ArrayLike, method: Method | Literal["auto"] = "auto"
) -> Calibration:
    """The calibration learnt from scored answers and whether each was right.

    `auto` takes Platt below 1,000 points and isotonic from there on. With one kind of outcome only,
    the result is nearly flat at the smoothed base rate, (right + 1) / (points + 2).

    Raises:
        ValueError: no point, different lengths, or a score that is not finite.
    """
    values, right = _checked(scores, outcomes)
    single_kind = right.all() or not right.any()
    if method == "platt" or single_kind or (method == "auto" and len(values) < ISOTONIC_FROM):
        return _base_rate(right) if single_kind else _platt(values, right)
    return _isotonic(values, right)


def calibrate_decisions(evidence: Sequence[Evidence], outcomes: Sequence[bool]) -> DecisionCalibration:
    """The calibration learnt from one rule's decisions and whether each was right.

    Platt scaling of two features: penalised maximum likelihood with Platt's smoothed targets, both slopes
    >= 0, so that neither more agreement nor more confidence ever lowers P(right). With one kind of outcome
    only, it is flat at the smoothed base rate, (right + 1) / (decisions + 2).

    Raises:
        ValueError: no decision, or different lengths.
    """
    right = np.asarray(outcomes, dtype=bool).astype(np.float64)
    if len(evidence) != len(right) or not len(right):
        raise ValueError(f"one outcome for each decision is needed; got {len(evidence)} and {len(right)}")
    if right.all() or not right.any():
        return DecisionCalibration(_base_rate(right).intercept, points=len(right))
    features = np.array([[each.share, each.confidence] for each in evidence], dtype=np.float64)
    intercept, (share, confidence) = _logistic(features, right, DECISION_RIDGE)
    return DecisionCalibration(intercept, float(share), float(confidence), len(right))


def expected_calibration_error(probabilities: ArrayLike, outcomes: ArrayLike, bins: int = 10) -> float:
    """ECE: how far stated probability and share right lie apart, on average over equal-width bins.

    Raises:
        ValueError: no point, or different lengths.
    """
    stated, right = _checked(probabilities, outcomes)
    index = np.minimum((stated * bins).astype(int), bins - 1)
    gaps = np.bincount(index, weights=stated - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(stated))


def _checked(scores: ArrayLike, outcomes: ArrayLike) -> tuple[Array, Array]:
    values = np.asarray(scores, dtype=np.float64)
    right = np.asarray(outcomes, dtype=bool).astype(np.float64)
    if values.ndim != 1 or values.shape != right.shape or not len(values):
        raise ValueError(f"one outcome for each score is needed; got {values.shape} and {right.shape}")
    if not np.isfinite(values).all():
        raise ValueError("every score must be a finite number")
    return values, right


def _base_rate(right: Array) -> Calibration:
    rate = (right.sum() + 1) / (len(right) + 2)
    return Calibration("platt", intercept=float(logit(rate)), points=len(right))


def _platt(scores: Array, right: Array) -> Calibration:
    """Platt scaling, a * g + b by penalised maximum likelihood.

    Paper: Platt 1999; targets (N+ + 1) / (N+ + 2) and 1 / (N- + 2) in place of 1 and 0.
    Differs: the slope is kept >= 0, so that a useless score gives the base rate and never a reversed order.
    """
    intercept, (slope,) = _logistic(scores[:, None], right, RIDGE)
    return Calibration("platt", slope=float(slope), intercept=intercept, points=len(scores))


def _logistic(features: Array, right: Array, ridge: float) -> tuple[float, Array]:
    """Intercept and slopes of P(right), one slope a column, none negative.

    The ridge is on the slopes of standardised columns. A column that does not vary gets the slope 0.
    """
    centre, spread = features.mean(axis=0), features.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    standard = (features - centre) / spread
    positives = right.sum()
    negatives = len(right) - positives
    target = np.where(right > 0, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def objective(parameters: Array) -> tuple[float, Array]:
        slopes, intercept = parameters[:-1], parameters[-1]
        line = standard @ slopes + intercept
        error = expit(line) - target
        loss = np.logaddexp(0, line).sum() - target @ line + ridge * slopes @ slopes
        return float(loss), np.append(error @ standard + 2 * ridge * slopes, error.sum())

    from scipy.optimize import minimize  # a third of a second that only a fit needs

    columns = features.shape[1]
    start = np.append(np.zeros(columns), logit(target.mean()))
    bounds = [(0, None)] * columns + [(None, None)]
    found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    slopes = found[:-1] / spread
    return float(found[-1] - slopes @ centre), slopes


def _isotonic(scores: Array, right: Array) -> Calibration:
    """Isotonic regression; a block's level stands at its mean score, straight lines between.

    Levels stay 1 / (points + 2) away from 0 and 1: no finite sample makes an answer certain.
    """
    blocks = pool_adjacent_violators(scores, right)
    edge = 1 / (len(scores) + 2)
    return Calibration(
        "isotonic",
        knots=tuple(score for score, _ in blocks),
        levels=tuple(float(np.clip(level, edge, 1 - edge)) for _, level in blocks),
        points=len(scores),
    )


def pool_adjacent_violators(scores: Array, values: Array) -> list[tuple[float, float]]:
    """(mean score, mean value) of each block of the least-squares rising fit, in order of score."""
    unique, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    sums = np.bincount(inverse, weights=values)
    blocks: list[list[float]] = []  # [sum of scores, sum of values, count]
    for score, total, count in zip(unique, sums, counts, strict=True):
        blocks.append([float(score * count), float(total), float(count)])
        while len(blocks) > 1 and _mean(blocks[-2]) >= _mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    return [(block[0] / block[2], _mean(block)) for block in blocks]


def _mean(block: list[float]) -> float:
    return block[1] / block[2]
