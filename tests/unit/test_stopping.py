"""Laws of the decision rules, against the slow way, in their limits and under permutation."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trimtab.stopping import (
    POWERS,
    TEMPERATURES,
    DecisionCalibration,
    DecisionRule,
    Evidence,
    choose_temperature,
    decide,
    default_rule,
    weights,
)
from trimtab.types import Candidate, Verdict

answers = st.sampled_from(["1", "2", "3", None])
confidences = st.floats(0.01, 1.0)
scores = st.floats(-20, 20)
verdicts = st.sampled_from([Verdict.RIGHT, Verdict.WRONG])
candidate = st.builds(Candidate, st.sampled_from(["a", "b", "c"]), answers, scores, confidences, verdicts)
pools = st.lists(candidate, min_size=1, max_size=9)
rules = st.sampled_from(["argmax", "majority", "weighted_vote", "importance_vote"])


def readable(pool: list[Candidate]) -> list[Candidate]:
    return [each for each in pool if each.answer is not None]


def test_a_majority_by_hand():
    pool = [
        Candidate("a", "1", 0.0),
        Candidate("b", "2", 1.0),
        Candidate("c", "2", 3.0),
        Candidate("d", None, 9.0),
    ]
    decision = decide(pool, DecisionRule("majority"))
    assert (decision.answer, decision.index, decision.candidate) == ("2", 2, pool[2])
    assert decision.share == decision.confidence == pytest.approx(2 / 3)


def test_a_weighted_vote_by_hand():
    pool = [
        Candidate("a", "1", confidence=0.9),
        Candidate("b", "2", confidence=0.4),
        Candidate("c", "2", confidence=0.3),
    ]
    at_one = decide(pool, DecisionRule("weighted_vote"))
    assert (at_one.answer, at_one.index) == ("1", 0)
    assert at_one.share == pytest.approx(0.9 / 1.6)
    assert at_one.confidence == pytest.approx(0.9 / 1.6 * 0.9)
    flatter = decide(pool, DecisionRule("weighted_vote", 2.0))
    assert flatter.answer == "2"
    assert flatter.share == pytest.approx((0.4**0.5 + 0.3**0.5) / (0.9**0.5 + 0.4**0.5 + 0.3**0.5))


def slow_weight(each: Candidate, rule: DecisionRule) -> float:
    if rule.name == "importance_vote":
        return math.exp(each.score / rule.temperature)
    return 1.0 if rule.name == "majority" else each.confidence ** (1 / rule.temperature)


@given(pools, st.sampled_from(["majority", "weighted_vote", "importance_vote"]), st.floats(0.3, 10))
def test_a_vote_is_the_slow_vote(pool, name, temperature):
    rule = DecisionRule(name, temperature)
    assume(readable(pool))
    totals: dict[str, float] = {}
    for each in readable(pool):
        totals[each.answer] = totals.get(each.answer, 0.0) + slow_weight(each, rule)
    decision = decide(pool, rule)
    assert totals[decision.answer] == pytest.approx(max(totals.values()), rel=1e-9)
    assert decision.share == pytest.approx(totals[decision.answer] / sum(totals.values()), rel=1e-9)


@given(pools, rules)
def test_the_representative_gives_the_decided_answer_and_none_giving_it_scores_higher(pool, name):
    decision = decide(pool, DecisionRule(name))
    assert decision.candidate == pool[decision.index]
    assert decision.candidate.answer == decision.answer
    rivals = [(each.score, -at) for at, each in enumerate(pool) if each.answer == decision.answer]
    assert (decision.candidate.score, -decision.index) == max(rivals)


@given(pools, rules)
def test_only_a_pool_without_a_readable_candidate_is_decided_unreadable(pool, name):
    decision = decide(pool, DecisionRule(name))
    assert (decision.answer is None) == (not readable(pool))
    assert 0.0 <= decision.share <= 1.0
    if decision.answer is None:
        assert (decision.share, decision.confidence) == (0.0, None)


@given(pools, rules)
def test_unreadable_candidates_have_no_say(pool, name):
    assume(readable(pool))
    whole, without = (decide(each, DecisionRule(name)) for each in (pool, readable(pool)))
    assert (whole.answer, whole.share, whole.candidate) == (without.answer, without.share, without.candidate)


@given(pools)
def test_at_infinite_temperature_a_weighted_vote_is_the_majority_ties_and_all(pool):
    assert decide(pool, DecisionRule("weighted_vote", math.inf)) == decide(pool, DecisionRule("majority"))
    assert decide(pool, DecisionRule("importance_vote", math.inf)) == decide(pool, DecisionRule("majority"))


@given(
    st.lists(st.tuples(answers, st.integers(1, 99)), min_size=1, max_size=9, unique_by=lambda pair: pair[1])
)
def test_towards_temperature_zero_the_votes_are_argmax(rows):
    pool = [Candidate("t", answer, level / 10, level / 100) for answer, level in rows]
    expected = decide(pool, DecisionRule("argmax"))
    for name in ("weighted_vote", "importance_vote"):
        cold = decide(pool, DecisionRule(name, 1e-4))
        assert (cold.answer, cold.index) == (expected.answer, expected.index)
        assert cold.share == pytest.approx(expected.share)


@given(pools)
def test_argmax_answers_with_the_highest_scored_readable_candidate(pool):
    assume(readable(pool))
    decision = decide(pool, DecisionRule("argmax"))
    assert decision.candidate.score == max(each.score for each in readable(pool))
    assert decision.confidence == decision.candidate.confidence


@given(pools, st.floats(0.1, 1.0), st.floats(0.1, 10))
def test_the_weights_do_not_change_when_all_confidences_shrink_by_one_factor(pool, factor, temperature):
    rule = DecisionRule("weighted_vote", temperature)
    shrunk = [replace(each, confidence=each.confidence * factor) for each in pool]
    assert weights(shrunk, rule) == pytest.approx(weights(pool, rule), rel=1e-6)


@given(pools, st.floats(-100, 100), st.floats(0.1, 10))
def test_the_weights_do_not_change_when_all_scores_move_by_one_amount(pool, shift, temperature):
    rule = DecisionRule("importance_vote", temperature)
    moved = [replace(each, score=each.score + shift) for each in pool]
    assert weights(moved, rule) == pytest.approx(weights(pool, rule), rel=1e-6, abs=1e-12)


@given(pools, rules, st.data())
def test_the_order_drawn_decides_nothing_but_ties(pool, name, data):
    mixed = data.draw(st.permutations(pool))
    ours, theirs = decide(pool, DecisionRule(name)), decide(mixed, DecisionRule(name))
    assert ours.share == theirs.share
    if ours.answer != theirs.answer:  # a tie: each side took the answer drawn first
        first = [
            next(e.answer for e in order if e.answer in {ours.answer, theirs.answer})
            for order in (pool, mixed)
        ]
        scores_tie = name == "argmax" and ours.candidate.score == theirs.candidate.score
        assert scores_tie or first == [ours.answer, theirs.answer]


@given(st.permutations(["1", "1", "2", "2", "3"]))
def test_a_tied_majority_goes_to_the_answer_drawn_first(order):
    pool = [Candidate("t", answer) for answer in order]
    assert decide(pool, DecisionRule("majority")).answer == next(a for a in order if a != "3")


@given(pools)
def test_a_duplicate_votes_as_often_as_it_was_drawn(pool):
    assume(readable(pool))
    decision = decide(pool + pool, DecisionRule("weighted_vote"))
    once = decide(pool, DecisionRule("weighted_vote"))
    assert decision.answer == once.answer
    assert decision.share == pytest.approx(once.share)


def test_an_uncalibrated_score_is_weighed_by_its_logistic():
    voters = [Candidate("a", "1", 2.0), Candidate("b", "2", -800.0)]
    logistic = 1 / (1 + math.exp(-2.0))
    assert weights(voters, DecisionRule("weighted_vote")) == [1.0, 0.0]
    assert weights(
        [voters[0], Candidate("c", "1", confidence=1.0)], DecisionRule("weighted_vote")
    ) == pytest.approx([logistic, 1.0])


def test_confidences_of_zero_still_decide():
    pool = [
        Candidate("a", "1", confidence=0.0),
        Candidate("b", "2", confidence=0.0),
        Candidate("c", "2", confidence=0.0),
    ]
    assert decide(pool, DecisionRule("weighted_vote")).answer == "2"


@pytest.mark.parametrize("name", ["argmax", "weighted_vote", "importance_vote"])
def test_a_rule_that_needs_scores_says_so(name):
    with pytest.raises(ValueError, match="needs scored candidates"):
        decide([Candidate("a", "1")], DecisionRule(name))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_not_above_zero_is_refused(temperature):
    with pytest.raises(ValueError, match="above 0"):
        DecisionRule("weighted_vote", temperature)


def test_an_unknown_rule_and_an_empty_pool_are_refused():
    with pytest.raises(ValueError, match="one of argmax, majority"):
        DecisionRule("plurality")
    with pytest.raises(ValueError, match="at least one candidate"):
        decide([], DecisionRule("majority"))


def test_the_default_is_a_weighted_vote_where_answers_compare_and_argmax_elsewhere():
    assert default_rule(True, 0.5) == DecisionRule("weighted_vote", 0.5)
    assert default_rule(False).name == "argmax"


# --------------------------------------------------------------------------- the confidence

CALIBRATED = DecisionCalibration(intercept=-0.4, share=0.7, confidence=1.3)
calibrations = st.builds(DecisionCalibration, st.floats(-4, 4), st.floats(0, 4), st.floats(0, 4))


def drawn(answer: str, confidence: float | None, score: float = 0.0) -> Candidate:
    return Candidate("t", answer, score, confidence)


@pytest.mark.parametrize("name", ["argmax", "majority", "weighted_vote", "importance_vote"])
def test_one_draw_of_little_confidence_is_decided_with_little_confidence(name):
    assert decide([drawn("1", 0.05)], DecisionRule(name)).confidence == pytest.approx(0.05)


@pytest.mark.parametrize("name", ["argmax", "majority", "weighted_vote", "importance_vote"])
def test_agreement_of_unsure_candidates_is_not_certainty(name):
    assert decide([drawn("1", 0.1)] * 8, DecisionRule(name)).confidence == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["majority", "weighted_vote", "importance_vote"])
def test_of_uncalibrated_candidates_only_the_share_is_known(name):
    pool = [drawn("1", None, 1.0), drawn("1", None, 1.0), drawn("2", None, 1.0)]
    decision = decide(pool, DecisionRule(name, calibration=CALIBRATED))
    assert decision.confidence == decision.share == pytest.approx(2 / 3)
    assert decision.evidence is None
    assert decide(pool, DecisionRule("argmax")).confidence is None


@given(pools, rules, st.floats(0.3, 10))
def test_without_a_calibration_it_is_the_chance_that_a_draw_by_weight_gives_the_answer_and_is_right(
    pool, name, temperature
):
    assume(readable(pool))
    rule = DecisionRule(name, temperature)
    decision = decide(pool, rule)
    weighed = list(zip(readable(pool), weights(readable(pool), rule), strict=True))
    slow = sum(w * each.confidence for each, w in weighed if each.answer == decision.answer)
    assert decision.confidence == pytest.approx(slow / sum(w for _, w in weighed))


@given(pools, rules, st.floats(0.3, 10), calibrations)
def test_a_calibration_changes_the_confidence_and_nothing_else(pool, name, temperature, calibration):
    plain = decide(pool, DecisionRule(name, temperature))
    calibrated = decide(pool, DecisionRule(name, temperature, calibration))
    assert replace(calibrated, confidence=plain.confidence) == plain
    if calibrated.answer is not None:
        assert calibrated.confidence == calibration.apply(plain.evidence)
        assert 0.0 <= calibrated.confidence <= 1.0


def test_a_calibrated_confidence_by_hand():
    pool = [drawn("1", 0.9), drawn("1", 0.7), drawn("2", 0.8)]
    share, mean = (3 * (2 / 3) + 0.5) / 4, (0.9 + 0.7) / 2
    line = -0.4 + 0.7 * math.log(share / (1 - share)) + 1.3 * math.log(mean / (1 - mean))
    decision = decide(pool, DecisionRule("majority", calibration=CALIBRATED))
    assert decision.confidence == pytest.approx(1 / (1 + math.exp(-line)))


def test_for_argmax_the_share_is_of_the_readable_candidates_that_agree_and_the_confidence_its_own():
    pool = [drawn("1", 0.9, 3.0), drawn("1", 0.2, -3.0), drawn("2", 0.6, 1.0), Candidate("t", None, 9.0, 0.9)]
    evidence = decide(pool, DecisionRule("argmax")).evidence
    assert evidence.share == pytest.approx(math.log(2.5 / 1.5))
    assert evidence.confidence == pytest.approx(math.log(9))


@given(calibrations, st.tuples(*[st.floats(-6, 6)] * 4))
def test_more_agreement_or_more_confidence_never_lowers_the_chance_of_being_right(calibration, levels):
    low = Evidence(min(levels[:2]), min(levels[2:]))
    high = Evidence(max(levels[:2]), max(levels[2:]))
    assert calibration.apply(low) <= calibration.apply(high) + 1e-12


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_confidence_of_zero_or_one_is_finite_evidence(level):
    evidence = decide([drawn("1", level)], DecisionRule("majority")).evidence
    assert math.isfinite(evidence.confidence)
    assert 0.0 < DecisionCalibration(confidence=1.0).apply(evidence) < 1.0


def test_as_many_draws_again_that_agree_are_more_evidence():
    once, twice = (decide([drawn("1", 0.6)] * n, DecisionRule("majority")).evidence for n in (4, 8))
    assert twice.share > once.share
    assert twice.confidence == once.confidence


# --------------------------------------------------------------------------- the temperature


def slow_score(dev: list[list[Candidate]], temperature: float, power: float) -> float:
    logs = []
    for pool in dev:
        voters = readable(pool)
        if voters:
            votes: dict[str, Fraction] = dict.fromkeys((each.answer for each in voters), Fraction(0))
            for each in voters:
                votes[each.answer] += Fraction(each.confidence ** (1 / temperature))
            right = {each.answer for each in voters if each.verdict is Verdict.RIGHT}
            total = sum(votes.values())
            chances = {answer: float(votes[answer] / total) ** power for answer in votes}
            won = sum(chances[answer] for answer in right) / sum(chances.values())
            logs.append(math.log((len(voters) * won + 1) / (len(voters) + 2)))
    return sum(logs) / len(logs) if logs else 0.0


def slow_best(dev: list[list[Candidate]], temperature: float) -> float:
    return max(slow_score(dev, temperature, power) for power in POWERS)


@given(st.lists(pools, max_size=4))
def test_the_chosen_temperature_is_as_good_as_the_slow_way_s_best(dev):
    grid = [0.2, 0.5, 1.0, 3.0]
    chosen = choose_temperature(dev, "weighted_vote", grid)
    assert chosen in grid
    assert slow_best(dev, chosen) == pytest.approx(max(slow_best(dev, t) for t in grid), abs=1e-9)


def dev_question(right: float, wrong: float) -> list[Candidate]:
    return [
        Candidate("r", "1", 0.0, right, Verdict.RIGHT),
        Candidate("w", "2", 0.0, wrong, Verdict.WRONG),
        Candidate("w", "2", 0.0, wrong, Verdict.WRONG),
    ]


def test_confidences_that_tell_right_from_wrong_choose_a_temperature_at_which_the_fewer_win():
    chosen = choose_temperature([dev_question(0.8, 0.3)] * 3, "weighted_vote")
    assert decide(dev_question(0.8, 0.3), DecisionRule("weighted_vote", chosen)).answer == "1"
    assert decide(dev_question(0.8, 0.3), DecisionRule("majority")).answer == "2"


def test_to_be_surer_of_the_same_winners_is_no_reason_for_a_low_temperature():
    sure = [Candidate("r", "1", 0.0, 0.9, Verdict.RIGHT), Candidate("w", "2", 0.0, 0.1, Verdict.WRONG)]
    misled = [Candidate("r", "1", 0.0, 0.45, Verdict.RIGHT)] * 2 + [
        Candidate("w", "2", 0.0, 0.8, Verdict.WRONG)
    ]
    rule = DecisionRule("weighted_vote", choose_temperature([sure] * 9 + [misled], "weighted_vote"))
    assert [decide(pool, rule).answer for pool in (sure, misled)] == ["1", "1"]


def test_confidences_that_mislead_choose_the_highest_temperature():
    assert choose_temperature([dev_question(0.3, 0.8)] * 3, "weighted_vote") == max(TEMPERATURES)


@pytest.mark.parametrize("name", ["majority", "argmax"])
def test_where_the_temperature_plays_no_part_the_largest_is_taken(name):
    assert choose_temperature([dev_question(0.8, 0.3)], name) == max(TEMPERATURES)


def test_questions_without_a_verdict_or_a_reading_say_nothing():
    silent = [[Candidate("a", "1", 0.0, 0.9)], [Candidate("b", None, 0.0, 0.1, Verdict.UNREADABLE)], []]
    assert choose_temperature(silent, "weighted_vote") == max(TEMPERATURES)
    assert choose_temperature([*silent, dev_question(0.8, 0.3)], "weighted_vote") == choose_temperature(
        [dev_question(0.8, 0.3)], "weighted_vote"
    )


def test_an_empty_grid_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        choose_temperature([], "majority", [])
