"""Laws of the batching scorer, on scorers that need no torch."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.energy.lengths import LEAST_TOKENS, STEP, in_batches, of_one_length, rounded
from trimtab.energy.scoring import BatchingScorer, BatchScorer, ScoringSettings
from trimtab.errors import RunError
from trimtab.types import Scorer

TOKENS = 20


class PoisonError(Exception):
    """What a poisoned text does."""


@dataclass(frozen=True)
class Words:
    """An encoded pair: one token a word."""

    question: str
    text: str

    def __len__(self) -> int:
        return len(f"{self.question} {self.text}".split())


@dataclass
class ByWords:
    """g: how many words the text has, plus a hundredth of the question's. Notes what it was asked."""

    seconds: float = 0.0
    tokens: int = TOKENS
    streams: int = 1
    batches: list[list[Words]] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)
    inside: threading.Lock | threading.Semaphore = field(default_factory=threading.Lock)
    gate: threading.Event | None = None

    def encode(self, pairs: Sequence[tuple[str, str]]) -> list[Words]:
        self.threads.add(threading.current_thread().name)
        if any("unreadable" in text for _, text in pairs):
            raise PoisonError("unreadable")
        return [Words(question, text) for question, text in pairs]

    def scores(self, batch: Sequence[Words]) -> list[float]:
        assert self.inside.acquire(blocking=False), "two scorings at once"
        try:
            self.threads.add(threading.current_thread().name)
            if self.gate is not None:
                assert self.gate.wait(5)
            time.sleep(self.seconds)
            self.batches.append(list(batch))
            if any("poison" in each.text for each in batch):
                raise PoisonError("poison")
            return [worth(each.question, each.text) for each in batch]
        finally:
            self.inside.release()

    @property
    def seen(self) -> list[tuple[str, str]]:
        return [(each.question, each.text) for batch in self.batches for each in batch]


def worth(question: str, text: str) -> float:
    return len(text.split()) + len(question.split()) / 100


def threads_left() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("trimtab-batches")]


def waiting(n: int) -> ScoringSettings:
    return ScoringSettings(waiting=n)


# --------------------------------------------------------------------------- batches


@given(st.lists(st.integers(0, 50)), st.integers(1, 60))
def test_batches_hold_each_item_once_and_keep_to_the_budget(lengths, tokens):
    batches = list(in_batches(lengths, tokens))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert len(batch) == 1 or longest * len(batch) <= tokens
    firsts = [lengths[batch[0]] for batch in batches]
    assert firsts == sorted(firsts, reverse=True)


@given(st.lists(st.integers(0, 90)), st.integers(1, 200))
def test_scored_batches_hold_one_rounded_length_and_keep_to_the_budget(lengths, tokens):
    batches = list(of_one_length(lengths, tokens))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = {rounded(lengths[i], STEP) for i in batch}
        assert len(padded) == 1
        assert len(batch) == 1 or padded.pop() * len(batch) <= tokens


