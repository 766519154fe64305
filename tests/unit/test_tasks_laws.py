"""Laws that hold for every task that ships, and the example in the package's docstring."""

from __future__ import annotations

import dataclasses
import json
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab import tasks
from trimtab.errors import ConfigError
from trimtab.tasks.presets import PRESETS
from trimtab.tasks.statements import CUE, SAID
from trimtab.types import Question, Task, Verdict

NAMES = sorted(PRESETS)
REFERENCES = {
    "numeric": "1,234.5",
    "gsm8k": "18",
    "house": "18",
    "boolean": "yes",
    "strategyqa": "no",
    "choice": "a microscope",
    "scienceqa": "B",
    "date": "December 24, 1899",
    "exact": "Paris",
    "free_text": "Goldfish remember.",
    "truthfulqa": "Nobody knows.",
}
PIECES = st.sampled_from(
    [
        "The answer is ",
        "answer: ",
        "#### ",
        "\\boxed{",
        "\\frac{1}{2}",
        "}",
        "{",
        "(B)",
        "A.",
        "yes",
        "no, ",
        "12/24/1899",
        "1,000",
        "-",
        "$",
        "/",
        ". ",
        "\n",
        "Dr. Who",
        " 3.5 ",
        "<<",
        ">>",
        "e.g. ",
        "\\text{",
        "**",
        "−",
        "½",
        "May 5",
    ]
)
TEXTS = st.one_of(st.text(), st.lists(PIECES).map("".join))


def question(name: str) -> Question:
    return Question("q", "What is it?", answer=REFERENCES[name], choices=("a lamp", "a microscope"))


@pytest.mark.parametrize("name", NAMES)
def test_a_task_is_found_again_by_its_name(name: str) -> None:
    task = tasks.by_name(name)
    assert isinstance(task, Task)
    assert task.name == name


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_itself_is_right(name: str) -> None:
    text = f"I think.\nThe answer is {REFERENCES[name]}"
    assert tasks.by_name(name).verdict(question(name), text) is Verdict.RIGHT


@pytest.mark.parametrize("name", NAMES)
def test_without_a_reference_nothing_is_judged(name: str) -> None:
    bare = dataclasses.replace(question(name), answer=None)
    assert tasks.by_name(name).verdict(bare, "The answer is 5.") is Verdict.UNJUDGED


@pytest.mark.parametrize("name", NAMES)
@given(text=TEXTS)
def test_steps_join_to_the_text_and_none_is_empty(name: str, text: str) -> None:
    steps = tasks.by_name(name).steps(text)
    assert "".join(steps) == text
    assert all(steps)


@pytest.mark.parametrize("name", NAMES)
@given(text=TEXTS)
def test_reading_never_raises(name: str, text: str) -> None:
    task = tasks.by_name(name)
    assert task.is_finished(text) in (True, False)
    answer = task.final_answer(question(name), text)
    assert (answer is None) == (task.verdict(question(name), text) is Verdict.UNREADABLE)


@pytest.mark.parametrize("name", NAMES)
def test_a_chain_is_finished_once_it_states_its_answer(name: str) -> None:
    task = tasks.by_name(name)
    stated = (
        f"We look closely.\nThe answer is {'(B) a microscope' if 'choice' in name else REFERENCES[name]}."
    )
    if name == "scienceqa":
        stated = "We look closely.\nThe answer is (B) a microscope."
    assert task.is_finished(stated)
    assert not task.is_finished("We look closely at 3 of them, on 12/24/1899, no doubt.\n")


@pytest.mark.parametrize("name", NAMES)
def test_the_chain_so_far_ends_the_user_turn(name: str) -> None:
    prompt = tasks.by_name(name).prompt(question(name), "First I look.\n")
    assert [message.role for message in prompt.messages] == ["user"]
    assert prompt.messages[0].content.endswith("First I look.\n")
    assert prompt.question_id == "q"


def examples(task: Task) -> list[tuple[str, str]]:
    return list(getattr(task.prompting, "examples", ()))  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", NAMES)
def test_every_worked_example_ends_in_the_form_that_the_prompt_asks_for(name: str) -> None:
    task = tasks.by_name(name)
    for asked, answered in examples(task):
        *reasons, last = answered.splitlines()
        assert task.is_finished(last), asked
        assert not task.is_finished("\n".join(reasons)), asked


