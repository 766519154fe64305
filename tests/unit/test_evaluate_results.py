"""Laws of results files: they read back as written, and are refused when a byte is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimtab.errors import InputError
from trimtab.evaluate import Mark, compare, read_results
from trimtab.evaluate.results import is_results, results_text
from trimtab.stopping import DecisionRule
from trimtab.types import Candidate, Pool, Question, Verdict

RIGHT = Candidate("It is 7.", "7", verdict=Verdict.RIGHT)
WRONG = Candidate("It is 8.", "8", verdict=Verdict.WRONG)


def pools(*rights: bool) -> list[Pool]:
    return [
        Pool(Question(f"q{index}", "How much?", "7"), (RIGHT if right else WRONG,))
        for index, right in enumerate(rights)
    ]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "results.jsonl"
    path.write_text(results_text(compare(pools(True, False, True), DecisionRule("majority"))), "utf-8")
    return path


def test_results_read_back_as_the_outcomes_of_the_method_that_decided(written: Path) -> None:
    results = read_results(written)
    assert is_results(written)
    assert results.method == "majority"
    assert results.on(["q2", "q1"], "here") == [1.0, 0.0]


def test_several_seeds_of_one_question_are_its_mean(tmp_path: Path) -> None:
    twice = [*pools(True), *pools(False)]
    compared = compare(twice, DecisionRule("majority"), marks=[Mark("q0", seed=0), Mark("q0", seed=1)])
    path = tmp_path / "results.jsonl"
    path.write_text(results_text(compared), "utf-8")
    assert read_results(path).outcomes == {"q0": 0.5}


@pytest.mark.parametrize("at", [0.3, 0.6, 0.99])
def test_a_file_cut_short_or_edited_is_refused(written: Path, at: float) -> None:
    whole = written.read_text("utf-8")
    place = int(at * len(whole))
    for damaged in (whole[:place], whole[:place] + "~" + whole[place + 1 :]):
        written.write_text(damaged, "utf-8")
        with pytest.raises(InputError, match=r"results\.jsonl is"):
            read_results(written)


@pytest.mark.parametrize("text", ["", "[]\n", "{}\n", '{"kind": "other"}\n', "\x00"])
def test_another_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text(text, "utf-8")
    assert not is_results(path)
    with pytest.raises(InputError, match=r"other\.jsonl"):
        read_results(path)


def test_other_questions_are_refused_and_named(written: Path) -> None:
    with pytest.raises(InputError, match=r"1 of 2 questions .*q9"):
        read_results(written).on(["q0", "q9"], "old")
