"""Laws of a trial: two versions on the same candidates, and what speaks against promoting the new one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from trimtab.cli.learning import _hint
from trimtab.evaluate.trial import Contender, Trial, trial
from trimtab.stopping import DecisionRule
from trimtab.types import Candidate, Pool, Question, Verdict

pytestmark = pytest.mark.slow

RULE = DecisionRule("argmax")


class Likes:
    """Scores the text it likes above all others."""

    def __init__(self, liked: str, only: Sequence[str] = ()) -> None:
        self.liked, self.only = liked, only

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        return [
            float((text == self.liked) == (not self.only or question in self.only))
            for question, text in pairs
        ]

    def score(self, question: str, texts: Sequence[str]) -> list[float]:
        return self.score_pairs([(question, text) for text in texts])


GOOD, BAD = Contender(Likes("right"), RULE), Contender(Likes("wrong"), RULE)


def pool(number: int, right: Verdict = Verdict.RIGHT, wrong: Verdict = Verdict.WRONG) -> Pool:
    texts = (Candidate("right", "1", verdict=right), Candidate("wrong", "2", verdict=wrong))
    return Pool(Question(f"q{number}", f"question {number}?"), texts)


def unjudged(number: int) -> Pool:
    return pool(number, Verdict.UNJUDGED, Verdict.UNJUDGED)


POOLS = [pool(number) for number in range(40)]


def better(by: int, worse: int = 0) -> Contender:
    """Right where the serving one is wrong on so many questions; wrong on others where it is right."""
    return Contender(Likes("right", [each.question.text for each in POOLS[: 20 + by - worse]]), RULE)


def serving() -> Contender:
    return Contender(Likes("right", [each.question.text for each in POOLS[:20]]), RULE)


def held(
    new: Contender, shadow: Sequence[Pool] = (), old: Contender | None = None, **changes: float
) -> Trial:
    return trial(POOLS, shadow, old or serving(), new, **changes)


def test_a_version_that_is_right_more_often_may_be_promoted():
    found = held(better(10))
    assert found.holdout is not None
    assert (found.holdout.serving, found.holdout.new, found.holdout.difference.value) == (0.5, 0.75, 0.25)
    assert found.objection == ""


def test_the_same_choices_are_no_loss_and_may_be_promoted():
    found = held(serving())
    assert found.holdout is not None
    assert (found.holdout.difference.low, found.changed, found.objection) == (0.0, 0.0, "")


def test_a_loss_that_the_interval_does_not_rule_out_speaks_against_it():
    found = held(better(0, 2))
    assert "a loss of 2 points is not ruled out" in found.objection
    assert held(better(0, 2), margin=0.5).objection == ""


def test_nothing_held_out_speaks_against_it():
    assert trial((), [unjudged(1)], BAD, GOOD).objection == "nothing is held out to compare on"


def test_a_loss_on_shadow_traffic_speaks_against_what_wins_on_the_holdout():
    old = Contender(Likes("right", ["nothing"]), RULE)
    others = [pool(100 + number, Verdict.WRONG, Verdict.RIGHT) for number in range(20)]
    assert held(GOOD, old=old).objection == ""
    assert held(GOOD, others, old).objection == "it does worse on shadow traffic"


def test_shadow_traffic_that_nobody_judged_is_counted_for_changes_alone():
    found = trial(POOLS, [unjudged(number) for number in range(10)], BAD, GOOD)
    assert (found.shadow, found.replayed, found.changed) == (None, 10, 1.0)


def test_a_choice_that_nobody_judged_is_half_right():
    half = [pool(number, Verdict.UNJUDGED) for number in range(5)]
    found = trial(half, (), BAD, GOOD)
    assert found.holdout is not None
    assert (found.holdout.serving, found.holdout.new) == (0.0, 0.5)


def test_a_question_without_candidates_is_wrong_for_both():
    empty = [*POOLS[:3], Pool(Question("e", "empty?"), ())]
    found = trial(empty, empty, GOOD, GOOD)
    assert found.holdout is not None
    assert (found.holdout.questions, found.holdout.new) == (4, 0.75)


def test_a_trial_is_plain_json_with_its_objection():
    import json

    assert json.loads(json.dumps(held(better(0, 2)).to_json()))["objection"]


def test_what_would_settle_a_trial_is_said_where_no_loss_was_found_and_none_ruled_out():
    narrow = held(Contender(Likes("right", [each.question.text for each in POOLS[4:28]]), RULE))
    assert narrow.objection
    assert "--dev" in _hint(narrow)
    for settled in (held(GOOD), held(BAD), trial([], [], serving(), GOOD)):
        assert _hint(settled) == ""
