"""Laws of what a round learns from: prefixes with their outcomes, replay, positives so far."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.adapt.contrasts import merged, positives_after, prefix_targets, with_replay
from trimtab.judge import contrast as contrast_of
from trimtab.types import Candidate, Contrast, Judgement, Pool, PrefixTarget, Prompt, Question, Verdict


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


# --------------------------------------------------------------------------- prefixes of several rounds

# Outcomes (right, all) by (round, question, prefix).
OUTCOMES = st.dictionaries(
    st.tuples(st.integers(0, 2), st.sampled_from("qr"), st.sampled_from("ab")),
    st.integers(1, 9).flatmap(lambda all_: st.tuples(st.integers(0, all_), st.just(all_))),
)


@given(OUTCOMES)
def test_a_prefix_that_comes_up_in_several_rounds_is_worth_the_mean_over_all_its_completions(outcomes):
    targets = [
        PrefixTarget(asked, "?", prefix, right / count, count)
        for (_, asked, prefix), (right, count) in outcomes.items()
    ]
    slow = {
        place: [seen for at, seen in outcomes.items() if at[1:] == place]
        for place in {p[1:] for p in outcomes}
    }
    found = {(each.question_id, each.prefix): each for each in merged(targets)}
    assert len(merged(targets)) == len(found) == len(slow)
    for place, seen in slow.items():
        right, count = (sum(side) for side in zip(*seen, strict=True))
        assert found[place].weight == count
        assert found[place].value == pytest.approx(float(Fraction(right, count)))
        assert 0 <= found[place].value <= 1


@given(st.integers(0, 9), st.floats(0, 1), st.integers(0, 5))
def test_prefixes_are_replayed_by_the_same_share_as_contrasts(count, share, seed):
    earlier = [PrefixTarget(f"e{at}", "?", "a", 0.5) for at in range(count)]
    current = [PrefixTarget("now", "?", "a", 0.5)]
    assert len(with_replay(current, earlier, share, seed)) == 1 + round(share * count)
    assert with_replay(current, earlier, 0.0, seed) == tuple(current)


# --------------------------------------------------------------------------- positives so far


def judged_pool(question_id: str, right: str, wrong: str = "") -> tuple[Pool, Judgement]:
    """A pool whose texts are letters, and the judgement on it."""
    candidates = tuple(Candidate(text, text) for text in right + wrong)
    sides = tuple(range(len(right))), tuple(range(len(right), len(candidates)))
    return Pool(Question(question_id, "?"), candidates), Judgement(question_id, *sides, "test")


def positives_of(*rounds: list[tuple[Pool, Judgement]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for each in rounds:
        found = positives_after(found, [pool for pool, _ in each], {j.question_id: j for _, j in each})
    return found


def test_the_positives_so_far_are_each_questions_own_oldest_first_each_once():
    first = [judged_pool("p", "ab", "x"), judged_pool("q", "c", "x")]
    assert positives_of(first, [judged_pool("p", "bd", "x")]) == {"p": ("a", "b", "d"), "q": ("c",)}


def test_a_question_all_right_in_one_round_and_all_wrong_in_the_next_has_a_contrast():
    before = positives_of([judged_pool("q", "ab")])
    pool, judgement = judged_pool("q", "", "xy")
    found = contrast_of(pool.question, pool.candidates, judgement, before["q"])
    assert found is not None
    assert (found.positives, found.negatives) == (("a", "b"), ("x", "y"))


def test_a_positive_that_a_later_judgement_holds_negative_is_one_no_more():
    assert positives_of([judged_pool("q", "ab")], [judged_pool("q", "c", "a")]) == {"q": ("b", "c")}


def test_a_question_that_fails_keeps_its_positives():
    assert positives_of([judged_pool("q", "ab", "x")], [judged_pool("q", "")]) == {"q": ("a", "b")}


def test_a_reference_solution_stays_a_positive_throughout():
    pool, judgement = judged_pool("q", "", "rx")  # "r" was drawn too and called wrong, by mistake
    reference = Judgement("q", judgement.positives, judgement.negatives, "test", extra_positives=("r",))
    assert positives_of(*[[(pool, reference)]] * 3) == {"q": ("r",)}
