"""Laws of feedback's formats: what is written is read again, as JSONL, Label Studio's tasks and pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.cli.feedback import export_feedback, import_feedback
from trimtab.cli.settings import resolve
from trimtab.data import Feedback, FeedbackKind
from trimtab.errors import DataError
from trimtab.feedback import FormatName, as_json_lines, as_label_studio, as_preferences, read_feedback, votes

KINDS = FeedbackKind
WORDS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12).filter(str.strip)
ABOUT = {"source": WORDS, "inference_id": st.none() | WORDS}


def value_of(kind: FeedbackKind, texts: list[str]) -> st.SearchStrategy[str]:
    match kind:
        case KINDS.VERDICT:
            return st.sampled_from(["right", "wrong"])
        case KINDS.RATING:
            return st.floats(0, 1).map(repr)
        case KINDS.COMMENT:
            return WORDS
        case KINDS.PREFERENCE:
            return st.just(texts[1])
        case KINDS.RANKING:
            return st.just(json.dumps(texts[1:]))
        case KINDS.CORRECTION:
            return st.just("")


@st.composite
def said(draw: st.DrawFn, kinds: tuple[FeedbackKind, ...] = tuple(KINDS)) -> Feedback:
    kind = draw(st.sampled_from(kinds))
    texts = draw(st.lists(WORDS, min_size=2, max_size=4, unique=True))
    about = {name: draw(each) for name, each in ABOUT.items()}
    return Feedback(draw(WORDS), kind, texts[0], draw(value_of(kind, texts)), **about)


def with_ids(rows: list[Feedback]) -> list[Feedback]:
    return [
        Feedback(
            f.question, f.kind, f.text, f.value, f.source, f"id-{at}" if at % 2 else None, f.inference_id
        )
        for at, f in enumerate(rows)
    ]


def written(folder: Path, rows: list[Feedback], form: FormatName) -> Path:
    file = folder / "feedback"
    if form == "label-studio":
        file.write_text(json.dumps(as_label_studio(rows)), "utf-8")
    else:
        lines = as_preferences(rows) if form == "preferences" else as_json_lines(rows)
        file.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return file


@pytest.mark.parametrize("form", ["jsonl", "label-studio"])
@given(drawn=st.lists(said(), min_size=1, max_size=6))
def test_what_is_written_is_read_again_as_it_was(tmp_path_factory, form, drawn):
    rows = with_ids(drawn)
    assert list(read_feedback(written(tmp_path_factory.mktemp("f"), rows, form), form)) == rows


@given(drawn=st.lists(said((KINDS.PREFERENCE,)), min_size=1, max_size=6))
def test_preferences_come_back_from_pairs_as_they_were(tmp_path_factory, drawn):
    rows = with_ids(drawn)
    folder = tmp_path_factory.mktemp("f")
    assert list(read_feedback(written(folder, rows, "preferences"), "preferences")) == rows


def test_pairs_put_what_was_called_right_before_what_was_called_wrong():
    rows = [
        Feedback("q?", KINDS.VERDICT, "good", "right"),
        Feedback("q?", KINDS.CORRECTION, "better"),
        Feedback("q?", KINDS.RATING, "bad", "0.1"),
        Feedback("other?", KINDS.VERDICT, "alone", "right"),
        Feedback("q?", KINDS.COMMENT, "bad", "words"),
    ]
    pairs = [json.loads(line) for line in as_preferences(rows)]
    assert [(each["chosen"], each["rejected"]) for each in pairs] == [("good", "bad"), ("better", "bad")]
    assert {each["source"] for each in pairs} == {"derived"}


def test_a_pair_that_somebody_preferred_is_not_derived_again():
    rows = [Feedback("q?", KINDS.PREFERENCE, "a", "b"), Feedback("q?", KINDS.RANKING, "a", '["b"]')]
    assert len(list(as_preferences(rows))) == 1


def test_an_annotators_choice_in_label_studio_is_taken_over_from_its_export(tmp_path):
    exported = [
        {
            "id": 7,
            "data": {"question": "q?", "answer": "left text", "other": "right text"},
            "annotations": [
                {"completed_by": {"email": "ann@x"}, "was_cancelled": True, "result": [{"broken": 1}]},
                {
                    "completed_by": 3,
                    "result": [
                        {"from_name": "preference", "type": "pairwise", "value": {"selected": "right"}},
                        {"from_name": "correction", "type": "textarea", "value": {"text": ["so 4"]}},
                    ],
                },
            ],
        }
    ]
    file = tmp_path / "export.json"
    file.write_text(json.dumps(exported), "utf-8")
    assert read_feedback(file, "label-studio") == (
        Feedback("q?", KINDS.PREFERENCE, "right text", "left text", "3"),
        Feedback("q?", KINDS.CORRECTION, "so 4", "", "3"),
    )


@pytest.mark.parametrize(
    ("tasks", "named"),
    [
        ("{", "cannot be read as JSON"),
        ('{"data": {}}', "a JSON list of tasks"),
        ('[{"annotations": []}]', "task 1"),
        ('[{"data": {"question": "q?"}, "annotations": [{"result": [{"from_name": "mood"}]}]}]', "task 1"),
        (
            '[{"data": {"question": "q?", "answer": "a"}, "annotations": [{"result": '
            '[{"from_name": "verdict", "value": {"choices": ["maybe"]}}]}]}]',
            "right or wrong",
        ),
    ],
)
def test_tasks_that_are_not_ours_are_refused_by_number(tmp_path, tasks, named):
    file = tmp_path / "export.json"
    file.write_text(tasks, "utf-8")
    with pytest.raises(DataError, match=named):
        read_feedback(file, "label-studio")


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"question": "q", "text": "t", "rating": 2}, "rating"),
        ({"question": "q", "ranking": ["one"]}, "ranking"),
        ({"question": "q", "ranking": ["one", "one"]}, "ranking"),
        ({"question": "q", "comment": ""}, "comment"),
    ],
)
def test_bad_rows_are_refused_by_field(tmp_path, row, field):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row), "utf-8")
    with pytest.raises(DataError, match=field):
        read_feedback(file, "jsonl")


def test_the_command_line_exports_what_another_store_imports(tmp_path, capsys):
    here, there = (resolve(None, {"work_dir": tmp_path / name}, {}) for name in ("here", "there"))
    rows: list[dict[str, Any]] = [
        {"question": "q?", "text": "a", "verdict": "right", "source": "ann", "id": "1"},
        {"question": "q?", "ranking": ["a", "b", "c"], "source": "bob"},
    ]
    first, middle, last = (tmp_path / name for name in ("a.jsonl", "b.json", "c.jsonl"))
    first.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    import_feedback(first, here, False)
    export_feedback(middle, here, form="label-studio")
    import_feedback(middle, there, True, form="label-studio")
    assert json.loads(capsys.readouterr().out) == {"rows": 2, "new": 2}
    export_feedback(last, there)
    assert [json.loads(line) for line in last.read_text("utf-8").splitlines()] == rows


def test_votes_of_a_ranking_run_evenly_from_for_to_against():
    ranking = Feedback("q?", KINDS.RANKING, "a", '["b", "c"]')
    assert list(votes(ranking)) == [("a", 1.0), ("b", 0.0), ("c", -1.0)]


@given(row=said())
def test_votes_lie_between_against_and_for(row):
    assert all(-1 <= vote <= 1 for _, vote in votes(row))
