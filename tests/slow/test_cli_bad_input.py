"""Laws of bad input: one paragraph on stderr, exit code 2, nothing half-written. Commands run in-process."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trimtab.cli.app import main
from trimtab.energy.manifest import MANIFEST_NAME, WEIGHTS_NAME, Manifest, manifest_text, sha256_file

pytestmark = pytest.mark.slow

Run = Callable[..., tuple[int, str, str]]
GOOD = {
    "id": "1",
    "question": "What is 1 + 1?",
    "answer": "2",
    "samples": [{"text": "#### 2"}, {"text": "#### 3"}],
}


@pytest.fixture
def trimtab(tmp_path, monkeypatch, capsys) -> Run:
    """Runs a command line in a folder of its own: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["trimtab", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def rows(path: Path, *lines: object) -> Path:
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines), "utf-8")
    return path


def adapter(folder: Path) -> Path:
    folder.mkdir()
    (folder / WEIGHTS_NAME).write_bytes(b"weights of some kind")
    manifest = Manifest(task="numeric", backbone="offline", loss="ranking_nce", max_length=64)
    files = {WEIGHTS_NAME: sha256_file(folder / WEIGHTS_NAME)}
    (folder / MANIFEST_NAME).write_text(manifest_text(manifest.model_copy(update={"files": files})), "utf-8")
    return folder


def without(key: str) -> dict[str, object]:
    return {name: value for name, value in GOOD.items() if name != key}


def refused(given: tuple[int, str, str], *words: str) -> None:
    code, out, err = given
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    assert "\n\n" not in err.strip()
    for word in words:
        assert word in err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{broken", ["rows.jsonl:2"]),
        (without("question"), ["rows.jsonl:2", "question"]),
        (without("answer"), ["rows.jsonl:2", "answer"]),
        (without("samples"), ["rows.jsonl:2", "samples"]),
        ({**GOOD, "id": "2", "answr": "2"}, ["rows.jsonl:2", "answr", "answer"]),
        (GOOD, ["rows.jsonl:2", "id"]),
    ],
)
@pytest.mark.parametrize("command", [["adapt", "--out", "made"], ["evaluate"]])
def test_a_row_that_cannot_be_used_is_named_by_file_line_and_field(trimtab, tmp_path, command, line, words):
    file = rows(tmp_path / "rows.jsonl", GOOD, line)
    refused(trimtab(*command, "--recorded", file.name), *words)
    assert sorted(tmp_path.iterdir()) == [file]


def test_every_problem_of_a_file_is_reported_at_once(trimtab, tmp_path):
    rows(tmp_path / "rows.jsonl", "{broken", without("answer"), without("question"))
    refused(trimtab("adapt", "--recorded", "rows.jsonl", "--out", "made"), ":1:", ":2:", ":3:")


@pytest.mark.parametrize("command", ["adapt", "evaluate", "answer", "doctor"])
def test_an_unknown_key_in_the_config_file_is_refused_with_what_may_be_meant(trimtab, tmp_path, command):
    (tmp_path / "trimtab.toml").write_text('recordd = "rows.jsonl"\n')
    refused(trimtab(command, "trimtab.toml"), "trimtab.toml", "'recordd'", "did you mean 'recorded'?")
    assert [each.name for each in tmp_path.iterdir()] == ["trimtab.toml"]


