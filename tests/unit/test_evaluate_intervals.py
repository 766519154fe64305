"""Laws of the intervals and paired tests, each against the slow way."""

from __future__ import annotations

import math
from itertools import product
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.evaluate.intervals import (
    mcnemar_p,
    mean_estimate,
    mean_estimates,
    paired_difference,
    resampled_means,
    sign_flip_p,
    wilson_interval,
)

shares = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=12)


def test_resampled_means_are_those_of_the_questions_drawn() -> None:
    outcomes = np.array([[0.0, 1.0], [1.0, 1.0], [0.5, 0.0]])
    drawn = np.random.default_rng(7).integers(0, 3, size=(50, 3))
    slow = [[sum(outcomes[i][column] for i in row) / 3 for column in (0, 1)] for row in drawn]
    assert resampled_means(outcomes, seed=7, resamples=50) == pytest.approx(np.array(slow))


def test_an_interval_ends_at_the_percentiles_of_the_resampled_means() -> None:
    outcomes = [0.0, 1.0, 1.0, 0.25, 0.0, 1.0]
    means = sorted(resampled_means(np.array(outcomes)[:, None], seed=3, resamples=1001)[:, 0])
    estimate = mean_estimate(outcomes, seed=3, resamples=1001)
    assert (estimate.low, estimate.high) == pytest.approx((means[25], means[975]))


@given(shares, st.integers(0, 3))
def test_the_same_seed_gives_the_same_interval_and_it_holds_the_mean(
    outcomes: list[float], seed: int
) -> None:
    estimate = mean_estimate(outcomes, seed=seed, resamples=400)
    assert estimate == mean_estimate(outcomes, seed=seed, resamples=400)
    assert estimate.value == pytest.approx(sum(outcomes) / len(outcomes))
    assert 0 <= estimate.low <= estimate.value + 1e-12
    assert estimate.value - 1e-12 <= estimate.high <= 1


def test_a_95_percent_interval_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    samples = (rng.random((100, 400)) < 0.4).astype(float)
    covered = [e.low <= 0.4 <= e.high for e in mean_estimates(samples, seed=1, resamples=1000)]
    assert 0.92 <= np.mean(covered) <= 0.98


def test_a_paired_interval_covers_the_true_difference_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for trial in range(200):
        theirs = rng.random(100) < 0.4
        ours = np.where(theirs, rng.random(100) < 0.9, rng.random(100) < 0.3)  # truth: 0.54 - 0.40
        difference = paired_difference(ours.astype(float), theirs.astype(float), seed=trial, resamples=400)
        covered.append(difference.low <= 0.14 <= difference.high)
    assert 0.90 <= np.mean(covered) <= 0.99


def test_pairing_narrows_the_interval_of_methods_that_mostly_agree() -> None:
    theirs = np.array([0.0, 1.0] * 50)
    ours = theirs.copy()
    ours[:10:2] = 1.0
    paired = paired_difference(ours, theirs)
    alone = mean_estimate(ours)
    assert paired.high - paired.low < (alone.high - alone.low) / 2
    assert paired.low > 0


def test_a_question_answered_alike_by_all_still_leaves_doubt() -> None:
    estimate = mean_estimate([1.0] * 20)
    assert (estimate.value, estimate.high) == (1.0, 1.0)
    assert estimate.low == pytest.approx(wilson_interval(20, 20)[0])
    assert estimate.low < 0.9


@given(st.integers(1, 60), st.data())
def test_wilsons_ends_are_where_the_observed_share_is_just_rejected(asked: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, asked))
    z = NormalDist().inv_cdf(0.975)
    for end in wilson_interval(right, asked):
        if 0 < end < 1:
            assert abs(right / asked - end) == pytest.approx(z * math.sqrt(end * (1 - end) / asked), abs=1e-7)


@given(st.integers(0, 9), st.integers(0, 9))
def test_mcnemars_p_is_the_share_of_coin_tosses_at_least_as_uneven(won: int, lost: int) -> None:
    tosses = [sum(signs) for signs in product((1, -1), repeat=min(won + lost, 10))]
    if won + lost <= 10:
        slow = sum(abs(total) >= abs(won - lost) for total in tosses) / len(tosses)
        assert mcnemar_p(won, lost) == pytest.approx(slow)
    assert mcnemar_p(won, lost) == mcnemar_p(lost, won)


def test_the_sign_flip_p_is_near_that_of_all_sign_flips() -> None:
    differences = np.array([0.5, 0.25, -0.25, 1.0, 0.75, 0.0, 0.5, -0.5, 0.25])
    totals = [abs(np.dot(signs, differences)) for signs in product((1, -1), repeat=len(differences))]
    slow = np.mean([total >= abs(differences.sum()) - 1e-9 for total in totals])
    assert sign_flip_p(differences, seed=0) == pytest.approx(slow, abs=0.02)


@given(shares)
def test_a_method_does_not_differ_from_itself(outcomes: list[float]) -> None:
    difference = paired_difference(outcomes, outcomes, resamples=100)
    assert (difference.value, difference.low, difference.high, difference.p) == (0, 0, 0, 1)


def test_swapping_the_sides_changes_the_sign_and_not_the_p() -> None:
    ours, theirs = [1.0, 1.0, 0.5, 0.0, 1.0], [0.0, 1.0, 0.25, 0.25, 0.0]
    one, other = paired_difference(ours, theirs), paired_difference(theirs, ours)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))
    assert one.p == other.p


@pytest.mark.parametrize("outcomes", [[], [1.5], [-0.1, 0.5], [math.nan]])
def test_what_is_no_share_right_is_refused(outcomes: list[float]) -> None:
    with pytest.raises(ValueError, match=r"at least one question|in \[0, 1\]"):
        mean_estimate(outcomes)


def test_a_paired_difference_of_other_questions_is_refused() -> None:
    with pytest.raises(ValueError, match="same questions: 2 and 3"):
        paired_difference([1.0, 0.0], [1.0, 0.0, 0.0])
