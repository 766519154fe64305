"""Laws of the comparison: denominators, methods, curves, examples."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from weakref import WeakSet

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import InputError
from trimtab.evaluate import compare
from trimtab.evaluate.comparison import METHODS
from trimtab.evaluate.measures import calibration_of, scores_of
from trimtab.evaluate.seen import SHOWN
from trimtab.stopping import DecisionCalibration, DecisionRule
from trimtab.types import Candidate, Pool, Question, Usage, Verdict

few = settings(max_examples=15)  # each example draws 10,000 resamples several times
VOTE = DecisionRule("weighted_vote")
RIGHT_ANSWER = "7"


def drawn(answer: str | None, score: float | None = None, confidence: float | None = None) -> Candidate:
    right = Verdict.RIGHT if answer == RIGHT_ANSWER else Verdict.WRONG
    verdict = Verdict.UNREADABLE if answer is None else right
    return Candidate(f"The answer is {answer}.", answer, score, confidence, verdict)


def pool(index: int, candidates: Sequence[Candidate], usage: Usage | None = None) -> Pool:
    question = Question(f"q{index}", f"How much is {index}?", RIGHT_ANSWER)
    return Pool(question, tuple(candidates), usage or Usage())


candidates = st.builds(drawn, st.sampled_from([RIGHT_ANSWER, "8", "9", None]), st.floats(-4, 4))
pools_of_any_length = st.lists(st.lists(candidates, max_size=6), min_size=1, max_size=6).map(
    lambda rows: [pool(index, row) for index, row in enumerate(rows)]
)


@few
@given(pools_of_any_length, st.floats(0, 1))
def test_the_four_ends_add_up_to_the_questions_asked(pools: list[Pool], abstain_below: float) -> None:
    counts = compare(pools, VOTE, budgets=(), abstain_below=abstain_below).counts
    assert counts.asked == len(pools)
    assert counts.asked == counts.answered + counts.unreadable + counts.failed + counts.abstained
    assert counts.failed == sum(not each.candidates for each in pools)


@few
@given(pools_of_any_length)
def test_no_method_passes_the_oracle(pools: list[Pool]) -> None:
    accuracy = compare(pools, VOTE, budgets=()).accuracy
    assert max(estimate.value for estimate in accuracy.values()) == accuracy["oracle"].value


@few
@given(pools_of_any_length)
def test_single_is_the_mean_over_questions_of_the_share_of_right_draws(pools: list[Pool]) -> None:
    slow = 0.0
    for each in pools:
        for candidate in each.candidates:
            slow += (candidate.answer == RIGHT_ANSWER) / len(each.candidates) / len(pools)
    assert compare(pools, VOTE, budgets=()).accuracy["single"].value == pytest.approx(slow)


@few
@given(pools_of_any_length)
def test_majority_is_the_most_frequent_readable_answer_and_the_earliest_of_equals(pools: list[Pool]) -> None:
    right = 0
    for each in pools:
        votes = Counter(c.answer for c in each.candidates if c.answer is not None)
        right += bool(votes) and votes.most_common(1)[0][0] == RIGHT_ANSWER
    assert compare(pools, VOTE, budgets=()).accuracy["majority"].value == pytest.approx(right / len(pools))


def test_best_of_n_takes_the_highest_score_where_the_vote_takes_the_crowd() -> None:
    row = [drawn("8", -1.0), drawn(RIGHT_ANSWER, 2.0), drawn("8", -1.5), drawn("8", -2.0)]
    accuracy = compare([pool(0, row)], VOTE).accuracy
    assert [accuracy[name].value for name in METHODS] == [0.25, 0, 1, 1, 1]


@few
@given(pools_of_any_length)
def test_a_failed_question_stays_in_every_denominator(pools: list[Pool]) -> None:
    before = compare(pools, VOTE, budgets=()).accuracy
    after = compare([*pools, pool(99, [])], VOTE, budgets=()).accuracy
    share = len(pools) / (len(pools) + 1)
    assert {name: each.value for name, each in after.items()} == pytest.approx(
        {name: each.value * share for name, each in before.items()}
    )


@few
@given(st.lists(st.lists(candidates, min_size=4, max_size=4), min_size=1, max_size=5))
def test_the_curves_start_at_a_single_draw_and_end_at_all_draws(rows: list[list[Candidate]]) -> None:
    compared = compare([pool(index, row) for index, row in enumerate(rows)], VOTE)
    assert compared.budget.draws == (1, 2, 4)
    for method, curve in compared.budget.accuracy.items():
        assert curve[0].value == pytest.approx(compared.accuracy["single"].value)
        assert curve[-1] == compared.accuracy[method]


def test_a_point_of_a_curve_is_the_mean_over_subsets() -> None:
    row = [drawn("8"), drawn(RIGHT_ANSWER), drawn("9"), drawn(RIGHT_ANSWER)]
    right = [
        Counter(c.answer for c in pair).most_common(1)[0][0] == RIGHT_ANSWER for pair in combinations(row, 2)
    ]
    compared = compare([pool(0, row)], DecisionRule("majority"), budgets=(2,))
    assert compared.budget.accuracy["majority"][0].value == pytest.approx(sum(right) / 6)


def test_many_subsets_are_drawn_by_the_seed_and_the_question() -> None:
    row = [drawn(RIGHT_ANSWER if index % 3 else "8") for index in range(12)]
    rule = DecisionRule("majority")
    seeds = (1, 1, 2, 3, 4)
    curves = [
        compare([pool(0, row)], rule, budgets=(5,), seed=seed).budget.accuracy["majority"] for seed in seeds
    ]
    assert curves[0] == curves[1]
    assert len({curve[0].value for curve in curves}) > 1


def test_unscored_candidates_leave_the_scored_methods_out() -> None:
    compared = compare([pool(0, [drawn("8"), drawn(RIGHT_ANSWER)])], DecisionRule("majority"))
    assert list(compared.accuracy) == ["single", "majority", "oracle"]
    assert compared.scores is None


def test_a_rule_by_scores_without_scores_is_refused_with_a_way_out() -> None:
    with pytest.raises(InputError, match="'weighted_vote' needs scored answers; name an adapter"):
        compare([pool(0, [drawn("8")])], VOTE)


def test_some_scored_and_some_not_is_refused() -> None:
    with pytest.raises(ValueError, match="every candidate is scored or none"):
        compare([pool(0, [drawn("8", 1.0), drawn("9")])], VOTE)


def test_an_importance_vote_stands_beside_the_weighted_vote_under_its_own_name() -> None:
    rows = [pool(0, [drawn("8", 0.0), drawn(RIGHT_ANSWER, 3.0)])]
    compared = compare(rows, DecisionRule("importance_vote", 0.5))
    assert compared.decided_by == "importance_vote"
    assert list(compared.accuracy) == [
        "single",
        "majority",
        "best_of_n",
        "weighted_vote",
        "importance_vote",
        "oracle",
    ]
    assert "importance_vote_minus_majority" in compared.differences


@pytest.mark.parametrize("rule", ["argmax", "majority", "weighted_vote", "importance_vote"])
def test_the_weighted_vote_is_weighed_at_its_own_temperature_whichever_rule_decides(rule: str) -> None:
    row = [drawn(RIGHT_ANSWER, 0.0, 0.9), drawn("8", 0.0, 0.5), drawn("8", 0.0, 0.5)]
    for temperature, right in ((0.2, 1.0), (100.0, 0.0)):
        own = DecisionRule("weighted_vote", temperature)
        chosen = own if rule == "weighted_vote" else DecisionRule(rule, 3.0)
        compared = compare([pool(0, row)], chosen, others=[own, DecisionRule("majority")])
        assert compared.accuracy["weighted_vote"].value == right


def test_the_temperature_of_the_chosen_rule_is_lent_to_no_other() -> None:
    row = [
        drawn(RIGHT_ANSWER, 0.0, 0.9),
        drawn("8", 0.0, 0.4),
        drawn("8", 0.0, 0.4),
    ]  # right at 1, not at 100
    assert compare([pool(0, row)], DecisionRule("argmax", 100.0)).accuracy["weighted_vote"].value == 1


def test_the_chosen_rule_is_itself_whatever_the_others_say() -> None:
    row = [drawn(RIGHT_ANSWER, 0.0, 0.9), drawn("8", 0.0, 0.5), drawn("8", 0.0, 0.5)]
    other = DecisionRule("weighted_vote", 100.0)
    compared = compare([pool(0, row)], DecisionRule("weighted_vote", 0.2), others=[other])
    assert compared.accuracy["weighted_vote"].value == 1
    assert compared.temperature == 0.2


def test_the_calibration_error_is_of_the_rules_calibrated_confidence() -> None:
    rows = [pool(index, [drawn(RIGHT_ANSWER if index else "8", 0.0, 0.9)]) for index in range(4)]
    honest = DecisionRule("weighted_vote", calibration=DecisionCalibration(intercept=math.log(3)))
    plain, calibrated = (compare(rows, rule, budgets=()).calibration for rule in (VOTE, honest))
    assert plain is not None
    assert calibrated is not None
    assert (plain.ece, calibrated.ece) == (pytest.approx(0.15), pytest.approx(0.0))


def test_questions_without_anything_to_judge_by_are_named() -> None:
    unjudged = Pool(Question("lost", "?"), (Candidate("x", "x", 0.0),))
    with pytest.raises(InputError, match=r"1 of 2 questions .* \(lost\)"):
        compare([pool(0, [drawn("8", 1.0)]), unjudged], VOTE)


def test_no_questions_at_all_are_refused() -> None:
    with pytest.raises(InputError, match="at least one question"):
        compare([], VOTE)


def test_all_failed_is_an_answer_too() -> None:
    compared = compare([pool(0, []), pool(1, [])], VOTE)
    assert compared.counts.failed == 2
    assert compared.accuracy["weighted_vote"].value == 0
    assert compared.answered_right is None
    assert json.dumps(compared.to_json(), allow_nan=False)


def test_a_further_method_is_paired_with_the_single_draw_and_the_vote() -> None:
    rows = [pool(index, [drawn("8", 0.0), drawn(RIGHT_ANSWER, 1.0)]) for index in range(4)]
    compared = compare(rows, VOTE, further={"beam_search": [1, 1, 1, 0]})
    assert compared.accuracy["beam_search"].value == 0.75
    assert compared.differences["beam_search_minus_single"].value == 0.25
    assert compared.differences["beam_search_minus_majority"].value == 0.75
    with pytest.raises(ValueError, match="beam_search: one outcome a question"):
        compare(rows, VOTE, further={"beam_search": [1]})


def test_the_unsure_are_counted_as_abstained_and_leave_the_accuracies_alone() -> None:
    sure = pool(0, [drawn(RIGHT_ANSWER, 3.0), drawn(RIGHT_ANSWER, 3.0)])
    unsure = pool(1, [drawn("8", 0.0), drawn("9", 0.0), drawn(RIGHT_ANSWER, 0.0)])
    bold, careful = (compare([sure, unsure], VOTE, abstain_below=below) for below in (0.0, 0.5))
    assert (bold.counts.abstained, careful.counts.abstained) == (0, 1)
    assert bold.accuracy == careful.accuracy
    assert bold.answered_right is not None
    assert careful.answered_right is not None
    assert (bold.answered_right.value, careful.answered_right.value) == (0.5, 1.0)


class Text(str):
    """A text whose end can be seen."""


@pytest.mark.parametrize("is_scored", [True, False])
def test_no_text_outlives_its_question_but_for_the_few_that_are_shown(is_scored: bool) -> None:
    alive: WeakSet[Text] = WeakSet()
    most = 0

    def read() -> Iterator[Pool]:
        nonlocal most
        for index in range(100):
            row = [_with_text(Text(f"{index}, {place}"), place, is_scored) for place in range(3)]
            alive.update(candidate.text for candidate in row if isinstance(candidate.text, Text))
            most = max(most, len(alive))
            yield pool(index, row)

    compare(read(), VOTE if is_scored else DecisionRule("majority"), budgets=())
    shown = 2 * 2 * SHOWN  # two texts an example, two kinds
    assert 3 < most <= shown + 2 * 3  # and those of this question and of the one before


def _with_text(text: Text, place: int, is_scored: bool) -> Candidate:
    """Two wrong answers, then a right one; the surer, the later the question."""
    answer = RIGHT_ANSWER if place == 2 else "8"
    return replace(drawn(answer, float(text.partition(",")[0]) if is_scored else None), text=text)


def test_mended_shows_the_votes_wrong_answer_and_worst_a_right_one_that_was_passed_over() -> None:
    mended = pool(0, [drawn("8", -2.0), drawn("8", -2.0), drawn(RIGHT_ANSWER, 4.0)])
    missed = pool(1, [drawn("9", 4.0), drawn("9", 4.0), drawn(RIGHT_ANSWER, -3.0)])
    hopeless = pool(2, [drawn("9", 4.0)])
    compared = compare([mended, missed, hopeless], VOTE)
    (good,), (bad,) = compared.mended, compared.worst
    assert (good.question_id, good.left.answer, good.right.answer) == ("q0", "8", RIGHT_ANSWER)
    assert (bad.question_id, bad.left.answer, bad.right.answer) == ("q1", "9", RIGHT_ANSWER)


def test_usage_and_draws_add_up_over_questions() -> None:
    rows = [
        pool(0, [drawn("8"), drawn(None)], Usage(10, 5, 1, 0.5)),
        pool(1, [drawn(RIGHT_ANSWER)], Usage(7, 3, 2, 0.25)),
    ]
    compared = compare(rows, DecisionRule("majority"))
    assert compared.usage == Usage(17, 8, 3, 0.75)
    assert compared.samples_per_question == 1.5
    assert compared.to_json()["candidates"] == {
        "drawn": 3,
        "right": 1,
        "unreadable": 1,
        "unjudged": 0,
        "unreadable_share": pytest.approx(1 / 3),
    }


@few
@given(pools_of_any_length)
def test_the_json_is_plain_stable_and_holds_what_is_promised(pools: list[Pool]) -> None:
    written = compare([pool(9, [drawn("8", 0.0)]), *pools], VOTE, seed=5).to_json()
    assert json.loads(json.dumps(written, allow_nan=False)) == written
    assert json.dumps(written) == json.dumps(
        compare([pool(9, [drawn("8", 0.0)]), *pools], VOTE, seed=5).to_json()
    )
    assert {
        "asked",
        "answered",
        "unreadable",
        "failed",
        "abstained",
        "samples_per_question",
    } <= written.keys()
    assert list(written["accuracy"]) == list(METHODS)
    assert all(estimate.keys() == {"value", "low", "high"} for estimate in written["accuracy"].values())
    for pair in ("weighted_vote_minus_majority", "best_of_n_minus_single"):
        assert written[pair].keys() == {"value", "low", "high", "p", "won", "lost", "questions", "needed"}
        assert written[pair]["won"] + written[pair]["lost"] <= written[pair]["questions"] == written["asked"]


# --------------------------------------------------------------------------- calibration and scores


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30))
def test_the_calibration_error_is_the_weighted_gap_of_the_bins(decisions: list[tuple[float, bool]]) -> None:
    calibration = calibration_of(decisions, bins=4)
    assert calibration is not None
    slow = 0.0
    for low, high in ((-1, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1)):
        inside = [(c, right) for c, right in decisions if low < c <= high]
        if inside:
            slow += abs(sum(c for c, _ in inside) - sum(right for _, right in inside)) / len(decisions)
    assert calibration.ece == pytest.approx(slow)
    assert sum(each.count for each in calibration.bins) == calibration.decisions == len(decisions)


def test_no_confidence_is_no_calibration() -> None:
    assert calibration_of([]) is None
    assert compare([pool(0, [drawn("8", 1.0)])], DecisionRule("argmax")).calibration is None


@few
@given(pools_of_any_length)
def test_every_judged_score_stands_in_one_histogram_bin(pools: list[Pool]) -> None:
    flat = [c for each in pools for c in each.candidates]
    scores = scores_of([each.candidates for each in pools])
    if scores is None:
        assert not flat
    else:
        assert sum(scores.right) == sum(c.answer == RIGHT_ANSWER for c in flat)
        assert sum(scores.wrong) == sum(c.answer != RIGHT_ANSWER for c in flat)


@pytest.mark.parametrize("scores", [(0.0, 5e-324), (1e9, 1e9), (2.0, 2.0)])
def test_scores_that_are_all_but_equal_still_have_a_histogram(scores: tuple[float, float]) -> None:
    found = scores_of([[drawn(RIGHT_ANSWER, scores[0]), drawn("8", scores[1])]])
    assert found is not None
    assert (sum(found.right), sum(found.wrong)) == (1, 1)


def test_pairwise_accuracy_compares_within_questions_only_and_halves_ties() -> None:
    first = [drawn(RIGHT_ANSWER, 1.0), drawn("8", 0.0), drawn("9", 1.0), drawn(None, 2.0)]
    second = [drawn(RIGHT_ANSWER, -5.0)]
    scores = scores_of([first, second])
    assert scores is not None
    assert scores.pairwise_accuracy == pytest.approx((1 + 0.5 + 0) / 3)