def test_an_unknown_key_in_the_environment_is_refused(trimtab, monkeypatch):
    monkeypatch.setenv("TRIMTAB_DRAWZ", "4")
    refused(
        trimtab("evaluate", "--recorded", "rows.jsonl"), "environment", "'drawz'", "did you mean 'draws'?"
    )


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["adapt", "--recorded", "rows.jsonl"], ["--out is needed"]),
        (["adapt", "--out", "made"], ["--recorded", "--questions"]),
        (["adapt", "--questions", "rows.jsonl", "--out", "made"], ["--model"]),
        (["adapt", "--recorded", "none.jsonl", "--out", "made"], ["none.jsonl", "no such file"]),
        (["adapt", "--recorded", ".", "--out", "made"], ["."]),
        (["adapt", "--recorded", "rows.jsonl", "--out", "rows.jsonl"], ["out: rows.jsonl exists"]),
        (["adapt", "--recorded", "rows.jsonl", "--out", "."], ["out: . exists", "not an adapter folder"]),
        (["adapt", "--recorded", "rows.jsonl", "--out", "made", "--task", "numbr"], ["'numbr'", "numeric"]),
        (
            ["adapt", "--recorded", "rows.jsonl", "--out", "made", "--adapter", "none"],
            ["none is not an adapter"],
        ),
        (["adapt", "none.toml", "--out", "made"], ["none.toml: no such config file"]),
        (["adapt", "--draws", "0"], ["--draws: ", "0"]),
        (["adapt", "--loss", "hinge"], ["--loss: ", "'hinge'", "ranking_nce"]),
        (["adapt", "--draws", "many"], ["--draws"]),
        (["adapt", "--no-such-flag"], ["--no-such-flag"]),
        (["evaluate"], ["--recorded", "--questions"]),
        (["evaluate", "--recorded", "rows.jsonl", "--adapter", "none"], ["none is not an adapter folder"]),
        (["evaluate", "--recorded", "rows.jsonl", "--out", "rows.jsonl"], ["out: rows.jsonl is a file"]),
        (["evaluate", "--recorded", "rows.jsonl", "--require", "wins>=1"], ["require", "'wins'"]),
        (["evaluate", "--recorded", "rows.jsonl", "--require", "majority"], ["require", "NAME>=NUMBER"]),
        (["evaluate", "--questions", "questions.jsonl"], ["--model is needed"]),
        (["evaluate", "--questions", "questions.jsonl", "--model", "m"], ["OPENAI_API_KEY", "--base-url"]),
        (["evaluate", "--questions", "questions.jsonl", "--model", "m", "--base-url", "here"], ["here"]),
        (["answer", "--questions", "questions.jsonl"], ["--adapter, --model is needed"]),
        (["answer", "--adapter", "none", "--questions", "questions.jsonl", "--model", "m"], ["none is not"]),
        (["feedback", "import", "none.jsonl"], ["none.jsonl", "no such file"]),
        (["feedback", "import", "rows.jsonl"], ["rows.jsonl:1"]),
        (["nonsense"], ["nonsense"]),
    ],
    ids=lambda value: " ".join(value)[:60],
)
def test_what_cannot_be_used_is_refused_and_named(trimtab, tmp_path, args, words):
    rows(tmp_path / "rows.jsonl", GOOD)
    rows(tmp_path / "questions.jsonl", without("samples"))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    refused(trimtab(*args), *words)
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != ".trimtab"}
    assert left == before


@pytest.mark.parametrize(
    "args",
    [
        ["evaluate", "--recorded", "rows.jsonl"],
        ["answer", "--questions", "rows.jsonl", "--model", "m", "--base-url", "http://127.0.0.1:9/v1"],
        ["adapt", "--recorded", "rows.jsonl", "--out", "made"],
    ],
    ids=lambda args: args[0],
)
def test_an_adapter_with_a_flipped_byte_is_refused_by_the_name_of_its_file(trimtab, tmp_path, args):
    folder, file = adapter(tmp_path / "adapter"), rows(tmp_path / "rows.jsonl", GOOD)
    weights = bytearray((folder / WEIGHTS_NAME).read_bytes())
    weights[3] ^= 1
    (folder / WEIGHTS_NAME).write_bytes(weights)
    refused(trimtab(*args, "--adapter", folder), str(folder / WEIGHTS_NAME), "SHA-256")
    assert {path for path in tmp_path.iterdir() if path.name != ".trimtab"} == {folder, file}


def test_a_message_keeps_what_would_read_as_markup(trimtab, tmp_path):
    refused(trimtab("evaluate", "--recorded", "[bold]none[/].jsonl"), "[bold]none[/].jsonl")


def test_doctor_says_what_is_missing_and_ends_with_1(trimtab, tmp_path):
    code, out, _ = trimtab("doctor", "--adapter", "none", "--json")
    found = {each["subject"]: each for each in json.loads(out)}
    assert code == 1
    assert found["adapter"]["is_fine"] is False
    assert "none is not an adapter folder" in found["adapter"]["detail"]
    assert found["store"]["is_fine"] is True


def test_doctor_is_content_where_nothing_is_wrong(trimtab):
    code, out, _ = trimtab("doctor", "--json")
    assert code == 0
    assert all(set(each) == {"subject", "is_fine", "detail"} for each in json.loads(out))
    assert {"trimtab", "store", "extra train", "extra serve", "extra offline"} <= {
        each["subject"] for each in json.loads(out)
    }