@given(st.lists(st.integers(1, 90), min_size=1), st.integers(1, 4))
def test_batches_are_cut_smaller_only_where_streams_would_have_none(lengths, streams):
    batches = list(of_one_length(lengths, 10**6, streams))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    room = max(LEAST_TOKENS, sum(lengths) // streams) if streams > 1 else 10**6
    for batch in batches:
        assert len(batch) == 1 or len(batch) * rounded(lengths[batch[0]], STEP) <= room


@given(st.integers(0, 10**6), st.integers(1, 100))
def test_rounding_up_gives_the_next_multiple(count, step):
    assert 0 <= rounded(count, step) - count < step
    assert rounded(count, step) % step == 0


# --------------------------------------------------------------------------- right and together


Requests = st.lists(
    st.tuples(st.sampled_from(["a", "b b", "c c c"]), st.lists(st.text("xy ", max_size=12), max_size=6)),
    max_size=12,
)


@given(Requests, st.integers(1, 30), st.integers(1, 40))
def test_every_request_gets_its_own_scores_whatever_shares_its_batches(requests, room, tokens):
    async def asked() -> list[list[float]]:
        async with BatchingScorer(
            ByWords(tokens=tokens), ScoringSettings(0.0, 2, waiting=room, remembered=5)
        ) as scoring:
            return await asyncio.gather(*(scoring.scored(*each) for each in requests))

    expected = [[worth(question, text) for text in texts] for question, texts in requests]
    assert asyncio.run(asked()) == expected


async def test_requests_of_one_moment_share_batches_of_like_length():
    scorer = ByWords(tokens=64)
    texts = ["a", " ".join("abcdefghijklmnopqrst"), "a b"]
    async with BatchingScorer(scorer) as scoring:
        await asyncio.gather(*(scoring.scored(f"q{i}", texts) for i in range(4)))
    lengths = [[len(each) for each in batch] for batch in scorer.batches]
    assert lengths == [[21, 21], [21, 21], [2, 3, 2, 3], [2, 3, 2, 3]]
    assert scoring.counts.batches == 4


async def test_scoring_and_tokenising_stay_off_the_loop_and_in_one_thread():
    scorer = ByWords()
    async with BatchingScorer(scorer) as scoring:
        await asyncio.gather(*(scoring.scored(f"q{i}", ["a", "b"]) for i in range(9)))
    assert len(scorer.threads) == 1
    assert threading.current_thread().name not in scorer.threads


async def test_a_plain_scorer_is_scored_with_as_it_is():
    class Plain:
        def score(self, question: str, texts: Sequence[str]) -> list[float]:
            return self.score_pairs([(question, text) for text in texts])

        def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
            return [worth(*pair) for pair in pairs]

    plain: Scorer = Plain()
    assert not isinstance(plain, BatchScorer)
    async with BatchingScorer(plain) as scoring:
        assert await scoring.scored("what is", ["a b", "c", "a b"]) == [2.02, 1.02, 2.02]


async def test_nothing_asked_is_nothing_scored():
    async with BatchingScorer(ByWords()) as scoring:
        assert await scoring.scored("q", []) == []
    assert scoring.counts.batches == 0


# --------------------------------------------------------------------------- once only


async def test_a_pair_is_scored_once_whoever_asks_and_when():
    scorer = ByWords()
    async with BatchingScorer(scorer) as scoring:
        together = await asyncio.gather(*(scoring.scored("q", ["a", "b b", "a"]) for _ in range(5)))
        later = await scoring.scored("q", ["b b", "a"])
    assert together == [[1.01, 2.01, 1.01]] * 5
    assert later == [2.01, 1.01]
    assert sorted(scorer.seen) == [("q", "a"), ("q", "b b")]
    counts = scoring.counts
    assert (counts.asked, counts.scored, counts.shared, counts.remembered) == (12, 2, 8, 2)


async def test_pairs_that_read_alike_when_joined_are_not_the_same_pair():
    scorer = ByWords()
    async with BatchingScorer(scorer) as scoring:
        await asyncio.gather(scoring.scored("ab", ["c"]), scoring.scored("a", ["bc"]))
    assert len(scorer.seen) == 2


async def test_of_too_many_scores_the_longest_unused_is_forgotten():
    scorer = ByWords()
    async with BatchingScorer(scorer, ScoringSettings(remembered=2)) as scoring:
        for text in ("a", "b", "a", "c", "a", "b"):
            await scoring.scored("q", [text])
    assert [text for _, text in scorer.seen] == ["a", "b", "c", "b"]


# --------------------------------------------------------------------------- fair and bounded


async def test_a_question_that_asks_for_much_does_not_hold_up_one_that_asks_for_little():
    scorer = ByWords(gate=threading.Event())
    many = [f"word{i} " * 5 for i in range(200)]
    async with BatchingScorer(scorer, ScoringSettings(window=2, turn=4)) as scoring:
        much = asyncio.create_task(scoring.scored("much", many))
        await asyncio.sleep(0.05)  # its first batch is being scored
        little = asyncio.create_task(scoring.scored("little", ["a", "b"]))
        await asyncio.sleep(0.01)
        scorer.gate.set()
        await little
        assert not much.done()
        assert scoring.counts.scored < 40
        assert await much == [worth("much", text) for text in many]


async def test_turns_go_round_the_questions():
    scorer = ByWords(tokens=2)
    async with BatchingScorer(scorer, ScoringSettings(window=1, turn=2)) as scoring:
        await asyncio.gather(*(scoring.scored(name, ["x", "y", "z"]) for name in "abc"))
    assert scorer.seen == [(name, text) for turn in ("xy", "z") for name in "abc" for text in turn]


async def test_no_more_pairs_than_the_bound_are_under_way():
    scorer = ByWords(gate=threading.Event())
    async with BatchingScorer(scorer, waiting(3)) as scoring:
        asked = [asyncio.create_task(scoring.scored(f"q{i}", [f"a{j}" for j in range(5)])) for i in range(4)]
        await asyncio.sleep(0.02)
        assert len(scoring._under_way) == 3
        scorer.gate.set()
        assert await asyncio.gather(*asked) == [[1.01] * 5] * 4
    assert len(scorer.seen) == 20


# --------------------------------------------------------------------------- several streams


@dataclass
class Streaming(ByWords):
    """Lets as many in as it has streams; each waits there until all have come."""

    streams: int = 2
    meeting: threading.Barrier = field(default_factory=lambda: threading.Barrier(2))

    def scores(self, batch: Sequence[Words]) -> list[float]:
        self.meeting.wait(5)
        return [worth(each.question, each.text) for each in batch]


async def test_as_many_batches_are_scored_at_once_as_there_are_streams():
    async with BatchingScorer(Streaming(tokens=2)) as scoring:
        for word in ("x", "y"):  # the second time, all streams had run out of work
            assert await asyncio.wait_for(scoring.scored("q", [word, f"{word} z"]), 5) == [1.01, 2.01]
    assert threads_left() == []


async def test_closing_waits_for_all_streams():
    scorer = ByWords(streams=3, tokens=2, seconds=0.02, inside=threading.Semaphore(3))
    scoring = BatchingScorer(scorer)
    asked = asyncio.create_task(scoring.scored("q", [str(i) for i in range(9)]))
    await asyncio.sleep(0.01)
    await scoring.close()
    with pytest.raises(RunError, match="closed"):
        await asked
    assert len(scorer.batches) == 3
    assert threads_left() == []
    assert asyncio.all_tasks() == {asyncio.current_task()}


# --------------------------------------------------------------------------- errors and cancellation


@pytest.mark.parametrize("bad", ["poison", "unreadable"])
async def test_an_error_reaches_only_the_request_whose_text_caused_it(bad):
    scorer = ByWords()
    async with BatchingScorer(scorer) as scoring:
        came = await asyncio.gather(
            scoring.scored("q", ["a", bad]),
            scoring.scored("r", [bad, "b"]),
            scoring.scored("q", ["a", "b"]),
            scoring.scored("s", ["c"]),
            return_exceptions=True,
        )
        assert [type(each) for each in came] == [PoisonError, PoisonError, list, list]
        assert came[2:] == [[1.01, 1.01], [1.01]]
        assert await scoring.scored("q", ["fine"]) == [1.01]
        with pytest.raises(PoisonError):  # an error is no score: it is tried again
            await scoring.scored("q", [bad])


async def test_cancelling_one_request_leaves_the_others_and_what_they_share():
    scorer = ByWords(gate=threading.Event())
    async with BatchingScorer(scorer) as scoring:
        leaving = asyncio.create_task(scoring.scored("q", ["shared", "mine alone"]))
        staying = asyncio.create_task(scoring.scored("q", ["shared", "theirs"]))
        await asyncio.sleep(0)
        leaving.cancel()
        scorer.gate.set()
        assert await staying == [1.01, 1.01]
        with pytest.raises(asyncio.CancelledError):
            await leaving
    assert sorted(text for _, text in scorer.seen) == ["shared", "theirs"]


async def test_a_request_cancelled_while_it_waits_for_room_takes_none():
    scorer = ByWords(gate=threading.Event())
    async with BatchingScorer(scorer, waiting(1)) as scoring:
        first = asyncio.create_task(scoring.scored("q", ["a"]))
        second = asyncio.create_task(scoring.scored("r", ["b", "c"]))
        await asyncio.sleep(0.01)
        second.cancel()
        scorer.gate.set()
        assert await first == [1.01]
        assert await scoring.scored("s", ["d"]) == [1.01]
    assert scoring._room._value == 1


async def test_a_deadline_on_a_request_does_not_stop_the_scorer():
    scorer = ByWords(seconds=0.05)
    async with BatchingScorer(scorer) as scoring:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(scoring.scored("q", ["a"]), 0.01)
        assert await scoring.scored("r", ["b"]) == [1.01]


async def test_a_scorer_that_miscounts_fails_its_requests_and_does_not_hang_them():
    class Short(ByWords):
        def scores(self, batch: Sequence[Words]) -> list[float]:
            return super().scores(batch)[1:]

    async with BatchingScorer(Short()) as scoring:
        with pytest.raises(ValueError, match="shorter"):
            await asyncio.wait_for(scoring.scored("q", ["a", "b"]), 5)


# --------------------------------------------------------------------------- the end


async def test_closing_leaves_nothing_running_and_tells_those_who_wait():
    scorer = ByWords(seconds=0.02)
    scoring = BatchingScorer(scorer, waiting(2))
    asked = [asyncio.create_task(scoring.scored(f"q{i}", ["a", "b", "c"])) for i in range(3)]
    await asyncio.sleep(0.01)
    await scoring.close()
    came = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(each) for each in came] == [RunError] * 3
    assert threads_left() == []
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_closed_scorer_refuses_and_may_be_closed_again():
    async with BatchingScorer(ByWords()) as scoring:
        assert await scoring.scored("q", ["a"]) == [1.01]
    await scoring.close()
    with pytest.raises(RunError, match="closed"):
        await scoring.scored("q", ["b"])


async def test_no_task_is_left_when_nothing_is_asked():
    async with BatchingScorer(ByWords()) as scoring:
        await scoring.scored("q", ["a"])
        await asyncio.sleep(0.01)
        assert asyncio.all_tasks() == {asyncio.current_task()}
