"""What a classifier is worth on labelled texts: F1 by class and over classes, calibration, confusion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 10
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """One class: how often it was said rightly, how often it was found."""

    precision: float
    recall: float
    f1: float
    count: int  # texts of this class


def confusion(truth: NDArray[np.int_], said: NDArray[np.int_], classes: int) -> NDArray[np.int_]:
    """Counts of texts, (classes, classes): rows by their label, columns by what was said."""
    counts = np.zeros((classes, classes), dtype=np.int_)
    np.add.at(counts, (truth, said), 1)
    return counts


def per_class(counts: NDArray[np.int_]) -> list[ClassFigures]:
    """The figures of each class; a ratio without anything to count is 0."""
    right, were, said = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    precision = right / np.maximum(said, 1)
    recall = right / np.maximum(were, 1)
    f1 = 2 * right / np.maximum(were + said, 1)
    rows = zip(precision, recall, f1, were, strict=True)
    return [ClassFigures(float(p), float(r), float(f), int(n)) for p, r, f, n in rows]


def macro_f1(counts: NDArray[np.int_]) -> float:
    """The mean F1 over the classes that the texts have; a class that none has says nothing."""
    figures = [each.f1 for each in per_class(counts) if each.count]
    return float(np.mean(figures)) if figures else 0.0


def macro_f1_interval(
    truth: NDArray[np.int_], said: NDArray[np.int_], classes: int, *, seed: int = 0
) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of macro-F1, texts resampled."""
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(len(truth), size=len(truth)) for _ in range(RESAMPLES))
    found = [macro_f1(confusion(truth[rows], said[rows], classes)) for rows in drawn]
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def calibration_error(truth: NDArray[np.int_], probabilities: NDArray[np.float64]) -> float:
    """ECE: the mean distance of confidence and accuracy over ten equal bins, weighed by their texts.

    *Paper* (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, Eq. 3).

    Args:
        truth: places of the right classes, (texts,).
        probabilities: (texts, classes).
    """
    sure = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == truth
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    gaps = [abs(float((right[bins == b] - sure[bins == b]).sum())) for b in range(BINS)]
    return sum(gaps) / len(truth)