def test_the_house_is_asked_with_the_bare_question_and_the_chain() -> None:
    prompt = tasks.house().prompt(Question("1", "Two pens at $3?"), "2 * 3 = 6\n")
    assert [message.content for message in prompt.messages] == ["Two pens at $3?\n2 * 3 = 6\n"]
    assert tasks.house().steps("2 * 3 = 6\nThe answer is 6.\n") == ("2 * 3 = 6\n", "The answer is 6.\n")
    assert tasks.house().final_answer(Question("1", "?"), "2 * 3 = 6\n") is None


def test_sentences_are_not_cut_inside_numbers_or_abbreviations() -> None:
    text = "Dr. Who pays $1.50 for 3.5 oz. Bread, e.g. Rye, is extra.\n1. Count J. Doe too! Done.\n\nThe end"
    assert tasks.numeric().steps(text) == (
        "Dr. Who pays $1.50 for 3.5 oz. Bread, e.g. Rye, is extra.\n",
        "1. Count J. Doe too! ",
        "Done.\n\n",
        "The end",
    )


@pytest.mark.parametrize(
    "piece",
    [
        "answer ",
        "answer is ",
        "\\boxed{",
        "\\text{",
        "1,111",
        "1/",
        "....",
        "<<",
        "####",
        "(A) ",
        "yes\n",
        "{}",
        "-$",
        " \n",
        "it ",
    ],
)
def test_reading_takes_time_linear_in_the_text(piece: str) -> None:
    text = piece * (60_000 // len(piece))
    for name in ("numeric", "boolean", "choice", "date", "exact"):
        task = tasks.by_name(name)
        started = time.process_time()
        task.final_answer(question(name), text)
        task.is_finished(text)
        task.steps(text)
        assert time.process_time() - started < 2.0, name  # a quadratic reader takes minutes


def test_an_unknown_task_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'gsm8k'"):
        tasks.by_name("gms8k")


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["yes", "False", "no."], "boolean"),
        (["12/24/1899", "May 5, 2001"], "date"),
        (["1,000", "$5", "50%", "1/2", "-3"], "numeric"),
        (["5", "five apples"], "exact"),
        (["yes", "maybe"], "exact"),
    ],
)
def test_the_task_is_the_one_that_all_references_fit(answers: list[str], expected: str) -> None:
    rows = [Question(str(i), "?", answer=answer) for i, answer in enumerate(answers)]
    assert tasks.infer([*rows, Question("bare", "?")]).name == expected


def test_choices_and_lists_of_references_say_what_the_task_is() -> None:
    assert tasks.infer([Question("1", "?", answer="yes", choices=("yes", "no"))]).name == "choice"
    assert tasks.infer([Question("1", "?", correct_answers=("Nobody knows.",))]).name == "free_text"


def test_without_references_the_user_is_told_to_name_the_task() -> None:
    with pytest.raises(ConfigError, match="Name it with --task"):
        tasks.infer([Question("1", "?")])


def test_the_task_of_your_own_in_the_docstring_works() -> None:
    example = textwrap.dedent((tasks.__doc__ or "").partition("borrowed:\n\n")[2])
    assert example.startswith("@dataclass")
    names: dict[str, Any] = {"tasks": tasks, "dataclass": dataclasses.dataclass}
    exec(example, names)  # the documented text is what runs
    own = names["Shouted"]()
    asked = Question("1", "?", answer="PARIS!")
    assert isinstance(own, Task)
    assert own.verdict(asked, "It must be Paris!") is Verdict.RIGHT
    assert own.verdict(asked, "Rome!") is Verdict.WRONG
    assert own.prompt(asked).messages


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("gsm8k_gpt35", 0.995),
        ("strategyqa", 0.97),
        ("commonsenseqa", 0.993),
        ("worldtree", 0.97),
        ("openbookqa", 0.98),
        ("date_gpt35", 0.965),  # the labels want two digits for the day and the month
    ],
)
def test_verdicts_agree_with_the_labels_of_recorded_answers(
    shared_data: Path, name: str, least: float
) -> None:
    recorded = shared_data / "generation" / name / "dev.jsonl"
    rows = [json.loads(line) for line in recorded.read_text(encoding="utf-8").split("\n") if line]
    asked = [
        Question(row["id"], row["question"], answer=row["answer"], choices=tuple(row.get("choices", ())))
        for row in rows
    ]
    task = tasks.infer(asked)
    agreed = [
        (task.verdict(question, sample["text"]) is Verdict.RIGHT) == sample["correct"]
        for question, row in zip(asked, rows, strict=True)
        for sample in row["samples"]
    ]
    assert sum(agreed) / len(agreed) >= least


@settings(max_examples=100)
@given(st.from_regex(CUE))
def test_the_words_looked_for_first_stand_in_every_cue(text: str) -> None:
    assert any(word in text.casefold() for word in SAID)
