"""Laws of the cross-attention's formulas: each against the slow way, gradients against finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import check_grad

from trimtab.crosstune import network
from trimtab.crosstune.network import (
    DOUBT,
    Head,
    averaged_nll,
    best_temperature,
    fit_heads,
    fit_projections,
    head_probabilities,
    mean_of_heads,
    softened,
    stacked_weights,
    with_prior,
)
from trimtab.crosstune.training import stopping_stage, stratified_folds

TEXTS, CLASSES, WIDTH = 6, 3, 4


def drawn(seed: int, heads: int = 2) -> tuple[list[Head], list[np.ndarray], np.ndarray]:
    """Heads, queries (the last head's by class) and labels."""
    rng = np.random.default_rng(seed)
    made = [
        Head(rng.normal(size=(CLASSES, WIDTH)), rng.normal(size=(CLASSES, WIDTH)), 1.0 + number)
        for number in range(heads)
    ]
    asked = [rng.normal(size=(TEXTS, WIDTH)) for _ in range(heads - 1)]
    return made, [*asked, rng.normal(size=(TEXTS, CLASSES, WIDTH))], rng.integers(0, CLASSES, TEXTS)


@given(st.integers(0, 10_000))
def test_a_head_is_the_softmax_of_query_times_key_written_out(seed):
    heads, queries, _ = drawn(seed)
    for head, asked in zip(heads, queries, strict=True):
        found = head_probabilities(head, asked)
        for n in range(TEXTS):
            logits = []
            for c in range(CLASSES):
                query = asked[n] if asked.ndim == 2 else asked[n][c]
                logits.append(
                    head.sharpness * sum(query[d] * (head.start + head.shift)[c][d] for d in range(WIDTH))
                )
            total = sum(math.exp(each - max(logits)) for each in logits)
            assert found[n] == pytest.approx([math.exp(each - max(logits)) / total for each in logits])


@given(st.integers(0, 10_000))
def test_the_mean_over_heads_and_its_loss_are_the_formulas_written_out(seed):
    heads, queries, labels = drawn(seed)
    each = [head_probabilities(head, asked) for head, asked in zip(heads, queries, strict=True)]
    mean = mean_of_heads(each, np.array([0.5, 0.5]))
    slow = [[(each[0][n][c] + each[1][n][c]) / 2 for c in range(CLASSES)] for n in range(TEXTS)]
    assert mean == pytest.approx(np.array(slow))
    assert averaged_nll(mean, labels) == pytest.approx(
        sum(-math.log(slow[n][labels[n]]) for n in range(TEXTS)) / TEXTS
    )


@pytest.mark.parametrize("objective", ["averaged", "each"])
def test_gradients_of_heads_agree_with_finite_differences(objective, monkeypatch):
    heads, queries, labels = drawn(1)
    seen = {}
    monkeypatch.setattr(network, "minimize", lambda fun, start, **_: seen.update(fun=fun, start=start))
    fit_heads(
        heads,
        queries,
        labels,
        ridge=0.3,
        steps=1,
        weights=np.array([0.7, 0.3]),
        objective=objective,
        sample_weights=np.linspace(0.5, 2, TEXTS),
    )
    start = seen["start"] + 0.1
    assert check_grad(lambda x: seen["fun"](x)[0], lambda x: seen["fun"](x)[1], start) < 1e-4


def test_gradients_of_random_projections_agree_with_finite_differences(monkeypatch):
    rng = np.random.default_rng(0)
    seen = {}
    monkeypatch.setattr(network, "minimize", lambda fun, start, **_: seen.update(fun=fun, start=start))
    labels = np.array([0, 1, 2, 1, 0, 2])
    asked, named = rng.normal(size=(TEXTS, WIDTH)), rng.normal(size=(CLASSES, WIDTH))
    fit_projections(asked, named, labels, heads=2, width=3, ridge=0.1, steps=1, seed=0)
    assert check_grad(lambda x: seen["fun"](x)[0], lambda x: seen["fun"](x)[1], seen["start"]) < 1e-4


def test_a_trained_shift_is_a_trained_w_k_of_the_labels():
    """W_k = I + (shift less a common vector) A+ gives the same distribution, for centred labels A."""
    rng = np.random.default_rng(3)
    labels = rng.normal(size=(CLASSES, 8))
    labels -= labels.mean(axis=0)
    shift, asked = rng.normal(size=(CLASSES, 8)), rng.normal(size=(TEXTS, 8))
    w_k = np.eye(8) + (shift - shift.mean(axis=0)).T @ np.linalg.pinv(labels.T)
    by_matrix = head_probabilities(Head(labels @ w_k.T, np.zeros_like(labels), 1.0), asked)
    assert by_matrix == pytest.approx(head_probabilities(Head(labels, shift, 1.0), asked))


def test_training_lowers_the_loss_and_a_ridge_beyond_measure_keeps_the_start():
    heads, queries, labels = drawn(2)
    path = fit_heads(heads, queries, labels, ridge=0.01, steps=20)
    means = [
        mean_of_heads(
            [head_probabilities(h, q) for h, q in zip(heads, queries, strict=True)], np.full(2, 0.5)
        )
        for heads in (path[0], path[-1])
    ]
    assert averaged_nll(means[1], labels) < 0.5 * averaged_nll(means[0], labels)
    start = [Head(head.start, np.zeros_like(head.start), head.sharpness) for head in heads]
    held = fit_heads(start, queries, labels, ridge=1e9, steps=20)[-1]
    assert max(abs(head.shift).max() for head in held) < 1e-6


def test_a_head_that_is_right_outweighs_one_that_guesses_and_none_is_shut_out():
    right = np.stack([np.full(40, 0.9), np.full(40, 0.5)])
    weights = stacked_weights(right)
    assert weights[0] > 0.9
    assert weights[1] > 0
    assert weights.sum() == pytest.approx(1)


def test_without_held_out_examples_heads_weigh_the_same():
    assert stacked_weights(np.empty((4, 0))) == pytest.approx(np.full(4, 0.25))


@given(st.floats(0.2, 5.0))
def test_softening_keeps_the_order_and_sums_to_one(temperature):
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    soft = softened(probabilities, temperature)
    assert soft.sum(axis=1) == pytest.approx(1)
    assert (soft.argsort(axis=1) == probabilities.argsort(axis=1)).all()


def test_the_best_temperature_mends_what_is_too_sure():
    labels = np.array([0] * 7 + [1] * 3)
    sure = np.tile([0.9, 0.1], (10, 1))
    temperature = best_temperature(sure, labels)
    assert softened(sure, temperature)[0, 0] == pytest.approx((7 + DOUBT / 2) / (10 + DOUBT), abs=1e-3)
    assert best_temperature(sure[:0], labels[:0]) == 1.0


@pytest.mark.parametrize("count", [2, 10, 50])
def test_a_few_held_out_examples_that_are_all_right_do_not_end_all_doubt(count):
    labels = np.zeros(count, dtype=int)
    temperature = best_temperature(np.tile([0.8, 0.2], (count, 1)), labels)
    said = softened(np.array([[0.8, 0.2]]), temperature)[0, 0]
    assert said == pytest.approx((count + DOUBT / 2) / (count + DOUBT), abs=1e-3)


def test_a_prior_moves_probabilities_by_bayes():
    found = with_prior(np.array([[0.5, 0.5]]), np.array([0.5, 0.5]), np.array([0.9, 0.1]))
    assert found == pytest.approx(np.array([[0.9, 0.1]]))


@given(st.lists(st.integers(0, 4), min_size=2, max_size=40), st.integers(2, 6))
def test_folds_hold_out_every_example_once_but_one_that_is_alone_in_its_class(labels, folds):
    codes = np.array(labels)
    fold = stratified_folds(codes, folds, seed=0)
    for label in set(labels):
        own = fold[codes == label]
        assert (own == -1).all() if len(own) == 1 else (own >= 0).all()
        if len(own) > 1:  # the class is never held out whole
            assert len(set(own)) > 1
            counts = np.bincount(own, minlength=folds)
            assert counts.max() - counts.min() <= 1


def test_training_stops_early_only_where_held_out_examples_surely_ask_for_it():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.5, (3, 40))
    assert stopping_stage(1 + noise * [[1], [1], [0.01]] - [[0.02], [0.01], [0]]) == 2
    assert stopping_stage(np.array([[2.0], [0.1], [0.5]]) + 0.01 * noise) == 1
