"""Laws of held-out questions: judged pools, early-stopping contrasts, calibration, rule, merit."""

from __future__ import annotations

import json
import math
import random
from dataclasses import asdict
from functools import cache
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.adapt.held_out import HeldOut, evaluate_held_out, held_out_contrasts, judged
from trimtab.energy import Manifest, expected_calibration_error, fit_calibration
from trimtab.energy.calibrate import calibrate_decisions
from trimtab.pools import recalibrated
from trimtab.stopping import TEMPERATURES, DecisionRule, choose_temperature, decide
from trimtab.types import Candidate, Judgement, Pool, Question, Verdict

RIGHT, WRONG, UNREADABLE, UNJUDGED = Verdict.RIGHT, Verdict.WRONG, Verdict.UNREADABLE, Verdict.UNJUDGED
JUDGED = st.sampled_from([RIGHT, WRONG, UNREADABLE])
ROWS = st.lists(
    st.lists(st.tuples(st.sampled_from("1234"), st.floats(-3, 3), JUDGED), max_size=5), min_size=1, max_size=6
)


def pool(*rows: tuple[str, float | None, Verdict], name: str = "q") -> Pool:
    candidates = [
        Candidate(f"#### {answer}", None if verdict is UNREADABLE else answer, score, verdict=verdict)
        for answer, score, verdict in rows
    ]
    return Pool(Question(name, "How many?", choices=("x", "y")), tuple(candidates))


def verdicts(given_pool: Pool) -> list[Verdict]:
    return [each.verdict for each in given_pool.candidates]


def measured(questions: int = 40, seed: int = 0) -> list[Pool]:
    """Known data: right answers score 1 on average, wrong ones -1; half of eight draws are right."""
    rng = random.Random(seed)
    found = []
    for number in range(questions):
        rows = []
        for at in range(8):
            is_right = at % 2 == 0
            score = rng.gauss(1.0 if is_right else -1.0, 1.0)
            rows.append(("1" if is_right else "2", score, RIGHT if is_right else WRONG))
        found.append(pool(*rows, name=f"q{number}"))
    return found


def simulated(questions: int, seed: int) -> list[Pool]:
    """Questions of every difficulty, on which wrong answers agree too; scores are noisy."""
    rng = random.Random(seed)
    return [_asked(rng, f"q{seed}.{number}") for number in range(questions)]


def _asked(rng: random.Random, name: str) -> Pool:
    skill, rows = rng.betavariate(0.8, 0.8), []
    for _ in range(8):
        is_right = rng.random() < skill
        score = rng.gauss(0.8 if is_right else -0.8, 1.0)
        rows.append(("1" if is_right else rng.choice("222223"), score, RIGHT if is_right else WRONG))
    return pool(*rows, name=name)


def test_a_judgement_becomes_the_verdicts_and_what_it_left_out_is_unjudged():
    before = pool(("1", None, WRONG), ("2", None, RIGHT), ("3", None, RIGHT))
    after = judged(before, Judgement("q", (0,), (1,), "human"))
    assert verdicts(after) == [RIGHT, WRONG, UNJUDGED]
    assert [each.text for each in after.candidates] == [each.text for each in before.candidates]


def test_an_unreadable_candidate_held_against_the_others_stays_unreadable():
    before = pool(("1", None, UNREADABLE), ("2", None, UNREADABLE), ("3", None, UNREADABLE))
    assert verdicts(judged(before, Judgement("q", (1,), (0,), "ai"))) == [UNREADABLE, RIGHT, UNJUDGED]


def test_early_stopping_watches_the_questions_that_have_both_sides():
    both = pool(("1", None, RIGHT), ("2", None, WRONG), ("3", None, UNREADABLE), ("4", None, UNJUDGED))
    only_right, only_wrong = pool(("1", None, RIGHT)), pool(("2", None, WRONG))
    (found,) = held_out_contrasts([only_right, both, only_wrong, pool()])
    assert found.question == "How many?\n(A) x\n(B) y"
    assert found.positives == ("#### 1",)
    assert found.negatives == ("#### 2", "#### 3")


