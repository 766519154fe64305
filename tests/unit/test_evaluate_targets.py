"""Laws of stated targets: read strictly, held against what was reached."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import ConfigError
from trimtab.evaluate import Comparison, compare, missed_targets, parse_targets
from trimtab.evaluate.targets import MEASURES, Target
from trimtab.stopping import DecisionRule
from trimtab.types import Candidate, Pool, Question, Verdict


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    right, wrong = (
        Candidate("7", "7", 2.0, 0.9, Verdict.RIGHT),
        Candidate("8", "8", -2.0, 0.1, Verdict.WRONG),
    )
    rows = [(right, wrong), (right, right), (wrong, wrong), (right, wrong)]
    pools = [Pool(Question(str(index), "?", "7"), row) for index, row in enumerate(rows)]
    return compare(pools, DecisionRule("weighted_vote"))


@given(st.sampled_from(MEASURES), st.sampled_from([">=", "<=", ">", "<"]), st.integers(-100, 100))
def test_a_written_target_reads_back_as_itself(measure: str, sign: str, hundredths: int) -> None:
    target = Target(measure, sign, hundredths / 100)
    assert parse_targets(str(target)) == (target,)


def test_several_targets_stand_between_commas_and_percent_is_understood() -> None:
    assert parse_targets("weighted_vote >= 75%, failed<=0,weighted_vote_minus_majority.low>-0.5") == (
        Target("weighted_vote", ">=", 0.75),
        Target("failed", "<=", 0),
        Target("weighted_vote_minus_majority.low", ">", -0.5),
    )


def test_met_targets_are_not_reported(comparison: Comparison) -> None:
    met = "weighted_vote>=0.75, weighted_vote<=0.75, oracle.high<=1, failed<1, single>0.4, ece<1"
    assert missed_targets(comparison, parse_targets(met)) == []


def test_each_missed_target_says_what_was_reached(comparison: Comparison) -> None:
    targets = parse_targets("weighted_vote>=0.8, asked>=4, best_of_n_minus_single > 0.5")
    assert missed_targets(comparison, targets) == [
        "required weighted_vote>=0.8, reached 0.75",
        "required best_of_n_minus_single>0.5, reached 0.25",
    ]


@pytest.mark.parametrize(
    "text", ["", "weighted_vote", "weighted_vote=0.8", "weighted_vote>=", ">=0.8", "a>=1,", "x>=1e3"]
)
def test_what_cannot_be_read_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"weighted_vote>=0\.8|no measure 'a'"):
        parse_targets(text)


def test_an_unknown_measure_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="no measure 'weighted_votes'; did you mean 'weighted_vote'"):
        parse_targets("weighted_votes>=0.8")


def test_a_target_on_what_was_not_measured_is_refused_rather_than_passed(comparison: Comparison) -> None:
    with pytest.raises(ConfigError, match="did not measure 'beam_search'"):
        missed_targets(comparison, parse_targets("beam_search>=0"))
