"""How far raters agree beyond chance. Who said what stands in the store; nothing here reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, combinations
from typing import Literal, TypeVar

Level = Literal["nominal", "ordinal"]
Value = TypeVar("Value", str, int, float)


def krippendorff_alpha(units: Iterable[Sequence[Value]], level: Level = "nominal") -> float | None:
    """Agreement beyond chance: 1 is perfect, 0 is chance; None where it is not defined.

    It is not defined where nothing was rated twice, or all values are the same.

    *Paper*: Krippendorff (2011), Computing Krippendorff's Alpha-Reliability: alpha = 1 - D_o / D_e, with D_o
    the mean difference of two values of one unit and D_e that of two values of any units. Raters may be many,
    and may have left units out.

    Args:
        units: for each thing that was rated, the values that raters gave it, in any order.
        level: `nominal`, values are the same or they differ; `ordinal`, they have an order, and two differ by
            the square of how many given values lie between them, the two themselves counted half.
    """
    rated = [Counter(values) for values in units if len(values) > 1]
    given = sum(rated, start=Counter[Value]())
    if len(given) < 2:
        return None
    place = _places(given) if level == "ordinal" else None
    observed = sum(_disagreement(counts, place) for counts in rated)
    return 1 - observed / _disagreement(given, place)


def _disagreement(counts: Mapping[Value, int], place: Mapping[Value, float] | None) -> float:
    """Mean difference over ordered pairs of values, times the number of values."""
    pairs = combinations(counts.items(), 2)
    differing = sum(n * m * _difference(one, other, place) for (one, n), (other, m) in pairs)
    return 2 * differing / (sum(counts.values()) - 1)


def _difference(one: Value, other: Value, place: Mapping[Value, float] | None) -> float:
    return 1.0 if place is None else (place[one] - place[other]) ** 2


def _places(counts: Mapping[Value, int]) -> dict[Value, float]:
    """For each value the number of values below it, and half of its own."""
    values = sorted(counts)
    upto = accumulate(counts[value] for value in values)
    return {value: top - counts[value] / 2 for value, top in zip(values, upto, strict=True)}
