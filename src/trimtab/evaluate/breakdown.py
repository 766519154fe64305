"""Outcomes, by method, taken together and apart: over all questions, by category, by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trimtab.evaluate.comparison import Category, Seeds
from trimtab.evaluate.intervals import (
    Array,
    Clusters,
    Difference,
    Estimate,
    mean_estimates,
    paired_difference,
)
from trimtab.evaluate.marks import Mark, clusters_of


@dataclass(frozen=True, slots=True)
class Resampling:
    """How one evaluation's questions are drawn anew: the same for all of its figures."""

    clusters: Clusters | None
    seed: int

    def estimates(self, outcomes: Array) -> tuple[Estimate, ...]:
        """One estimate a column."""
        return mean_estimates(outcomes, clusters=self.clusters, seed=self.seed)

    def accuracy(self, outcomes: Mapping[str, Array]) -> dict[str, Estimate]:
        """One estimate a method."""
        estimates = self.estimates(np.column_stack(list(outcomes.values())))
        return dict(zip(outcomes, estimates, strict=True))

    def difference(self, ours: Array, theirs: Array) -> Difference:
        """Of two methods, paired."""
        return paired_difference(ours, theirs, clusters=self.clusters, seed=self.seed)


def by_category(
    outcomes: Mapping[str, Array], marks: Sequence[Mark], paired: Resampling
) -> dict[str, Category]:
    """Each method on each category's questions alone, the largest first; empty without categories."""
    places: dict[str, list[int]] = {}
    for place, mark in enumerate(marks):
        if mark.category is not None:
            places.setdefault(mark.category, []).append(place)
    ordered = sorted(places, key=lambda name: (-len(places[name]), name))
    return {name: _category(outcomes, marks, places[name], paired.seed) for name in ordered}


def _category(
    outcomes: Mapping[str, Array], marks: Sequence[Mark], places: Sequence[int], seed: int
) -> Category:
    inside = Resampling(clusters_of([marks[place] for place in places]), seed)
    return Category(
        len(places), inside.accuracy({name: values[list(places)] for name, values in outcomes.items()})
    )


def by_seed(outcomes: Mapping[str, Array], marks: Sequence[Mark]) -> Seeds | None:
    """Each method's accuracy on each seed's draws; None where there is one seed."""
    seeds = tuple(sorted({mark.seed for mark in marks}))
    if len(seeds) < 2:
        return None
    of_seed = [np.array([mark.seed == seed for mark in marks]) for seed in seeds]
    means = {name: tuple(float(v[chosen].mean()) for chosen in of_seed) for name, v in outcomes.items()}
    return Seeds(seeds, means)
