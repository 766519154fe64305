"""How sure a number is: bootstrap intervals over questions, paired tests. Pure functions with seeds.

An outcome is one question's share right in [0, 1]; a question that failed or could not be read counts 0.
Questions of one cluster (variants of a question, the same question under several seeds) are resampled and
flipped together, as what they have in common is drawn once and not many times. What the outcomes are of
stands in `compare`; how they are shown, in `report`.
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
Clusters = npt.NDArray[np.int64]  # for each question the number of its cluster

RESAMPLES = 10_000  # the 2.5 % ends of an interval then rest on 250 resamples each
LEVEL = 0.95
POWER = 0.8  # how likely a difference of the size seen is to be told from chance, for `Difference.needed`
_CELLS = (
    500_000  # resamples are drawn in parts of at most this many cells: 4 MB, whatever the number of questions
)


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
    won: int = 0  # questions on which ours is the better
    lost: int = 0
    questions: int = 0
    needed: int | None = None  # questions in all that would tell it from chance; None where there is none

    def to_json(self) -> dict[str, Any]:
        """Plain values, in stable order."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


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
    outcomes: Array,
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> tuple[Estimate, ...]:
    """One estimate a column of `outcomes` (questions, columns); all columns share the same resamples."""
    means = resampled_means(outcomes, clusters=clusters, seed=seed, resamples=resamples)
    low, high = _ends(means, level)
    apart = len(outcomes) if clusters is None else len(np.unique(clusters))
    return tuple(
        _wilson_where_alike(outcomes[:, column], apart, float(low[column]), float(high[column]), level)
        for column in range(outcomes.shape[1])
    )


def _wilson_where_alike(column: Array, apart: int, low: float, high: float, level: float) -> Estimate:
    value = float(column.mean())
    if value in (0.0, 1.0):
        low, high = wilson_interval(round(value * apart), apart, level=level)
    return Estimate(value, low, high)


def paired_difference(
    ours: Sequence[float] | Array,
    theirs: Sequence[float] | Array,
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Difference:
    """The mean of ours - theirs over the same questions, with interval and two-sided p.

    The p is McNemar's exact one where every question is simply won, lost or tied, else that of a seeded
    sign-flip permutation test; in clusters, of one that flips whole clusters.

    Args:
        ours: one outcome a question.
        theirs: the same questions, in the same order.
        clusters: for each question the number of its cluster; without it each stands alone.
        seed: of resampling.
        resamples: how many.
        level: of the interval.

    Raises:
        ValueError: the two are not of the same questions, there are none, or one is outside [0, 1].
    """
    first, second = _checked(ours), _checked(theirs)
    if len(first) != len(second):
        raise ValueError(f"a paired difference needs the same questions: {len(first)} and {len(second)} came")
    differences = first - second
    means = resampled_means(differences[:, None], clusters=clusters, seed=seed, resamples=resamples)
    low, high = _ends(means, level)
    return Difference(
        float(differences.mean()),
        float(low[0]),
        float(high[0]),
        _p(cluster_sums(differences, clusters), seed, resamples),
        won=int((differences > 0).sum()),
        lost=int((differences < 0).sum()),
        questions=len(differences),
        needed=questions_needed(differences, clusters, level=level),
    )


def _p(differences: Array, seed: int, resamples: int) -> float:
    if np.isin(differences, (-1.0, 0.0, 1.0)).all():
        return mcnemar_p(int((differences > 0).sum()), int((differences < 0).sum()))
    return sign_flip_p(differences, seed=seed, flips=resamples)


def cluster_sums(outcomes: Array, clusters: Clusters | None) -> Array:
    """The sum over each cluster's questions, along the first axis; the outcomes themselves without any."""
    if clusters is None:
        return outcomes
    _, place = np.unique(clusters, return_inverse=True)
    sums = np.zeros((int(place.max()) + 1, *outcomes.shape[1:]))
    np.add.at(sums, place, outcomes)
    return sums


def standard_error(differences: Array, clusters: Clusters | None = None) -> float:
    """Of the mean: the root of the summed squares of each cluster's summed residuals, over the questions.

    *Paper*: Liang and Zeger (1986), the sandwich estimate for a mean; as Miller (2024), Adding Error Bars to
    Evals, Eq. 4. Where each question stands alone it is the plain standard error with divisor n.
    """
    residuals = cluster_sums(differences - differences.mean(), clusters)
    return float(np.sqrt((residuals**2).sum())) / len(differences)


def questions_needed(
    differences: Array, clusters: Clusters | None = None, *, level: float = LEVEL, power: float = POWER
) -> int | None:
    """How many questions like these would tell a difference of this size from chance; None where it is 0.

    *Paper*: the sample size of a z-test, n = (z_level + z_power)^2 sd^2 / difference^2, sd^2 being n times
    the squared standard error seen here. It takes the difference seen for the true one: a rough guide.
    """
    mean, error = float(differences.mean()), standard_error(differences, clusters)
    if abs(mean) < 1e-12:
        return None
    z = NormalDist().inv_cdf(0.5 + level / 2) + NormalDist().inv_cdf(power)
    return math.ceil(len(differences) * (z * error / mean) ** 2)


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


def resampled_means(
    outcomes: Array, *, clusters: Clusters | None = None, seed: int = 0, resamples: int = RESAMPLES
) -> Array:
    """Column means (resamples, columns) of questions drawn anew with replacement, rows kept together.

    In clusters, whole clusters are drawn; a resample then has as many questions as those hold.
    """
    sums = cluster_sums(outcomes, clusters)
    sizes = None if clusters is None else cluster_sums(np.ones(len(outcomes)), clusters)
    rng = np.random.default_rng(seed)
    parts = (_counts(rng, part, len(sums)) for part in _parts(resamples, len(sums)))
    found: Array = np.concatenate([_means(part, sums, sizes) for part in parts])
    return found


def _means(counts: Array, sums: Array, sizes: Array | None) -> Array:
    questions = len(sums) if sizes is None else (counts @ sizes)[:, None]
    means: Array = counts @ sums / questions
    return means


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
