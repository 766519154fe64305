"""Laws of the loader: what is read, and that every problem of a file is told at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trimtab.data import (
    Feedback,
    FeedbackKind,
    Kind,
    load_feedback,
    load_preferences,
    load_questions,
    load_recorded,
    read_recorded,
)
from trimtab.errors import DataError
from trimtab.types import Contrast, Question, Recorded, Sample


def write(folder: Path, *rows: object) -> Path:
    """A JSONL file; strings stand in it as they are."""
    path = folder / "rows.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def problems(excinfo: pytest.ExceptionInfo[DataError]) -> list[tuple[int, str]]:
    return [(problem.line, problem.field) for problem in excinfo.value.problems]


def chat(question: str, said: str, **more: object) -> dict[str, object]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": said}]
    return {"messages": turns, **more}


# --------------------------------------------------------------------------- what is read


def test_every_field_of_a_question_is_read(tmp_path: Path) -> None:
    row = {
        "id": "q1",
        "question": "Which?",
        "answer": "b",
        "rationale": "because",
        "choices": ["a", "b"],
        "correct_answers": ["b"],
        "incorrect_answers": ["a"],
    }
    expected = Question("q1", "Which?", "b", "because", ("a", "b"), ("b",), ("a",))
    assert load_questions(write(tmp_path, row)) == (expected,)


def test_what_a_row_says_of_its_question_is_read_with_it(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "question": "a?", "answer": "b", "category": "sums", "cluster": 7},
        {"id": "2", "question": "c?", "answer": "d"},
    ]
    kinds: dict[str, Kind] = {}
    load_questions(write(tmp_path, *rows), kinds=kinds)
    assert kinds == {"1": Kind("sums", "7")}
    samples = [{"text": "b", "id": "log-3"}]
    load_recorded(write(tmp_path, {**rows[1], "cluster": "c", "samples": samples}), kinds=kinds)
    assert kinds == {"1": Kind("sums", "7"), "2": Kind(None, "c")}


def test_recorded_answers_stand_in_the_order_drawn(tmp_path: Path) -> None:
    samples = [{"text": "4", "correct": True, "model": "m"}, {"text": "5", "model": ""}, {"text": "4"}]
    path = write(tmp_path, {"id": "a", "question": "2+2?", "answer": "4", "samples": samples})
    expected = (Sample("4", True, "m"), Sample("5"), Sample("4"))
    assert load_recorded(path) == (Recorded(Question("a", "2+2?", "4"), expected),)


@pytest.mark.parametrize(
    ("given", "read"), [(18, "18"), (18.0, "18"), (-0.5, "-0.5"), (10**30, str(10**30)), ("1,000", "1,000")]
)
def test_an_answer_given_as_a_number_is_read_as_its_text(tmp_path: Path, given: object, read: str) -> None:
    path = write(tmp_path, {"id": 7, "question": "How many?", "answer": given})
    assert load_questions(path) == (Question("7", "How many?", read),)


def test_a_character_written_as_an_escaped_pair_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, r'{"id": "a", "question": "\ud83d\ude00"}')
    assert load_questions(path)[0].text == "😀"


def test_a_row_may_say_null_where_it_has_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, {"id": "a", "question": "q", "answer": None, "choices": None, "rationale": None})
    assert load_questions(path) == (Question("a", "q"),)


def test_blank_lines_a_byte_order_mark_and_windows_line_ends_are_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id":"a","question":"q\xc3\xa9"}\r\n\r\n  \n{"id":"b","question":"r"}')
    assert [question.text for question in load_questions(path)] == ["qé", "r"]


def test_the_last_turns_of_a_chat_log_are_question_and_sample(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "4"},
    ]
    path = write(tmp_path, {"id": "c", "messages": turns, "answer": 4, "correct": True, "model": "m"})
    assert load_recorded(path) == (Recorded(Question("c", "2+2?", "4"), (Sample("4", True, "m"),)),)


def test_chat_logs_of_one_question_become_one_row_at_the_place_of_the_first(tmp_path: Path) -> None:
    path = write(tmp_path, chat("a?", "1"), chat("b?", "2"), chat(" a? ", "3", id="given"), chat("a?", "1"))
    first, second = load_recorded(path, need_answer=False)
    assert first == Recorded(Question("given", "a?"), (Sample("1"), Sample("3"), Sample("1")))
    assert second.question.text == "b?"
    assert second.question.id.startswith("chat-")


def test_preferences_of_one_prompt_become_one_contrast(tmp_path: Path) -> None:
    rows = [("p", "good", "bad"), ("q", "x", "y"), ("p", "better", "bad"), ("p", "good", "worse")]
    path = write(tmp_path, *({"prompt": p, "chosen": c, "rejected": r} for p, c, r in rows))
    first, second = load_preferences(path)
    assert (first.positives, first.negatives) == (("good", "better"), ("bad", "worse"))
    assert second == Contrast(second.question_id, "q", ("x",), ("y",))
    assert first.question_id != second.question_id


def test_no_contrast_holds_a_text_for_and_against(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {"prompt": "p", "chosen": "b", "rejected": "c"},
        {"prompt": "p", "chosen": "a", "rejected": "c"},
    )
    sides = [(contrast.positives, contrast.negatives) for contrast in load_preferences(path)]
    assert sides == [(("a",), ("b", "c")), (("b",), ("c",))]


def test_the_three_kinds_of_feedback_are_told_apart(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"question": "q", "text": "t", "verdict": "wrong", "source": "ann"},
        {"prompt": "q", "chosen": "c", "rejected": "r", "id": "f1"},
        {"question": "q", "correction": "should be this"},
    )
    assert load_feedback(path) == (
        Feedback("q", FeedbackKind.VERDICT, "t", "wrong", "ann"),
        Feedback("q", FeedbackKind.PREFERENCE, "c", "r", id="f1"),
        Feedback("q", FeedbackKind.CORRECTION, "should be this"),
    )


def test_the_same_words_of_one_source_are_one_feedback_and_of_two_sources_two() -> None:
    said = Feedback("q", FeedbackKind.VERDICT, "t", "right", "ann")
    assert said.key == Feedback("q", FeedbackKind.VERDICT, "t", "right", "ann").key
    assert said.key != Feedback("q", FeedbackKind.VERDICT, "t", "right", "bob").key


def test_an_id_is_one_of_its_source_and_question() -> None:
    said = Feedback("q", FeedbackKind.VERDICT, "t", "right", "ann", id="1")
    assert said.key == Feedback("q", FeedbackKind.VERDICT, "other words", "right", "ann", id="1").key
    assert said.key != Feedback("another", FeedbackKind.VERDICT, "t", "right", "ann", id="1").key
    assert said.key != Feedback("q", FeedbackKind.VERDICT, "t", "right", "bob", id="1").key


def test_every_shared_file_of_recorded_answers_loads(shared_data: Path) -> None:
    files = sorted((shared_data / "generation").glob("*/*.jsonl"))
    assert files
    for path in files:
        load = load_questions if path.parent.name.endswith("_questions") else load_recorded
        lines = path.read_bytes().count(b"\n")
        assert len(load(path, need_answer=True)) == lines, path


# --------------------------------------------------------------------------- what is refused


def test_all_problems_of_a_file_are_told_together_in_the_order_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b'{"id": "a", "question": "fine", "answer": "1", "samples": [{"text": "1"}]}\n'
        b'{"id": "b", "question": \n'
        b'{"id": "c", "question": "caf\xe9"}\n'
        b"[1]\n"
        b'{"id": "d", "answer": "1", "samples": [{"text": "1"}]}\n'
        b'{"id": "e", "question": "  ", "answer": "1", "samples": [{"text": "x"}, {"text": ""}]}\n'
        b'{"id": "f", "question": "q", "answer": "1", "samples": []}\n'
        b'{"id": "g", "question": 5, "answer": "1", "samples": "x"}\n'
        b'{"id": "a", "question": "again", "answer": "1", "samples": [{"text": "1"}]}\n'
        b'{"id": "h", "question": "no answer", "samples": [{"text": "1", "corect": true}]}\n'
        b'{"id": "i", "question": "no answer", "samples": [{"text": "1"}]}\n'
    )
    with pytest.raises(DataError) as excinfo:
        load_recorded(path)
    assert problems(excinfo) == [
        (2, ""),
        (3, ""),
        (4, ""),
        (5, "question"),
        (6, "question"),
        (6, "samples.1.text"),
        (7, "samples"),
        (8, "question"),
        (8, "samples"),
        (9, "id"),
        (10, "samples.0.corect"),
        (11, "answer"),
    ]
    message = str(excinfo.value)
    assert f"{path}:2: not JSON" in message
    assert f"{path}:3: not UTF-8" in message
    assert "did you mean 'correct'?" in message
    assert "stands on line 1 already" in message


@pytest.mark.parametrize(
    ("row", "field", "said"),
    [
        ({"id": "a", "qestion": "q"}, "qestion", "did you mean 'question'?"),
        ({"id": "a", "question": "q", "zzz": 1}, "zzz", "known: id, question"),
        ({"id": "a", "question": "q", "samples": []}, "samples", "recorded answers"),
        ({"id": "a", "question": "q", "answer": True}, "answer", "a string is needed, not a Boolean"),
        ({"id": "a", "question": "q", "answer": " "}, "answer", "is empty"),
        ({"id": None, "question": "q"}, "id", "not null"),
        ({"id": "a", "question": "q", "choices": "ab"}, "choices", "a list is needed, not a string"),
        ({"id": "a", "question": "q", "choices": ["a"]}, "choices", "at least 2"),
        ({"id": "a", "question": "q", "choices": [*"abcdefghijklmnopqrstuvwxyz", "+"]}, "choices", "26"),
        (
            {"id": "a", "question": "q", "choices": ["x", "y"], "answer": "z"},
            "answer",
            "not among the choices",
        ),
        ({"id": "a", "question": "half a pair \ud83d"}, "", "surrogate pair"),
        ('{"id": "a", "id": "b", "question": "q"}', "", "'id' stands twice"),
        ('{"id": "a", "question": "q", "answer": NaN}', "", "NaN is not a JSON number"),
        ("[" * 100_000, "", "not usable JSON"),
    ],
)
def test_a_bad_question_row_is_refused_with_its_field_and_reason(
    tmp_path: Path, row: object, field: str, said: str
) -> None:
    with pytest.raises(DataError) as excinfo:
        load_questions(write(tmp_path, row))
    told = {problem.field: problem.message for problem in excinfo.value.problems}
    assert said in told[field]


def test_a_missing_answer_is_a_problem_only_where_one_is_needed(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"id": "a", "question": "q"},
        {"id": "b", "question": "r", "correct_answers": ["yes"]},
        {"id": "c", "question": "s", "answer": "1"},
    )
    assert len(load_questions(path)) == 3
    with pytest.raises(DataError) as excinfo:
        load_questions(path, need_answer=True)
    assert problems(excinfo) == [(1, "answer")]


@pytest.mark.parametrize(
    ("turns", "field"),
    [
        ([("user", "q"), ("user", "again")], "messages"),
        ([("system", "s"), ("assistant", "a")], "messages"),
        ([("user", " "), ("assistant", "a")], "messages.0.content"),
        ([("user", "q"), ("assistant", "")], "messages.1.content"),
        ([("user", "q"), ("robot", "a")], "messages.1.role"),
        ([("user", "q")], "messages"),
    ],
)
def test_a_chat_log_without_question_or_answer_is_refused(
    tmp_path: Path, turns: list[tuple[str, str]], field: str
) -> None:
    messages = [{"role": role, "content": content} for role, content in turns]
    with pytest.raises(DataError) as excinfo:
        load_recorded(write(tmp_path, {"messages": messages}), need_answer=False)
    assert problems(excinfo) == [(1, field)]


def test_chat_logs_of_one_question_must_agree_on_its_answer(tmp_path: Path) -> None:
    with pytest.raises(DataError) as excinfo:
        load_recorded(write(tmp_path, chat("q", "a", answer="1"), chat("q", "b", answer="2")))
    assert problems(excinfo) == [(2, "answer")]


def test_rows_before_the_first_chat_log_are_given_while_the_file_is_read(tmp_path: Path) -> None:
    first, second = (
        {"id": each, "question": each, "answer": "1", "samples": [{"text": "1"}]} for each in "ab"
    )
    path = write(tmp_path, first, "not JSON", chat("c", "1", id="c", answer="1"), second, chat("c", "2"))
    reading = read_recorded(path)
    assert [next(reading).question.id for _ in range(3)] == ["a", "c", "b"]
    with pytest.raises(DataError) as excinfo:
        next(reading)
    assert problems(excinfo) == [(2, "")]


def test_recorded_answers_that_are_all_labelled_need_no_reference(tmp_path: Path) -> None:
    right, wrong = {"text": "1", "correct": True}, {"text": "2", "correct": False}
    path = write(
        tmp_path,
        {"id": "a", "question": "q", "samples": [right, wrong]},
        chat("r", "1", correct=False),
        chat("r", "2", correct=True),
    )
    assert len(load_recorded(path)) == 2
    path = write(
        tmp_path,
        {"id": "a", "question": "q", "samples": [right, {"text": "3"}]},
        chat("r", "1", correct=False),
        chat("r", "2"),
    )
    with pytest.raises(DataError, match="'correct' on every sample") as excinfo:
        load_recorded(path)
    assert problems(excinfo) == [(1, "answer"), (2, "answer")]


def test_a_recorded_row_without_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError) as excinfo:
        load_recorded(write(tmp_path, {"id": "a", "question": "q", "answer": "1"}))
    assert problems(excinfo) == [(1, "samples")]


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"prompt": "p", "chosen": "c"}, "rejected"),
        ({"prompt": "p", "chosen": "c", "rejected": "c"}, "rejected"),
        ({"prompt": "p", "chosen": "", "rejected": "r"}, "chosen"),
        ({"question": "q", "text": "t", "verdict": "maybe"}, "verdict"),
        ({"question": "q", "text": "t"}, "verdict"),
        ({"question": "q", "correction": ""}, "correction"),
    ],
)
def test_bad_feedback_is_refused_with_its_field(tmp_path: Path, row: dict[str, str], field: str) -> None:
    with pytest.raises(DataError) as excinfo:
        load_feedback(write(tmp_path, row))
    assert problems(excinfo) == [(1, field)]


def test_two_feedback_rows_of_one_id_are_refused(tmp_path: Path) -> None:
    row = {"id": "f", "question": "q", "correction": "c"}
    with pytest.raises(DataError) as excinfo:
        load_feedback(write(tmp_path, row, row))
    assert problems(excinfo) == [(2, "id")]


def test_a_missing_file_a_folder_and_a_file_without_rows_are_refused(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "none.jsonl", "no such file"), (tmp_path, "is a folder")):
        with pytest.raises(DataError, match=said):
            load_questions(path)
    with pytest.raises(DataError, match="holds no rows"):
        load_questions(write(tmp_path, "", "   "))


def test_a_message_spells_out_twenty_problems_and_counts_the_rest(tmp_path: Path) -> None:
    with pytest.raises(DataError) as excinfo:
        load_questions(write(tmp_path, *[{"id": str(n)} for n in range(25)]))
    assert len(excinfo.value.problems) == 25
    assert str(excinfo.value).endswith("… and 5 more")


def test_an_id_with_a_nul_is_refused_before_a_database_refuses_it(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"id": "a\0b", "question": "What?", "answer": "1"}) + "\n", "utf-8")
    with pytest.raises(DataError, match=r"rows\.jsonl:1: id: holds a NUL"):
        load_questions(file)
