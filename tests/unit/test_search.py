"""Laws of the beam search, on small made-up black boxes, and against a slow search written out."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.search import (
    Draft,
    Search,
    best,
    extended,
    final,
    is_done,
    opened,
    pruned,
    resampled,
    samples_each,
    scored,
    to_extend,
    unscored,
)

STEPS = ("a.", "b.", "c.", "", "end!", "a.end!")


def chance(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big")


def is_finished(chain: str) -> bool:
    return chain.endswith("!")


@dataclass
class World:
    """A deterministic black box and scorer that remember what they were asked."""

    seed: int
    steps: tuple[str, ...] = STEPS
    levels: int = 5  # few, so that equal scores are common
    extended: list[str] = field(default_factory=list)
    scored: list[str] = field(default_factory=list)

    def continuations(self, chain: str, n: int) -> list[str]:
        self.extended.append(chain)
        return [self.steps[chance(self.seed, chain, i) % len(self.steps)] for i in range(n)]

    def score(self, text: str) -> float:
        self.scored.append(text)
        return float(chance(self.seed, "score", text) % self.levels)


def stepped(search: Search, world: World) -> Search:
    rows = [world.continuations(draft.text, samples_each(search)) for draft in to_extend(search)]
    search = extended(search, rows, is_finished)
    return pruned(scored(search, [world.score(text) for text in unscored(search)]))


def journey(world: World, width: int, samples: int, max_steps: int) -> list[Search]:
    states = [opened(width, samples, max_steps)]
    while not is_done(states[-1]):
        states.append(stepped(states[-1], world))
    return states


worlds = st.builds(World, st.integers(0, 10**6), levels=st.sampled_from([1, 3, 10**6]))
small = st.integers(1, 4)


@given(worlds, small, small, small)
def test_a_finished_beam_is_never_extended_and_always_survives_as_it_was_or_falls_out(world, k, n, steps):
    states = journey(world, k, n, steps)
    for before, after in pairwise(states):
        assert not any(draft.is_finished for draft in to_extend(before))
        finished = {draft for draft in before.kept if draft.is_finished}
        kept_texts = {draft.text: draft for draft in after.kept}
        assert all(kept_texts.get(draft.text, draft) == draft for draft in finished)
    assert not any(is_finished(chain) for chain in world.extended)


@given(worlds, small, small, small)
def test_at_most_k_drafts_are_kept_and_no_two_read_the_same(world, k, n, steps):
    for state in journey(world, k, n, steps):
        texts = [draft.text for draft in state.kept]
        assert 1 <= len(texts) <= k
        assert len(set(texts)) == len(texts)


@given(worlds, small, small, small)
def test_no_text_is_scored_twice_nor_extended_twice(world, k, n, steps):
    journey(world, k, n, steps)
    assert max(Counter(world.scored).values()) == 1
    assert max(Counter(world.extended).values()) == 1


@given(worlds, small, small, small)
def test_the_search_ends_within_its_steps_and_its_draws_are_counted_and_bounded(world, k, n, steps):
    end = journey(world, k, n, steps)[-1]
    assert is_done(end)
    assert end.depth <= steps
    assert end.draws <= k * n * end.depth
    assert end.draws == k * n + n * (len(world.extended) - 1)
    assert to_extend(end) == ()


@given(worlds, small, small, small)
def test_pruning_keeps_no_draft_that_ranks_below_one_it_drops(world, k, n, steps):
    for state in journey(world, k, n, steps)[:-1]:
        rows = [world.continuations(draft.text, samples_each(state)) for draft in to_extend(state)]
        wide = extended(state, rows, is_finished)
        wide = scored(wide, [world.score(text) for text in unscored(wide)])
        narrow = pruned(wide)
        dropped = [d for d in (*wide.kept, *wide.drawn) if d not in narrow.kept]
        assert len(narrow.kept) == min(k, len(wide.kept) + len(wide.drawn))
        worst_kept = min((d.score, -len(d.steps)) for d in narrow.kept)
        assert all((d.score, -len(d.steps)) <= worst_kept for d in dropped)


@given(worlds, st.integers(1, 6))
def test_one_beam_and_one_sample_is_plain_sampling(world, steps):
    end = journey(world, 1, 1, steps)[-1]
    chain, length = "", 0
    while length < steps and not is_finished(chain):
        step = world.continuations(chain, 1)[0]
        length += 1
        if not step:
            break
        chain += step
    assert best(end).text == chain


def slow_search(world: World, k: int, n: int, max_steps: int) -> list[str]:
    """The paper's search written out on plain lists: (text, finished, steps taken, order drawn)."""
    beams = [("", False, 0, 0)]
    order = 0
    for depth in range(max_steps):
        if all(done for _, done, _, _ in beams):
            break
        everything = [beam for beam in beams if beam[1]]
        for text, done, length, _ in beams:
            for step in [] if done else world.continuations(text, n * k if depth == 0 else n):
                order += 1
                grown = (text + step, not step or is_finished(text + step), length + bool(step), order)
                same = [other for other in everything if other[0] == grown[0]]
                if same:
                    everything[everything.index(same[0])] = (
                        *same[0][:1],
                        same[0][1] or grown[1],
                        *same[0][2:],
                    )
                else:
                    everything.append(grown)
        beams = sorted(everything, key=lambda beam: (-world.score(beam[0]), beam[2], beam[3]))[:k]
    return [text for text, *_ in beams]


@given(worlds, small, small, small)
def test_the_search_keeps_what_the_slow_search_keeps(world, k, n, steps):
    end = journey(world, k, n, steps)[-1]
    assert [draft.text for draft in end.kept] == slow_search(
        replace(world, scored=[], extended=[]), k, n, steps
    )


