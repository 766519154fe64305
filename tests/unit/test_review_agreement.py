"""Krippendorff's alpha: the published figures, and the slow way written out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.evaluate.agreement import krippendorff_alpha

# Krippendorff (2011), section C: four observers, twelve units, some left out.
OBSERVERS = (
    (1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None),
    (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3),
    (None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None),
    (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None),
)
PUBLISHED = [[value for value in unit if value is not None] for unit in zip(*OBSERVERS, strict=True)]

rated = st.lists(st.lists(st.integers(1, 4), max_size=5), max_size=8)


def slow_alpha(units, level):
    """Every ordered pair of two different raters' values, one by one."""
    units = [unit for unit in units if len(unit) > 1]
    values = [value for unit in units for value in unit]

    def difference(one, other):
        if level == "nominal":
            return float(one != other)
        low, high = sorted((one, other))
        between = sum(low <= value <= high for value in values)
        return (between - (values.count(low) + values.count(high)) / 2) ** 2

    def pairs(given):
        return [(one, other) for at, one in enumerate(given) for to, other in enumerate(given) if at != to]

    expected = sum(difference(*pair) for pair in pairs(values)) / max(1, len(values) - 1)
    if expected == 0:
        return None
    return 1 - sum(sum(difference(*p) for p in pairs(unit)) / (len(unit) - 1) for unit in units) / expected


@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("ordinal", 0.815)])
def test_the_published_example_has_its_published_alpha(level, published):
    assert krippendorff_alpha(PUBLISHED, level) == pytest.approx(published, abs=0.0005)


@given(rated, st.sampled_from(["nominal", "ordinal"]))
def test_alpha_is_what_the_slow_way_says(units, level):
    expected = slow_alpha(units, level)
    assert krippendorff_alpha(units, level) == (None if expected is None else pytest.approx(expected))


@given(rated, st.randoms())
def test_who_said_it_and_in_which_order_does_not_matter(units, random):
    shuffled = [random.sample(unit, len(unit)) for unit in random.sample(units, len(units))]
    alpha = krippendorff_alpha(units)
    assert krippendorff_alpha(shuffled) == (None if alpha is None else pytest.approx(alpha))


def test_raters_who_always_agree_have_one():
    assert krippendorff_alpha([["a", "a"], ["b", "b", "b"], ["c"]]) == 1


def test_raters_who_never_agree_are_below_chance():
    assert krippendorff_alpha([["a", "b"], ["b", "a"]]) < 0


@pytest.mark.parametrize("units", [[], [["a"], ["b"]], [["a", "a"], ["a", "a"]]])
def test_where_chance_cannot_be_told_from_agreement_there_is_no_alpha(units):
    assert krippendorff_alpha(units) is None
