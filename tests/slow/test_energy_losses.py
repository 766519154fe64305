"""Laws of the losses: the formula written the slow way, gradients, and what the optimum means."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.energy.nce import (
    LOSSES,
    bce,
    bradley_terry,
    pooled,
    prefix_value,
    ranking_nce,
    ranking_nce_batch,
)

pytestmark = pytest.mark.slow

finite = st.floats(-8, 8, allow_nan=False, width=32)
side = st.lists(finite, min_size=1, max_size=4)
groups = st.lists(st.tuples(side, side), min_size=1, max_size=4)
quick = settings(max_examples=40, deadline=None)


def tensor(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def slow_ranking(positive: list[float], negative: list[float], alpha: float) -> float:
    def surprise(g: float) -> float:
        return -(g - math.log(sum(math.exp(x) for x in [g, *negative])))

    penalty = mean(g**2 for g in positive) + mean(g**2 for g in negative)
    return mean(surprise(g) for g in positive) + alpha * penalty


def slow_pooled(positive: list[float], negative: list[float]) -> float:
    return -mean(positive) / 5 + mean(negative) / 5 + mean(g**2 for g in [*positive, *negative])


def slow_bce(positive: list[float], negative: list[float]) -> float:
    right = [math.log(1 / (1 + math.exp(-g))) for g in positive]
    wrong = [math.log(1 - 1 / (1 + math.exp(-g))) for g in negative]
    return -mean([*right, *wrong])


def slow_bradley_terry(positive: list[float], negative: list[float]) -> float:
    return mean(-math.log(1 / (1 + math.exp(-(p - n)))) for p in positive for n in negative)


def padded(rows, filler: float = 123.0):
    width = max(len(p) + len(n) for p, n in rows) + 1
    scores = torch.full((len(rows), width), filler, dtype=torch.float64)
    is_positive = torch.zeros((len(rows), width), dtype=torch.bool)
    is_negative = is_positive.clone()
    for i, (p, n) in enumerate(rows):
        scores[i, : len(p) + len(n)] = tensor([*p, *n])
        is_positive[i, : len(p)] = True
        is_negative[i, len(p) : len(p) + len(n)] = True
    return scores, is_positive, is_negative


@quick
@given(side, side, st.floats(0, 1))
def test_ranking_nce_is_the_formula_written_out(positive, negative, alpha):
    found = ranking_nce(tensor(positive), tensor(negative), alpha).item()
    assert found == pytest.approx(slow_ranking(positive, negative, alpha))


@quick
@given(side, side)
def test_the_other_losses_are_their_formulas_written_out(positive, negative):
    for loss, slow in ((pooled, slow_pooled), (bce, slow_bce), (bradley_terry, slow_bradley_terry)):
        assert loss(tensor(positive), tensor(negative)).item() == pytest.approx(slow(positive, negative))


@quick
@given(groups, st.floats(0, 1))
def test_a_padded_batch_is_the_mean_over_its_questions(rows, alpha):
    slow = {
        "ranking_nce": mean(slow_ranking(p, n, alpha) for p, n in rows),
        "bce": mean(slow_bce(p, n) for p, n in rows),
        "bradley_terry": mean(slow_bradley_terry(p, n) for p, n in rows),
        "pooled": slow_pooled([g for p, _ in rows for g in p], [g for _, n in rows for g in n]),
    }
    assert slow.keys() == LOSSES.keys()
    for name, loss in LOSSES.items():
        assert loss(*padded(rows), alpha).item() == pytest.approx(slow[name])


@quick
@given(groups)
def test_padding_gets_no_gradient_and_no_say(rows):
    for loss in LOSSES.values():
        scores, is_positive, is_negative = padded(rows)
        scores.requires_grad_(True)
        value = loss(scores, is_positive, is_negative, 0.1)
        value.backward()
        assert (scores.grad[~(is_positive | is_negative)] == 0).all()
        assert torch.isfinite(scores.grad).all()
        assert value.item() == loss(*padded(rows, filler=-50.0), 0.1).item()


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_agree_with_finite_differences(name):
    scores, is_positive, is_negative = padded([([0.3, -1.2], [0.5, 2.0, -0.1]), ([1.0], [0.9])], filler=0.0)
    scores.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda s: LOSSES[name](s, is_positive, is_negative, 0.05), scores)


def test_the_gradient_of_prefix_value_agrees_with_finite_differences():
    scores = tensor([0.3, -2.0, 1.0]).requires_grad_(True)
    values, weights = tensor([0.0, 0.4, 1.0]), tensor([1.0, 5.0, 2.0])
    assert torch.autograd.gradcheck(lambda s: prefix_value(s, values, weights), scores)


@quick
@given(groups, st.lists(finite, min_size=4, max_size=4))
def test_ranking_nce_without_penalty_ignores_a_shift_of_each_question(rows, shifts):
    scores, is_positive, is_negative = padded(rows)
    moved = scores + tensor(shifts)[: len(rows), None]
    found = ranking_nce_batch(moved, is_positive, is_negative).item()
    assert found == pytest.approx(ranking_nce_batch(scores, is_positive, is_negative).item())


@quick
@given(groups, st.randoms())
def test_the_order_of_answers_does_not_matter(rows, rng):
    shuffled = [(rng.sample(p, len(p)), rng.sample(n, len(n))) for p, n in rows]
    for loss in LOSSES.values():
        assert loss(*padded(rows), 0.1).item() == pytest.approx(loss(*padded(shuffled), 0.1).item())


def test_a_positive_does_not_compete_with_another_positive():
    alone = ranking_nce(tensor([2.0]), tensor([0.0, 1.0]))
    twice = ranking_nce(tensor([2.0, 2.0]), tensor([0.0, 1.0]))
    assert twice.item() == pytest.approx(alone.item())


def test_far_apart_scores_stay_finite():
    for loss in (ranking_nce, pooled, bce, bradley_terry):
        assert torch.isfinite(loss(tensor([-1e4, 1e4]), tensor([1e4, -1e4])))


@pytest.mark.parametrize("loss", [ranking_nce, pooled, bce, bradley_terry])
def test_an_empty_side_is_refused(loss):
    for positive, negative in (([], [1.0]), ([1.0], []), ([], [])):
        with pytest.raises(ValueError, match="at least one positive and one negative"):
            loss(tensor(positive), tensor(negative))


def test_a_batch_with_one_empty_side_is_refused():
    scores, is_positive, is_negative = padded([([1.0], [2.0]), ([1.0], [2.0])])
    is_negative[1] = False
    for loss in LOSSES.values():
        with pytest.raises(ValueError, match="at least one positive and one negative"):
            loss(scores, is_positive, is_negative, 0.0)


def test_prefixes_without_weight_are_refused():
    for values in ([], [0.5]):
        with pytest.raises(ValueError, match="prefix_value"):
            prefix_value(tensor(values), tensor(values), tensor([0.0] * len(values)))


@quick
@given(st.lists(st.tuples(finite, st.integers(0, 5), st.integers(1, 5)), min_size=1, max_size=5))
def test_prefix_value_counts_every_completion_as_one_outcome(rows):
    # a mean of right/(all) with weight all is the same as that many outcomes of 0 or 1
    rows = [(g, min(right, total), total) for g, right, total in rows]
    outcomes = [(g, i < right) for g, right, total in rows for i in range(total)]
    slow = mean(-math.log(1 / (1 + math.exp(-g if is_right else g))) for g, is_right in outcomes)
    found = prefix_value(
        tensor([g for g, _, _ in rows]),
        tensor([right / total for _, right, total in rows]),
        tensor([float(total) for _, _, total in rows]),
    )
    assert found.item() == pytest.approx(slow)


def test_at_the_optimum_of_eq_2_the_black_box_times_exp_g_is_the_target():
    black_box = tensor([0.4, 0.3, 0.15, 0.1, 0.05])
    target = tensor([0.05, 0.1, 0.5, 0.05, 0.3])
    draws = [
        (plus, minus)
        for plus in range(5)
        for minus in itertools.product(range(5), repeat=2)  # K = 3: one positive, two draws of the black box
    ]
    weights = tensor([(target[p] * black_box[list(m)].prod()).item() for p, m in draws])
    index = torch.tensor([[p, *m] for p, m in draws])
    is_positive = torch.tensor([[True, False, False]])
    g = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([g], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def expected_loss() -> torch.Tensor:
        optimizer.zero_grad()
        rows = [ranking_nce_batch(g[i][None], is_positive, ~is_positive) for i in index]
        loss = (torch.stack(rows) * weights).sum()
        loss.backward()
        return loss

    optimizer.step(expected_loss)
    adapted = black_box * g.detach().exp()
    assert torch.allclose(adapted / adapted.sum(), target, atol=1e-4)
