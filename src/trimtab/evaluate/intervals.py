"""How sure a number is: bootstrap intervals over questions, paired tests. Pure functions with seeds.

An outcome is one question's share right in [0, 1]; a question that failed or could not be read counts 0.
What the outcomes are of stands in `compare`; how they are shown, in `report`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

RESAMPLES = 10_000  # the 2.5 % ends of an interval then rest on 250 resamples each
LEVEL = 0.95
_CELLS = 4_000_000  # resamples are drawn in parts of at most this many cells: 32 MB


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over questions and its interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        """Plain values, in stable order."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class Difference:
    """A paired difference of two means, its interval, and how likely it is by chance alone."""

    value: float
    low: float
    high: float
    p: float

    def to_json(self) -> dict[str, Any]:
        """Plain values, in stable order."""
        return {"value": self.value, "low": self.low, "high": self.high, "p": self.p}


def mean_estimate(
    outcomes: Sequence[float] | Array, *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> Estimate:
    """The mean outcome with a percentile bootstrap interval over questions.

    Differs from the plain bootstrap where every question ended alike (all 0 or all 1): resampling then shows
    no spread at all, and Wilson's interval is given in its place.

    Raises:
        ValueError: there are no outcomes, or one is outside [0, 1].
    """
    (estimate,) = mean_estimates(_checked(outcomes)[:, None], seed=seed, resamples=resamples, level=level)
    return estimate


def mean_estimates(
    outcomes: Array, *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> tuple[Estimate, ...]:
    """One estimate a column of `outcomes` (questions, columns); all columns share the same resamples."""
    low, high = _ends(resampled_means(outcomes, seed=seed, resamples=resamples), level)
    return tuple(
        _wilson_where_alike(outcomes[:, column], float(low[column]), float(high[column]), level)
        for column in range(outcomes.shape[1])
    )


def _wilson_where_alike(column: Array, low: float, high: float, level: float) -> Estimate:
    value = float(column.mean())
    if value in (0.0, 1.0):
        low, high = wilson_interval(round(value * len(column)), len(column), level=level)
    return Estimate(value, low, high)


def paired_difference(
    ours: Sequence[float] | Array,
    theirs: Sequence[float] | Array,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Difference:
    """The mean of ours - theirs over the same questions, with interval and two-sided p.

    The p is McNemar's exact one where every question is simply won, lost or tied, else that of a seeded
    sign-flip permutation test.

    Raises:
        ValueError: the two are not of the same questions, there are none, or one is outside [0, 1].
    """
    first, second = _checked(ours), _checked(theirs)
    if len(first) != len(second):
        raise ValueError(f"a paired difference needs the same questions: {len(first)} and {len(second)} came")
    differences = first - second
    low, high = _ends(resampled_means(differences[:, None], seed=seed, resamples=resamples), level)
    return Difference(
        float(differences.mean()), float(low[0]), float(high[0]), _p(differences, seed, resamples)
    )


def _p(differences: Array, seed: int, resamples: int) -> float:
    if np.isin(differences, (-1.0, 0.0, 1.0)).all():
        return mcnemar_p(int((differences > 0).sum()), int((differences < 0).sum()))
    return sign_flip_p(differences, seed=seed, flips=resamples)


def mcnemar_p(won: int, lost: int) -> float:
    """Two-sided exact p of McNemar's test: `won` and `lost` are the questions on which the two disagree."""
    decided = won + lost
    tail = sum(math.comb(decided, count) for count in range(min(won, lost) + 1))
    return min(1.0, float(2 * tail / 2**decided))


def sign_flip_p(differences: Array, *, seed: int = 0, flips: int = RESAMPLES) -> float:
    """Two-sided p of the hypothesis that each question's difference could as well have had the other sign."""
    decided = differences[differences != 0]
    if not len(decided):
        return 1.0
    rng = np.random.default_rng(seed)
    reached = 0
    for part in _parts(flips, len(decided)):
        signs = rng.integers(0, 2, size=(part, len(decided)), dtype=np.int8) * 2.0 - 1.0
        # the slack keeps a sum that is equal but for rounding on the side of "as far as what was seen"
        reached += int((np.abs(signs @ decided) >= abs(decided.sum()) - 1e-9).sum())
    return (reached + 1) / (flips + 1)


def wilson_interval(right: int, asked: int, *, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a share; for a count of right answers it needs no resampling."""
    if asked < 1:
        raise ValueError("a share needs at least one question")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share, scale = right / asked, 1 + z * z / asked
    centre = (share + z * z / (2 * asked)) / scale
    half = z * math.sqrt(share * (1 - share) / asked + z * z / (4 * asked * asked)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def resampled_means(outcomes: Array, *, seed: int = 0, resamples: int = RESAMPLES) -> Array:
    """Column means (resamples, columns) of questions drawn anew with replacement, rows kept together."""
    questions = len(outcomes)
    rng = np.random.default_rng(seed)
    means = [_counts(rng, part, questions) @ outcomes for part in _parts(resamples, questions)]
    found: Array = np.concatenate(means) / questions
    return found


def _counts(rng: np.random.Generator, resamples: int, questions: int) -> Array:
    """How often each question was drawn, (resamples, questions)."""
    drawn = rng.integers(0, questions, size=(resamples, questions))
    drawn += np.arange(resamples)[:, None] * questions
    counted = np.bincount(drawn.ravel(), minlength=resamples * questions)
    return counted.reshape(resamples, questions).astype(np.float64)


def _parts(rows: int, width: int) -> Iterator[int]:
    size = max(1, _CELLS // width)
    for start in range(0, rows, size):
        yield min(size, rows - start)


def _ends(means: Array, level: float) -> tuple[Array, Array]:
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def _checked(outcomes: Sequence[float] | Array) -> Array:
    values = np.asarray(outcomes, dtype=np.float64)
    if not len(values):
        raise ValueError("an interval needs at least one question")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("outcomes are shares right in [0, 1]")
    return values
