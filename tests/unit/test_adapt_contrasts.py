"""Laws of what a round learns from: prefixes with their outcomes, replay, positives so far."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.adapt.contrasts import earlier_positives, prefix_targets, with_replay
from trimtab.types import Candidate, Contrast, Pool, Prompt, Question, Verdict


@dataclass(frozen=True)
class Letters:
    """A task whose every letter is a step."""

    name: str = "letters"
    is_comparable: bool = True
    step_stops: tuple[str, ...] = ()

    def prompt(self, question: Question, chain: str = "") -> Prompt:
        raise NotImplementedError

    def steps(self, text: str) -> tuple[str, ...]:
        return tuple(text)

    def is_finished(self, chain: str) -> bool:
        raise NotImplementedError

    def final_answer(self, question: Question, text: str) -> str | None:
        return text[-1]

    def verdict(self, question: Question, text: str) -> Verdict:
        raise NotImplementedError


POOLS = st.lists(
    st.tuples(st.text("ab", min_size=1, max_size=4), st.sampled_from(list(Verdict))), max_size=8
).map(
    lambda rows: Pool(
        Question("q", "Which?", choices=("x", "y")),
        tuple(Candidate(text, text[-1], verdict=verdict) for text, verdict in rows),
    )
)


def contrast(question_id: str, *positives: str) -> Contrast:
    return Contrast(question_id, "?", positives or ("right",), ("wrong",))


@given(POOLS)
def test_a_prefix_is_worth_the_mean_outcome_of_the_judged_chains_that_share_it(pool):
    found = prefix_targets(pool, Letters(), limit=1000, seed=0)
    judged = [each for each in pool.candidates if each.verdict is not Verdict.UNJUDGED]
    slow = {}
    for prefix in {each.text[:end] for each in judged for end in range(1, len(each.text))}:
        sharing = [each for each in judged if each.text.startswith(prefix) and each.text != prefix]
        right = sum(each.verdict is Verdict.RIGHT for each in sharing)
        slow[prefix] = (right / len(sharing), len(sharing))
    assert {target.prefix: (target.value, target.weight) for target in found} == slow
    assert len(found) == len(slow)
    assert all((t.question_id, t.question) == ("q", "Which?\n(A) x\n(B) y") for t in found)


@given(POOLS, st.integers(0, 6), st.integers(0, 3))
def test_at_most_limit_prefixes_are_taken_all_of_them_from_the_whole(pool, limit, seed):
    whole = prefix_targets(pool, Letters(), limit=1000, seed=seed)
    taken = prefix_targets(pool, Letters(), limit=limit, seed=seed)
    assert len(taken) == min(limit, len(whole))
    assert set(taken) <= set(whole)
    assert taken == prefix_targets(pool, Letters(), limit=limit, seed=seed)


def test_another_seed_takes_other_prefixes():
    texts = "aaaaaaaaaa", "bbbbbbbbbb"
    pool = Pool(Question("q", "?"), tuple(Candidate(text, text, verdict=Verdict.RIGHT) for text in texts))
    taken = {prefix_targets(pool, Letters(), limit=3, seed=seed) for seed in range(8)}
    assert len(taken) > 1


EARLIER = st.integers(0, 9).map(lambda count: [contrast(f"e{at}") for at in range(count)])


@given(EARLIER, st.integers(0, 5))
def test_without_replay_earlier_rounds_are_forgotten(earlier, seed):
    current = (contrast("now"),)
    assert with_replay(current, earlier, 0.0, seed) == current


@given(EARLIER, st.integers(0, 5))
def test_with_full_replay_every_earlier_contrast_comes_back_once(earlier, seed):
    found = with_replay((contrast("now"),), earlier, 1.0, seed)
    assert found[0] == contrast("now")
    assert sorted(each.question_id for each in found[1:]) == sorted(each.question_id for each in earlier)


@given(EARLIER, st.floats(0, 1), st.integers(0, 5))
def test_a_share_of_the_earlier_contrasts_is_replayed_the_same_ones_by_seed(earlier, share, seed):
    found = with_replay((), earlier, share, seed)
    assert len(found) == round(share * len(earlier))
    assert len(set(found)) == len(found)
    assert set(found) <= set(earlier)
    assert found == with_replay((), earlier, share, seed)


def test_the_positives_so_far_are_each_questions_own_oldest_first_each_once():
    rounds = [contrast("a", "one", "two"), contrast("b", "other"), contrast("a", "two", "three")]
    assert earlier_positives(rounds) == {"a": ("one", "two", "three"), "b": ("other",)}


def test_a_question_without_positives_so_far_is_not_there():
    with pytest.raises(KeyError):
        earlier_positives([])["a"]
