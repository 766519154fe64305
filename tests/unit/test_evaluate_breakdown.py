"""Laws of clusters, categories, seeds, power and cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist, fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.evaluate import Mark, Spent, cluster_of, compare, paired_difference, with_costs
from trimtab.evaluate.costs import spent_searching
from trimtab.evaluate.intervals import (
    cluster_sums,
    mean_estimates,
    questions_needed,
    resampled_means,
    standard_error,
)
from trimtab.evaluate.marks import clusters_of
from trimtab.evaluate.measures import risk_of
from trimtab.evaluate.report import rounds_of
from trimtab.evaluate.words import cost_rows, label, power_words, seed_rows, verdicts
from trimtab.stopping import DecisionRule
from trimtab.types import Candidate, Pool, Question, Usage, Verdict

MAJORITY = DecisionRule("majority")
VOTE = DecisionRule("weighted_vote")
few = settings(max_examples=20)


def drawn(right: bool, score: float | None = None, confidence: float | None = None) -> Candidate:
    answer, verdict = ("7", Verdict.RIGHT) if right else ("8", Verdict.WRONG)
    return Candidate(f"It is {answer}.", answer, score, confidence, verdict)


def pool(name: str, rights: Sequence[bool], usage: Usage | None = None) -> Pool:
    return Pool(Question(name, "How much?", "7"), tuple(map(drawn, rights)), usage or Usage())


# --------------------------------------------------------------------------- clusters


def test_ids_that_differ_after_the_last_mark_are_variants_and_a_row_may_say_otherwise() -> None:
    assert cluster_of("gsm8k-4#2") == cluster_of("gsm8k-4#1") == cluster_of("gsm8k-4") == "gsm8k-4"
    assert cluster_of("a#b#1") == "a#b"
    assert cluster_of("#1") == "#1"
    assert cluster_of("gsm8k-4#2", "other") == "other"


def test_questions_that_stand_alone_have_no_clusters() -> None:
    assert clusters_of([Mark("a"), Mark("b")]) is None
    numbers = clusters_of([Mark("b"), Mark("a"), Mark("b")])
    assert numbers is not None
    assert numbers[0] == numbers[2] != numbers[1]


@few
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-1, 1)), min_size=1, max_size=12))
def test_the_clustered_error_is_the_sandwich_written_out(rows: list[tuple[int, float]]) -> None:
    clusters, values = np.array([c for c, _ in rows]), np.array([v for _, v in rows])
    mean, slow = fmean(values), 0.0
    for name in set(clusters.tolist()):
        slow += sum(value - mean for cluster, value in rows if cluster == name) ** 2
    assert standard_error(values, clusters) == pytest.approx(math.sqrt(slow) / len(rows), abs=1e-9)


def test_without_clusters_it_is_the_plain_standard_error() -> None:
    values = np.array([0.0, 1.0, 1.0, 0.0, 1.0])
    assert standard_error(values) == pytest.approx(values.std() / math.sqrt(5))


def test_a_cluster_each_resamples_as_no_clusters_do() -> None:
    outcomes = np.random.default_rng(0).random((9, 2))
    alone = resampled_means(outcomes, resamples=50)
    each = resampled_means(outcomes, clusters=np.arange(9), resamples=50)
    assert np.allclose(alone, each)


def test_asking_everything_twice_makes_no_interval_narrower() -> None:
    outcomes = np.random.default_rng(1).integers(0, 2, size=(40, 1)).astype(np.float64)
    twice, clusters = np.repeat(outcomes, 2, axis=0), np.repeat(np.arange(40), 2)
    (once,) = mean_estimates(outcomes)
    (doubled,) = mean_estimates(twice, clusters=clusters)
    (fooled,) = mean_estimates(twice)
    assert (doubled.low, doubled.high) == pytest.approx((once.low, once.high), abs=1e-9)
    assert fooled.high - fooled.low < 0.8 * (once.high - once.low)


def test_the_test_of_clusters_counts_clusters_and_not_their_copies() -> None:
    ours, theirs = np.repeat([1.0, 1.0, 1.0, 0.0], 5), np.zeros(20)
    alone = paired_difference(ours, theirs)
    together = paired_difference(ours, theirs, clusters=np.repeat(np.arange(4), 5))
    assert alone.p < 0.001
    assert together.p == pytest.approx(0.25, abs=0.02)  # 3 of 3 coins: 2 / 2^3
    assert together.value == alone.value


def test_sums_of_clusters_keep_the_total() -> None:
    values = np.arange(12.0).reshape(6, 2)
    sums = cluster_sums(values, np.array([5, 1, 5, 1, 1, 9]))
    assert sums.shape == (3, 2)
    assert np.allclose(sums.sum(axis=0), values.sum(axis=0))


def test_variants_are_found_by_their_ids_and_said_in_the_comparison() -> None:
    pools = [pool(f"q{number}#{variant}", [True, False]) for number in range(3) for variant in range(2)]
    compared = compare(pools, MAJORITY)
    assert compared.clusters == 3
    assert compared.counts.asked == 6
    assert compared.to_json()["clusters"] == 3


# --------------------------------------------------------------------------- power


def test_as_many_questions_as_are_said_to_be_needed_do_tell_the_difference() -> None:
    rng = np.random.default_rng(3)
    seen = rng.choice([1.0, 0.0, -1.0], size=4000, p=[0.2, 0.7, 0.1])
    needed = questions_needed(seen)
    assert needed is not None
    clear = 0
    for _ in range(400):
        trial = rng.choice(seen, size=needed)
        clear += trial.mean() - NormalDist().inv_cdf(0.975) * standard_error(trial) > 0
    assert 0.74 <= clear / 400 <= 0.86


def test_no_difference_needs_no_number_of_questions() -> None:
    assert questions_needed(np.array([1.0, -1.0])) is None
    assert paired_difference([0.5], [0.5]).needed is None


def test_the_words_say_how_many_more_only_where_more_are_needed() -> None:
    unclear = compare([pool("a", [True, True, False]), pool("b", [False, False, True])], MAJORITY)
    difference = unclear.differences["majority_minus_single"]
    assert power_words(difference) == "" or " more" in power_words(difference)
    short = paired_difference([1, 0, 1, 0, 1], [0, 1, 0, 0, 0])
    assert "a difference of this size needs about" in power_words(short)
    assert power_words(paired_difference([1.0] * 40, [0.0] * 40)) == ""


# --------------------------------------------------------------------------- categories, seeds, risk, cost


def test_categories_part_the_questions_and_their_accuracies_add_up() -> None:
    pools = [pool(str(index), [index % 3 == 0]) for index in range(9)]
    marks = [Mark(str(index), ("odd" if index % 2 else "even")) for index in range(9)]
    compared = compare(pools, MAJORITY, marks=marks)
    assert list(compared.categories) == ["even", "odd"]  # the largest first
    total = sum(each.asked * each.accuracy["majority"].value for each in compared.categories.values())
    assert total / 9 == pytest.approx(compared.accuracy["majority"].value)


def test_rows_without_a_category_are_in_none() -> None:
    assert compare([pool("a", [True])], MAJORITY).categories == {}


def test_seeds_are_told_apart_and_their_questions_counted_once() -> None:
    pools = [pool("a", [True]), pool("b", [True]), pool("a", [False]), pool("b", [True])]
    marks = [Mark("a", seed=1), Mark("b", seed=1), Mark("a", seed=2), Mark("b", seed=2)]
    compared = compare(pools, MAJORITY, marks=marks)
    assert compared.seeds is not None
    assert compared.seeds.accuracy["majority"] == (1.0, 0.5)
    assert (compared.questions, compared.counts.asked, compared.clusters) == (2, 4, 2)
    assert seed_rows(compared)[0][1:3] == ("75.0 %", "± 35.4")


@few
@given(st.lists(st.tuples(st.sampled_from([0.1, 0.4, 0.8, 0.9]), st.booleans()), min_size=1, max_size=15))
def test_risk_is_the_share_right_above_each_confidence(decisions: list[tuple[float, bool]]) -> None:
    risk = risk_of(decisions, asked=20)
    assert risk is not None
    levels = sorted({confidence for confidence, _ in decisions}, reverse=True)
    for level, coverage, right in zip(levels, risk.coverage, risk.right, strict=True):
        above = [is_right for confidence, is_right in decisions if confidence >= level]
        assert coverage == pytest.approx(len(above) / 20)
        assert right == pytest.approx(fmean(above))


def test_a_perfect_order_risks_less_than_the_reverse() -> None:
    sure = [(index / 10, index > 5) for index in range(10)]
    turned = [(1 - confidence, right) for confidence, right in sure]
    good, bad = risk_of(sure, 10), risk_of(turned, 10)
    assert good is not None
    assert bad is not None
    assert good.area < bad.area


def test_a_single_draw_costs_its_share_of_all_and_a_judge_what_it_asks_on_top() -> None:
    pools = [pool(str(index), [True, False], Usage(10, 10, 1, 0.004)) for index in range(5)]
    compared = compare(pools, MAJORITY, further={"ai_judge@x": [1.0] * 5})
    spent = {"ai_judge@x": Spent(0, 0.005, with_draws=True)}
    costs = with_costs(compared, lambda usage: None, spent).costs
    assert costs["majority"].usd_per_thousand == pytest.approx(4.0)
    assert costs["single"].usd_per_thousand == pytest.approx(2.0)
    assert costs["ai_judge@x"].usd_per_thousand == pytest.approx(5.0)
    assert costs["ai_judge@x"].draws == 2
    assert "oracle" not in costs


def test_a_searchs_draws_are_the_complete_answers_that_its_tokens_would_make() -> None:
    pools = [pool(str(index), [True, False], Usage(10, 100, 1, 0.004)) for index in range(5)]
    beams = [pool(str(index), [True], Usage(60, 150, 4, 0.02)) for index in range(5)]
    compared = compare(pools, MAJORITY, further={"beam_search": [1.0] * 5})
    spent = {"beam_search": spent_searching(beams)}
    cost = with_costs(compared, lambda usage: None, spent).costs["beam_search"]
    assert (cost.draws, cost.usd_per_thousand) == (3.0, pytest.approx(20.0))
    unknown = [replace(each, usage=Usage()) for each in pools]
    compared = compare(unknown, MAJORITY, further={"beam_search": [1.0] * 5})
    assert with_costs(compared, lambda usage: None, spent).costs["beam_search"].draws == 0


def test_recorded_draws_are_priced_by_their_length_and_not_at_all_without_prices() -> None:
    pools = [Pool(Question("q", "x" * 400, "7"), (Candidate("y" * 800, "7", verdict=Verdict.RIGHT),))]
    compared = compare(pools, MAJORITY)
    priced = with_costs(compared, lambda used: used.input_tokens + 2.0 * used.output_tokens)
    assert priced.costs["majority"].usd_per_thousand == pytest.approx(1000 * (100 + 2 * 200))
    unpriced = with_costs(compared, lambda used: None)
    assert unpriced.costs["majority"].usd_per_thousand is None
    assert [row[3] for row in cost_rows(unpriced, 1.5)] == ["—", "—"]


def test_only_what_uses_the_adapter_bears_its_training() -> None:
    pools = [Pool(Question("q", "?", "7"), (drawn(True, 1.0), drawn(False, 0.0)))]
    compared = with_costs(compare(pools, VOTE, further={"majority@other": [1.0]}), lambda used: 1.0)
    training = {row[0]: row[2] for row in cost_rows(compared, 2.5)}
    assert training[label("single")] == training[label("majority")] == "0.00"
    assert training[label("weighted_vote")] == "2.50"
    assert training[label("majority@other")] == "—"


def test_what_others_reach_is_held_against_what_decided() -> None:
    pools = [pool(str(index), [True]) for index in range(4)]
    compared = compare(pools, MAJORITY, further={"majority@old": [0.0, 1.0, 1.0, 1.0]})
    assert compared.differences["majority_minus_majority@old"].value == 0.25
    assert compared.outcomes["majority@old"] == (0.0, 1.0, 1.0, 1.0)
    assert verdicts(compared)


def test_rounds_are_shown_where_there_are_several() -> None:
    one = {"round": 0, "majority": 0.5, "best_of_n": 0.6, "chosen": 0.7}
    assert rounds_of({"dev_questions": 10, "rounds": [one]}) == ()
    assert rounds_of({}) == ()
    points = rounds_of({"dev_questions": 10, "rounds": [one, {**one, "round": 1, "chosen": 0.8}]})
    assert [point.accuracy["weighted_vote"].value for point in points] == [0.7, 0.8]


def test_a_budget_says_how_many_draws_there_really_were() -> None:
    compared = compare(
        [pool("a", [True, False, True, False]), pool("b", [True])], MAJORITY, budgets=(1, 2, 4)
    )
    assert compared.budget.used == (1.0, 1.5, 2.5)


def test_methods_that_agree_everywhere_are_said_to_be_the_same() -> None:
    pools = [pool(str(index), [True]) for index in range(3)]
    assert verdicts(compare(pools, MAJORITY)) == ["Against a single draw: the same on every question."]
