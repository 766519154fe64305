"""Laws of imported logs: what is read of each format, what is grouped, and what is said of the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from trimtab.cli.app import app
from trimtab.data import load_recorded
from trimtab.errors import ConfigError, DataError, InputError
from trimtab.logs import LogFormat, read_logs
from trimtab.types import Question

Row = dict[str, Any]


def jsonl(folder: Path, *rows: object, name: str = "log.jsonl") -> Path:
    """Strings stand in the file as they are."""
    path = folder / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def document(folder: Path, value: object, name: str = "log.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(value, indent=2))
    return path


def samples(*paths: Path, form: LogFormat = "openai") -> list[tuple[str, str, list[str]]]:
    found = read_logs(paths, form)
    return [(row["id"], row["question"], [each["text"] for each in row["samples"]]) for row in found.rows]


def asking(question: str) -> Row:
    return {"model": "m", "messages": [{"role": "system", "content": "Be brief."}, user(question)]}


def user(content: object) -> Row:
    return {"role": "user", "content": content}


def completion(identity: str, *texts: str | None) -> Row:
    choices = [
        {"index": at, "message": {"role": "assistant", "content": text}} for at, text in enumerate(texts)
    ]
    return {"object": "chat.completion", "id": identity, "model": "m-1", "choices": choices, "usage": {}}


def generation(identity: str, question: object, answer: object, **more: object) -> Row:
    return {"id": identity, "type": "GENERATION", "input": question, "output": answer, "model": "m", **more}


def problems(excinfo: pytest.ExceptionInfo[DataError]) -> list[tuple[str, int, str]]:
    return [(Path(each.file).name, each.line, each.field) for each in excinfo.value.problems]


# --------------------------------------------------------------------------- OpenAI


def test_a_request_and_its_response_are_a_question_and_its_answers(tmp_path):
    rows = [
        {"request": asking("2+2?"), "response": completion("c1", "4", "5")},
        {"id": "mine", "request_body": json.dumps(asking("3+3?")), "response_body": completion("c2", "6")},
        {"request": {"url": "/v1", "body": asking("2+2?")}, "response": {"body": completion("c3", "four")}},
    ]
    assert samples(jsonl(tmp_path, *rows)) == [("c1#0", "2+2?", ["4", "5", "four"]), ("mine", "3+3?", ["6"])]


def test_what_is_written_is_what_the_loader_reads(tmp_path):
    log = jsonl(tmp_path, {"request": asking("2+2?"), "response": completion("c1", "4", "5")})
    out = tmp_path / "recorded.jsonl"
    told = CliRunner().invoke(app, ["import-logs", str(log), "--out", str(out), "--json"])
    assert told.exit_code == 0
    expected = {"rows": 1, "samples": 2, "duplicates": 0, "left_out": {}, "out": str(out)}
    assert json.loads(told.stdout) == expected
    (row,) = load_recorded(out, need_answer=False)
    assert row.question == Question("c1#0", "2+2?")
    assert [(each.text, each.model) for each in row.samples] == [("4", "m-1"), ("5", "m-1")]


def test_a_batch_finds_its_requests_by_custom_id_whatever_the_files_order(tmp_path):
    output = jsonl(
        tmp_path,
        {"id": "b1", "custom_id": "q2", "response": {"status_code": 200, "body": completion("c", "6")}},
        {"id": "b2", "custom_id": "q1", "response": {"status_code": 500, "body": {}}, "error": None},
        {"id": "b3", "custom_id": "q3", "response": None, "error": {"code": "batch_expired"}},
        name="output.jsonl",
    )
    asked = [{"custom_id": f"q{n}", "method": "POST", "body": asking(f"{n}?")} for n in (1, 2, 3)]
    found = read_logs([output, jsonl(tmp_path, *asked, name="input.jsonl")], "openai")
    assert [(row["id"], row["question"]) for row in found.rows] == [("q2", "2?")]
    assert found.left_out == {"the request failed": 2}


def test_a_batchs_output_without_its_input_names_the_request_it_needs(tmp_path):
    row = {"id": "b1", "custom_id": "q2", "response": {"status_code": 200, "body": completion("c", "6")}}
    with pytest.raises(DataError, match=r"log.jsonl:1: custom_id: no request 'q2' in these files") as raised:
        read_logs([jsonl(tmp_path, row)], "openai")
    assert problems(raised) == [("log.jsonl", 1, "custom_id")]


def test_two_requests_of_one_custom_id_are_refused(tmp_path):
    rows = [{"custom_id": "q", "body": asking("1?")}, {"custom_id": "q", "body": asking("2?")}]
    with pytest.raises(DataError, match=r":2: custom_id: 'q' asks something else at .*:1: body"):
        read_logs([jsonl(tmp_path, *rows)], "openai")


def test_stored_completions_find_their_messages_by_id(tmp_path):
    stored = {"object": "list", "data": [completion("chatcmpl-A", "4"), completion("chatcmpl-B-1", "6")]}
    messages = [
        {"id": "chatcmpl-A-0", **user("2+2?"), "content_parts": None},
        {"id": "chatcmpl-B-1-0", **user("3+3?")},
    ]
    pages = [
        document(tmp_path, {"object": "list", "data": [each]}, f"{at}.json")
        for at, each in enumerate(messages)
    ]
    found = samples(document(tmp_path, stored), *pages)
    assert found == [("chatcmpl-A", "2+2?", ["4"]), ("chatcmpl-B-1", "3+3?", ["6"])]


def test_a_stored_completion_without_its_messages_is_told_at_its_place(tmp_path):
    stored = {
        "object": "list",
        "data": [{**completion("c1", "4"), "messages": [user("2?")]}, completion("c2", "6")],
    }
    with pytest.raises(
        DataError, match=r"log.json: data.1.messages: missing, and no stored messages"
    ) as raised:
        read_logs([document(tmp_path, stored)], "openai")
    assert problems(raised) == [("log.json", 0, "data.1.messages")]


def test_a_fine_tuning_chat_ends_with_the_answer(tmp_path):
    chat = {"messages": [user("1?"), {"role": "assistant", "content": "1"}], "tools": [], "weight": 1}
    (found,) = samples(jsonl(tmp_path, chat, chat))
    assert found[0].startswith("chat-")
    assert found[1:] == ("1?", ["1", "1"]), "without ids the same words twice are two draws"


def test_a_responses_text_is_read_and_its_reasoning_is_not(tmp_path):
    said = {"type": "message", "content": [{"type": "output_text", "text": "4"}]}
    row = {"id": "r", "object": "response", "input": "2+2?", "output": [{"type": "reasoning"}, said]}
    assert samples(jsonl(tmp_path, row)) == [("r", "2+2?", ["4"])]


def test_an_old_text_completion_is_read(tmp_path):
    row = {"request": {"prompt": "2+2="}, "response": {"id": "t", "choices": [{"text": "4"}]}}
    assert samples(jsonl(tmp_path, row)) == [("t", "2+2=", ["4"])]


def test_parts_of_text_are_one_text_and_pictures_are_left_out(tmp_path):
    parts = [{"type": "text", "text": "What "}, {"type": "text", "text": "is it?"}]
    picture = [*parts, {"type": "image_url", "image_url": {"url": "data:"}}]
    rows = [
        {"request": {"messages": [user(parts)]}, "response": completion("a", "it")},
        {"request": {"messages": [user(picture)]}, "response": completion("b", "a cat")},
    ]
    found = read_logs([jsonl(tmp_path, *rows)], "openai")
    assert [row["question"] for row in found.rows] == ["What is it?"]
    assert found.left_out == {"it asks about more than text": 1}


def test_an_answer_that_calls_a_tool_is_left_out_and_counted(tmp_path):
    rows = [
        {"request": asking("a?"), "response": completion("a", None)},
        {"request": asking("b?"), "response": completion("b", "yes")},
    ]
    found = read_logs([jsonl(tmp_path, *rows)], "openai")
    assert sum(found.left_out.values()) == 1
    assert found.samples == 1


def test_earlier_turns_are_left_out_and_counted(tmp_path):
    turns = [user("1?"), {"role": "assistant", "content": "1"}, user("And 2?")]
    row = {"request": {"messages": turns}, "response": completion("a", "2")}
    found = read_logs([jsonl(tmp_path, row)], "openai")
    assert (found.rows[0]["question"], found.of_conversations) == ("And 2?", 1)


# --------------------------------------------------------------------------- Langfuse


def test_generations_are_read_and_spans_are_left_out(tmp_path):
    rows = [
        generation("g1", [user("2+2?")], {"role": "assistant", "content": "4"}, traceId="t1"),
        {"id": "s1", "type": "SPAN", "input": "x", "output": "y"},
        generation(
            "g2", json.dumps({"messages": [user("2+2?")]}), "four", provided_model_name="n", model=None
        ),
        generation("g3", "2+2?", None, level="ERROR"),
        {"id": "t1", "name": "chat", "input": "2+2?", "output": "4"},
    ]
    found = read_logs([jsonl(tmp_path, *rows)], "langfuse")
    texts = [{"text": "4", "model": "m", "id": "g1"}, {"text": "four", "model": "n", "id": "g2"}]
    assert found.rows == ({"id": "g1", "question": "2+2?", "samples": texts},)
    expected = {"no call of a model": 1, "the request failed": 1, "a trace whose generations are there": 1}
    assert found.left_out == expected


def test_a_downloaded_trace_is_read_by_its_observations(tmp_path):
    choices = {"choices": [{"message": {"content": "4"}}]}
    trace = {
        "trace": {"id": "t", "input": "a", "output": "b"},
        "observations": [generation("g", "2+2?", choices)],
    }
    assert samples(document(tmp_path, trace), form="langfuse") == [("g", "2+2?", ["4"])]


def test_traces_alone_are_read_by_what_went_in_and_came_out(tmp_path):
    page = {
        "data": [
            {"id": "t1", "input": {"question": "2+2?"}, "output": {"answer": "4"}, "observations": ["o"]},
            {
                "id": "t2",
                "input": "2+2?",
                "output": [{"type": "text", "text": "fo"}, {"type": "text", "text": "ur"}],
            },
        ],
        "meta": {"page": 1},
    }
    assert samples(document(tmp_path, page), form="langfuse") == [("t1", "2+2?", ["4", "four"])]


def test_what_langfuse_was_given_and_we_cannot_read_is_told_with_its_place(tmp_path):
    rows = [
        generation("g", {"pages": 3}, "4"),
        generation("h", "2?", 4),
        generation("i", [{"role": "bot"}], "4"),
    ]
    with pytest.raises(DataError) as raised:
        read_logs([jsonl(tmp_path, *rows)], "langfuse")
    assert problems(raised) == [
        ("log.jsonl", 1, "input"),
        ("log.jsonl", 2, "output"),
        ("log.jsonl", 3, "input.0.role"),
    ]


# -------------------------------------------------------------------------- duplicates, references, bad files


def test_what_is_logged_twice_counts_once(tmp_path):
    row = {"request": asking("2+2?"), "response": completion("c1", "4")}
    twice = [jsonl(tmp_path, row, name="a.jsonl"), jsonl(tmp_path, row, name="b.jsonl")]
    found = read_logs(twice, "openai")
    assert (found.samples, found.duplicates) == (1, 1)


def test_one_id_with_two_answers_is_refused(tmp_path):
    rows = [{"request": asking("2+2?"), "response": completion("c1", text)} for text in ("4", "5")]
    with pytest.raises(
        DataError, match=r"log.jsonl:2: .*the id 'c1' stands at .*log.jsonl:1: .* other words"
    ):
        read_logs([jsonl(tmp_path, *rows)], "openai")


def test_known_questions_give_ids_and_references_and_others_are_left_out(tmp_path):
    known = (Question("q7", "2+2?", "4", choices=("4", "5")),)
    rows = [
        {"request": asking(text), "response": completion(text, "4")} for text in ("2+2?", " 2+2? ", "3+3?")
    ]
    found = read_logs([jsonl(tmp_path, *rows)], "openai", known)
    (row,) = found.rows
    assert {key: row[key] for key in ("id", "answer", "choices")} == {
        "id": "q7",
        "answer": "4",
        "choices": ("4", "5"),
    }
    assert len(row["samples"]) == 2
    assert found.left_out == {"its question is not among those given": 1}


@pytest.mark.parametrize(
    ("text", "line", "field", "said"),
    [
        ("{\n", 1, "", "not usable JSON"),
        ('{"id": 1}\n{"a": NaN}\n', 2, "", "NaN is not a JSON number"),
        ('{"messages": "2?"}\n', 1, "messages", "a list is needed, not a string"),
        ('{"messages": []}\n{"messages": []}\n', 2, "messages", "no user turn"),
        ('{"messages": [{"content": "x"}]}', 1, "messages.0.role", "missing"),
        ('{"messages": [{"role": "user", "content": " "}]}', 1, "messages.0.content", "is empty"),
        ('{"messages": [{"role": "user", "content": 3}]}', 1, "messages.0.content", "not a number"),
        ('{"messages": [{"role": "user", "content": "2?"}]}', 1, "messages", "must be the assistant's"),
        ('{"response": {"choices": []}}', 1, "request", "missing"),
        ('{"request": {}, "response": {"choices": []}}', 1, "request", "what was asked is missing"),
        ('{"request": {"prompt": "a"}, "response": {"id": "b"}}', 1, "response.output", "missing"),
        ("", 0, "", "holds nothing"),
    ],
)
def test_what_is_wrong_is_named_with_file_line_and_field(tmp_path, text, line, field, said):
    with pytest.raises(DataError, match=said) as raised:
        read_logs([jsonl(tmp_path, text.removesuffix("\n"))], "openai")
    assert ("log.jsonl", line, field) in problems(raised)


def test_all_problems_of_all_files_are_told_together(tmp_path):
    bad = [jsonl(tmp_path, {"messages": 3}, {"messages": 4}, name=name) for name in ("a.jsonl", "b.jsonl")]
    with pytest.raises(DataError) as raised:
        read_logs([*bad, tmp_path / "missing.jsonl"], "openai")
    assert len(problems(raised)) == 5


def test_a_broken_document_is_one_problem_at_its_line(tmp_path):
    path = tmp_path / "log.json"
    path.write_text('[\n {"a": 1},\n {"a": }\n]')
    with pytest.raises(DataError) as raised:
        read_logs([path], "openai")
    assert problems(raised) == [("log.json", 3, "")]


def test_files_without_an_answer_say_what_was_left_out(tmp_path):
    with pytest.raises(
        InputError, match=r"no answer was found in these files\. 1 left out: no call of a model"
    ):
        read_logs([jsonl(tmp_path, {"id": "s", "type": "SPAN"})], "langfuse")


def test_an_unknown_format_is_refused_with_the_known_ones(tmp_path):
    told = CliRunner().invoke(app, ["import-logs", str(jsonl(tmp_path, {})), "--format", "csv"])
    assert isinstance(told.exception, ConfigError)
    assert "there are: openai, langfuse" in str(told.exception)


def test_json_needs_a_file_for_the_rows(tmp_path):
    told = CliRunner().invoke(app, ["import-logs", str(jsonl(tmp_path, {})), "--json"])
    assert isinstance(told.exception, ConfigError)