def test_a_text_on_both_sides_is_a_positive():
    twice = pool(("1", None, RIGHT), ("1", None, WRONG), ("2", None, WRONG))
    (found,) = held_out_contrasts([twice])
    assert found.positives == ("#### 1",)
    assert found.negatives == ("#### 2",)


def test_the_calibration_is_platts_over_every_judged_candidate():
    pools = [*measured(), pool(("9", 50.0, UNJUDGED), name="unjudged")]
    found = evaluate_held_out(pools, "auto", True).calibration
    points = [(c.score, c.verdict is RIGHT) for p in pools[:-1] for c in p.candidates]
    assert found == fit_calibration([score for score, _ in points], [right for _, right in points], "platt")


def test_the_calibration_finds_what_the_data_was_made_by():
    # Gaussians at +1 and -1 of unit variance, equally frequent: log odds of right are 2 * score.
    calibration = evaluate_held_out(measured(400), "auto", True).calibration
    for score in (-1.0, 0.0, 0.5, 1.0):
        truth = 1 / (1 + math.exp(-2 * score))
        assert calibration.apply([score])[0] == pytest.approx(truth, abs=0.03)


def test_auto_is_the_weighted_vote_where_answers_compare_with_the_temperature_chosen_there():
    pools = measured()
    found = evaluate_held_out(pools, "auto", True)
    assert found.rule.name == "weighted_vote"
    assert found.rule.temperature in TEMPERATURES
    assert found.rule == evaluate_held_out(pools, "weighted_vote", True).rule


def test_auto_is_argmax_where_answers_do_not_compare():
    assert evaluate_held_out(measured(), "auto", False).rule.name == "argmax"


def test_auto_is_an_uncalibrated_importance_vote_where_nothing_is_held_out():
    found = evaluate_held_out([], "auto", True)
    assert (found.rule, found.calibration, dict(found.accuracy)) == (
        DecisionRule("importance_vote"),
        None,
        {},
    )
    assert evaluate_held_out([], "auto", False).rule == DecisionRule("argmax")


def test_a_named_rule_is_kept_and_its_temperature_chosen_if_it_has_one():
    pools = measured()
    majority = evaluate_held_out(pools, "majority", True).rule
    assert (majority.name, majority.temperature) == ("majority", 1.0)
    importance = evaluate_held_out(pools, "importance_vote", True).rule
    expected = choose_temperature([each.candidates for each in pools], "importance_vote")
    assert (importance.name, importance.temperature) == ("importance_vote", expected)


@cache
def of_simulated(questions: int, seed: int) -> HeldOut:
    """What is chosen on simulated questions, worked out once for all rules."""
    return evaluate_held_out(simulated(questions, seed), "auto", True)


def of_name(found: HeldOut, name: str) -> DecisionRule:
    (rule,) = [each for each in found.rules if each.name == name]
    return rule


@pytest.mark.parametrize("name", ["argmax", "majority", "weighted_vote", "importance_vote"])
def test_every_rule_has_what_was_chosen_for_it_whichever_rule_is_chosen(name):
    pools = simulated(30, 1)
    found = evaluate_held_out(pools, name, True)
    assert found.rule == of_name(found, name)
    assert found.rules == of_simulated(30, 1).rules
    calibrated = [each.candidates for each in recalibrated(pools, found.calibration.confidences)]
    for voting in ("weighted_vote", "importance_vote"):
        assert of_name(found, voting).temperature == choose_temperature(calibrated, voting)


@cache
def with_extra(*pools: Pool) -> HeldOut:
    return evaluate_held_out([*simulated(30, 2), *pools], "auto", True)


