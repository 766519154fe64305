"""Measures of a classifier against the formulas written out the slow way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.crosstune.measures import calibration_error, confusion, macro_f1, macro_f1_interval, per_class

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


@given(PAIRS)
def test_figures_of_a_class_are_counted_one_text_at_a_time(pairs):
    truth, said = (np.array(column) for column in zip(*pairs, strict=True))
    counts = confusion(truth, said, 4)
    assert counts.sum() == len(pairs)
    for name, figures in enumerate(per_class(counts)):
        right = sum(pair == (name, name) for pair in pairs)
        were = sum(pair[0] == name for pair in pairs)
        told = sum(pair[1] == name for pair in pairs)
        precision, recall = (right / told if told else 0.0), (right / were if were else 0.0)
        both = precision + recall
        assert (figures.precision, figures.recall, figures.count) == (precision, recall, were)
        assert figures.f1 == pytest.approx(2 * precision * recall / both if both else 0.0)


@given(PAIRS)
def test_macro_f1_is_the_mean_over_the_classes_that_are_there_and_lies_in_its_interval(pairs):
    truth, said = (np.array(column) for column in zip(*pairs, strict=True))
    counts = confusion(truth, said, 4)
    present = [each.f1 for name, each in enumerate(per_class(counts)) if name in truth]
    assert macro_f1(counts) == pytest.approx(sum(present) / len(present))


def test_the_interval_of_a_faultless_classifier_is_a_point_and_seeds_repeat_it():
    truth = np.array([0, 1, 2] * 5)
    assert macro_f1_interval(truth, truth, 3) == (1.0, 1.0)
    said = np.where(np.arange(15) < 10, truth, 0)
    assert macro_f1_interval(truth, said, 3, seed=1) == macro_f1_interval(truth, said, 3, seed=1)


def test_calibration_error_weighs_each_bins_gap_by_its_texts():
    # Four texts at 0.75, half of them right; six at 1.0, all right.
    probabilities = np.array([[0.75, 0.25]] * 4 + [[1.0, 0.0]] * 6)
    truth = np.array([0, 0, 1, 1] + [0] * 6)
    assert calibration_error(truth, probabilities) == pytest.approx(0.4 * 0.25)