@given(st.integers(0, 10**6), small)
def test_with_an_oracle_for_a_scorer_a_drawn_answer_is_found(seed, k):
    target = "a.b.c.end!"

    def oracle(text: str) -> float:
        return float(len(text)) if target.startswith(text) else -1.0

    search = opened(k, 6, 5)
    steps = ("a.", "b.", "c.", "end!", "b.end!", "")
    while not is_done(search):
        rows = [
            sorted(steps, key=lambda s, at=draft.text: chance(seed, at, s))[: samples_each(search)]
            for draft in to_extend(search)
        ]
        search = extended(search, rows, is_finished)
        search = pruned(scored(search, [oracle(text) for text in unscored(search)]))
    assert best(search).text == target


@given(st.permutations(["a.", "b.", "c.", "a.", "end!"]), st.randoms(use_true_random=False))
def test_the_order_of_continuations_plays_no_part_while_scores_differ(order, rng):
    search = opened(2, 3, 4)
    world = World(rng.randrange(100), levels=10**9)
    first = extended(search, [order], is_finished)
    again = extended(search, [sorted(order)], is_finished)
    kept = [pruned(scored(s, [world.score(t) for t in unscored(s)])).kept for s in (first, again)]
    assert kept[0] == kept[1]


def kept_texts(search: Search, rows: list[list[str]], score: float) -> list[str]:
    search = extended(search, rows, is_finished)
    return [draft.text for draft in pruned(scored(search, [score] * len(unscored(search)))).kept]


def test_equal_scores_go_to_fewer_steps_then_to_the_one_drawn_first():
    start = replace(
        opened(2, 1, 9), depth=1, kept=(Draft(("a.",), False, 1.0), Draft(("b.", "end!"), True, 1.0))
    )
    assert kept_texts(start, [["c.", "d.", ""]], 1.0) == ["a.", "b.end!"]
    assert kept_texts(start, [["c.", "d."]], 1.0) == ["b.end!", "a.c."]


def test_an_empty_continuation_ends_its_draft_without_another_score():
    start = replace(opened(1, 2, 9), depth=1, kept=(Draft(("a.",), False, 0.5),), scores={"a.": 0.5})
    after = extended(start, [["", ""]], is_finished)
    assert after.drawn == (Draft(("a.",), True, 0.5),)
    assert unscored(after) == ()
    assert is_done(pruned(scored(after, [])))


def test_the_best_is_finished_where_any_beam_is():
    draft, done = Draft(("a.",), False, 9.0), Draft(("end!",), True, 1.0)
    assert best(replace(opened(2, 1, 1), kept=(draft, done))) == done
    assert best(replace(opened(2, 1, 1), kept=(draft,))) == draft
    assert final(replace(opened(2, 1, 1), kept=(draft, done))) == (done, draft)


@pytest.mark.parametrize("numbers", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_a_search_without_width_samples_or_steps_is_refused(numbers):
    with pytest.raises(ValueError, match="1 or more"):
        opened(*numbers)


def test_what_does_not_fit_the_state_is_refused():
    with pytest.raises(ValueError, match="of 1 drafts are needed"):
        extended(opened(1, 1, 1), [], is_finished)
    drawn = extended(opened(1, 1, 1), [["a."]], is_finished)
    with pytest.raises(ValueError, match="without a score"):
        pruned(drawn)
    with pytest.raises(ValueError, match="zip"):
        scored(drawn, [1.0, 2.0])


# --------------------------------------------------------------------------- drawing from the adapted model

scores_of_pools = st.lists(st.floats(-50, 50), max_size=8)


@given(scores_of_pools, st.integers(0, 10), st.integers(0, 99), st.floats(0.01, 100))
def test_a_resample_holds_different_indices_as_many_as_asked_or_there_are(scores, count, seed, temperature):
    drawn = resampled(scores, count, temperature=temperature, seed=seed)
    assert len(drawn) == len(set(drawn)) == min(count, len(scores))
    assert set(drawn) <= set(range(len(scores)))
    assert drawn == resampled(scores, count, temperature=temperature, seed=seed)


@given(scores_of_pools, st.integers(0, 8), st.integers(0, 99))
def test_a_smaller_resample_is_the_beginning_of_a_larger_one(scores, count, seed):
    assert resampled(scores, count, seed=seed) == resampled(scores, len(scores), seed=seed)[:count]


@given(st.lists(st.integers(-20, 20).map(float), max_size=8, unique=True), st.integers(0, 99))
def test_towards_temperature_zero_a_resample_takes_the_highest_scores(scores, seed):
    ranking = sorted(range(len(scores)), key=lambda index: -scores[index])
    assert list(resampled(scores, 8, temperature=1e-4, seed=seed)) == ranking


def test_pairs_are_drawn_as_often_as_drawing_one_after_the_other_without_replacement_draws_them():
    scores, temperature, times = [0.0, 1.0, 2.0], 2.0, 6000
    counts = Counter(resampled(scores, 2, temperature=temperature, seed=seed) for seed in range(times))
    weigh = [math.exp(score / temperature) for score in scores]
    for first in range(3):
        for second in {0, 1, 2} - {first}:
            left = sum(weigh) - weigh[first]
            expected = weigh[first] / sum(weigh) * weigh[second] / left
            spread = math.sqrt(expected * (1 - expected) / times)
            assert abs(counts[first, second] / times - expected) < 4 * spread


@pytest.mark.parametrize(("count", "temperature"), [(-1, 1.0), (1, 0.0), (1, math.nan)])
def test_a_resample_that_means_nothing_is_refused(count, temperature):
    with pytest.raises(ValueError, match="count"):
        resampled([1.0], count, temperature=temperature)