@pytest.mark.parametrize("name", ["argmax", "majority", "weighted_vote", "importance_vote"])
def test_a_rules_confidence_is_calibrated_on_its_own_judged_decisions(name):
    pools = simulated(30, 2)
    rule = of_name(with_extra(pool(), pool(("1", 4.0, UNREADABLE))), name)
    found = with_extra(pool(("1", 5.0, UNJUDGED), name="unjudged"))
    calibrated = recalibrated(pools, found.calibration.confidences)
    own = of_name(found, name)
    decisions = [decide(each.candidates, own) for each in calibrated]
    right = [each.candidate.verdict is RIGHT for each in decisions]
    assert own.calibration == calibrate_decisions([each.evidence for each in decisions], right)
    assert rule.calibration.points == len(pools)


@pytest.mark.parametrize("name", ["argmax", "majority", "weighted_vote", "importance_vote"])
def test_on_other_questions_the_confidence_is_nearer_to_the_share_right_than_the_vote_is(name):
    found = of_simulated(200, 3)
    others = recalibrated(simulated(600, 4), found.calibration.confidences)
    decisions = [decide(each.candidates, of_name(found, name)) for each in others]
    right = [each.candidate.verdict is RIGHT for each in decisions]
    calibrated = expected_calibration_error([each.confidence for each in decisions], right)
    raw = expected_calibration_error([each.share for each in decisions], right)
    assert calibrated < 0.07
    assert calibrated < raw / 2


def test_what_was_chosen_reaches_the_manifest_and_comes_back_by_name():
    found = evaluate_held_out(simulated(30, 5), "argmax", True)
    facts = {"task": "numeric", "backbone": "offline", "loss": "bce", "max_length": 64}
    manifest = Manifest(**facts).model_copy(update=found.manifest_fields())
    again = Manifest.model_validate(json.loads(manifest.model_dump_json()))
    assert again.calibration == found.calibration
    assert again.decision_rule() == found.rule
    assert again.decision_rules() == found.rules
    assert again.decision_rule("weighted_vote") == of_name(found, "weighted_vote")


def test_without_held_out_questions_every_rule_in_the_manifest_is_plain():
    fields = evaluate_held_out([], "majority", True).manifest_fields()
    assert fields == {"rule": "majority", "rules": {}, "calibration": None, "score_deciles": ()}


@given(ROWS)
def test_accuracy_divides_by_every_held_out_question(rows):
    pools = [pool(*candidates, name=f"q{at}") for at, candidates in enumerate(rows)]
    found = evaluate_held_out(pools, "majority", True)
    shares = [
        sum(verdict is RIGHT for _, _, verdict in candidates) / len(candidates) if candidates else 0.0
        for candidates in rows
    ]
    assert found.questions == len(rows)
    assert found.accuracy["single"] == pytest.approx(fmean(shares))
    assert found.accuracy["oracle"] == pytest.approx(fmean(float(share > 0) for share in shares))
    assert all(found.accuracy[name] <= found.accuracy["oracle"] + 1e-12 for name in ("majority", "best_of_n"))
    assert found.accuracy["chosen"] == found.accuracy["majority"]


def test_best_of_n_is_the_share_of_questions_whose_highest_score_is_right():
    pools = [
        pool(("1", 2.0, RIGHT), ("2", 1.0, WRONG)),
        pool(("1", 0.0, RIGHT), ("2", 1.0, WRONG)),
        pool(),
    ]
    assert evaluate_held_out(pools, "argmax", True).accuracy["best_of_n"] == pytest.approx(1 / 3)


def test_rounds_compare_by_the_chosen_rule_first_and_best_of_n_second():
    def of(chosen: float, best_of_n: float) -> float:
        return HeldOut(2, {"chosen": chosen, "best_of_n": best_of_n}, DecisionRule("argmax"), None).merit

    assert of(0.6, 0.1) > of(0.5, 0.9)
    assert of(0.6, 0.7) > of(0.6, 0.6)
    assert of(0.6, 0.7) == of(0.6, 0.7)


def test_a_held_out_record_is_the_same_value_when_read_back():
    for found in (evaluate_held_out(measured(), "auto", True), evaluate_held_out([], "auto", True)):
        assert HeldOut.from_record(asdict(found)) == found
        assert HeldOut.from_record(json.loads(json.dumps(asdict(found)))) == found
