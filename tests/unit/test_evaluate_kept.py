"""Laws of scores that are kept: nothing is worked out twice, a torn line is no loss, damage is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import InputError
from trimtab.evaluate import KeptScores, kept
from trimtab.evaluate.kept import PART


class Counting:
    """Scores by length, and counts what it is asked; breaks after so many parts."""

    def __init__(self, breaks_after: int | None = None) -> None:
        self.asked: list[tuple[str, str]] = []
        self.parts, self.breaks_after = 0, breaks_after

    def score(self, question: str, texts: Sequence[str]) -> list[float]:
        return self.score_pairs([(question, text) for text in texts])

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        if self.parts == self.breaks_after:
            raise KeyboardInterrupt
        self.parts += 1
        self.asked += pairs
        return [len(question) + len(text) / 10 for question, text in pairs]


PAIRS = [(f"question {number}", "x" * (number % 7)) for number in range(20)]


def test_a_second_evaluation_asks_the_scorer_nothing_and_does_not_even_make_it(tmp_path: Path) -> None:
    first = KeptScores(Counting, tmp_path / "scores.jsonl").score_pairs(PAIRS)

    def never() -> Counting:
        raise AssertionError("all scores were kept")

    assert KeptScores(never, tmp_path / "scores.jsonl").score_pairs(PAIRS) == first


@given(st.lists(st.tuples(st.text(max_size=4), st.text(max_size=4)), max_size=12))
def test_kept_scores_are_the_scorers_own_in_order(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("kept") / "scores.jsonl"
    wanted = Counting().score_pairs(pairs)
    assert KeptScores(Counting, path).score_pairs(pairs) == wanted
    assert KeptScores(Counting, path).score_pairs(pairs) == wanted


def test_equal_pairs_are_scored_once(tmp_path: Path) -> None:
    scorer = Counting()
    KeptScores(lambda: scorer, tmp_path / "s.jsonl").score("q", ["a", "a", "b"])
    assert sorted(scorer.asked) == [("q", "a"), ("q", "b")]


def test_an_interrupted_evaluation_goes_on_after_its_last_part(tmp_path: Path) -> None:
    pairs = [(str(number), "x") for number in range(3 * PART)]
    with pytest.raises(KeyboardInterrupt):
        KeptScores(lambda: Counting(breaks_after=2), tmp_path / "s.jsonl").score_pairs(pairs)
    rest = Counting()
    done: list[tuple[int, int]] = []
    scores = KeptScores(lambda: rest, tmp_path / "s.jsonl", lambda n, of: done.append((n, of)))
    assert scores.score_pairs(pairs) == Counting().score_pairs(pairs)
    assert len(rest.asked) == PART
    assert done == [(PART, PART)]


def test_a_line_cut_short_is_dropped_and_written_again_whole(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    KeptScores(Counting, path).score_pairs(PAIRS)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    scorer = Counting()
    assert KeptScores(lambda: scorer, path).score_pairs(PAIRS) == Counting().score_pairs(PAIRS)
    assert len(scorer.asked) == 1
    assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())


@pytest.mark.parametrize(
    "line", ["nonsense", "{}", '{"of": "a", "score": NaN}', '{"of": "", "score": 1}', "[1]"]
)
def test_a_damaged_file_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "s.jsonl"
    KeptScores(Counting, path).score_pairs(PAIRS[:2])
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=r"s\.jsonl:3 is damaged"):
        kept.KeptScores(Counting, path)