def test_feedback_imported_twice_is_there_once(trimtab, tmp_path):
    said = [
        {"question": "What is 1 + 1?", "text": "#### 2", "verdict": "right"},
        {"prompt": "What is 1 + 1?", "chosen": "#### 2", "rejected": "#### 3"},
        {"question": "What is 1 + 1?", "correction": "1 + 1 = 2\n#### 2"},
    ]
    rows(tmp_path / "said.jsonl", *said)
    found = [trimtab("feedback", "import", "said.jsonl", "--json") for _ in range(2)]
    assert [code for code, _, _ in found] == [0, 0]
    assert [json.loads(out) for _, out, _ in found] == [{"rows": 3, "new": 3}, {"rows": 3, "new": 0}]


def test_one_bad_row_keeps_all_feedback_out(trimtab, tmp_path):
    good = {"question": "What?", "text": "This.", "verdict": "right"}
    rows(tmp_path / "said.jsonl", good, {**good, "verdict": "maybe"})
    refused(trimtab("feedback", "import", "said.jsonl"), "said.jsonl:2", "verdict")
    rows(tmp_path / "said.jsonl", good)
    assert json.loads(trimtab("feedback", "import", "said.jsonl", "--json")[1])["new"] == 1


def test_evaluate_without_an_adapter_measures_the_black_box_itself(trimtab, tmp_path):
    rows(tmp_path / "rows.jsonl", GOOD, {**GOOD, "id": "2", "question": "What is 0 + 2?"})
    code, out, _ = trimtab("evaluate", "--recorded", "rows.jsonl", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["asked"] == 2
    assert found["accuracy"]["single"]["value"] == 0.5
    assert found["accuracy"]["oracle"]["value"] == 1.0


def test_a_missed_target_ends_with_3_and_says_what_was_reached(trimtab, tmp_path):
    rows(tmp_path / "rows.jsonl", GOOD)
    code, out, err = trimtab("evaluate", "--recorded", "rows.jsonl", "--json", "--require", "single>=0.9")
    assert code == 3
    assert "required single>=0.9, reached 0.5" in err
    assert json.loads(out)["asked"] == 1
    assert trimtab("evaluate", "--recorded", "rows.jsonl", "--require", "single>=0.5")[0] == 0


def test_a_dry_run_says_what_would_be_asked_and_leaves_nothing(trimtab, tmp_path):
    many = [{**without("samples"), "id": str(n), "question": f"What is {n} + 1?"} for n in range(20)]
    rows(tmp_path / "questions.jsonl", *many)
    live = [
        "--questions",
        "questions.jsonl",
        "--model",
        "m",
        "--base-url",
        "http://127.0.0.1:9/v1",
        "--dry-run",
    ]
    code, out, err = trimtab("adapt", *live, "--out", "made", "--draws", 4, "--rounds", 1)
    assert (code, out) == (0, "")
    assert "Nothing was asked" in err
    assert [path.name for path in tmp_path.iterdir()] == ["questions.jsonl"]


def test_a_question_that_is_held_out_is_not_learnt_from(trimtab, tmp_path):
    many = [{**GOOD, "id": str(n), "question": f"What is {n} + 1?"} for n in range(10)]
    rows(tmp_path / "train.jsonl", *many)
    rows(tmp_path / "dev.jsonl", *[{**each, "id": f"dev {each['id']}"} for each in many[7:]])
    args = ["adapt", "--recorded", "train.jsonl", "--dev", "dev.jsonl", "--out", "made", "--dry-run"]
    code, _, err = trimtab(*args)
    assert code == 0
    assert "3 questions are held out too; they are not learnt from" in err
    assert "7 questions to learn from, 3 held out" in err


@pytest.mark.parametrize("is_given", [True, False])
def test_a_warm_start_learns_from_no_question_that_is_held_out_of_the_live_ones(trimtab, tmp_path, is_given):
    many = [{**GOOD, "id": str(n), "question": f"What is {n} + 1?"} for n in range(40)]
    questions = [{key: value for key, value in each.items() if key != "samples"} for each in many]
    rows(tmp_path / "recorded.jsonl", *many)
    rows(tmp_path / "questions.jsonl", *questions)
    rows(tmp_path / "dev.jsonl", *questions[:5])
    args = ["adapt", "--recorded", "recorded.jsonl", "--questions", "questions.jsonl", "--model", "m"]
    dev = ["--dev", "dev.jsonl"] if is_given else []
    code, _, err = trimtab(*args, *dev, "--base-url", "http://127.0.0.1:9/v1", "--out", "made", "--dry-run")
    assert code == 0
    found = re.search(r"(\d+) questions to learn from, (\d+) held out", err)
    learnt, held_out = int(found[1]), int(found[2])
    assert learnt + held_out == 40
    assert f"{held_out} questions are held out too" in err
