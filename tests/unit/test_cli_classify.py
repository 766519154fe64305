"""Bad input of `trimtab classify`: every problem is named, and nothing is half-written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trimtab.cli.app import main

GOOD = [{"text": "fine", "label": "a"}, {"text": "poor", "label": "b"}]
NAMES = {"a": "Praise.", "b": ["Blame."]}


@pytest.mark.parametrize(
    ("rows", "labels", "said"),
    [
        (GOOD, {"a": "Praise.", "b": None}, "b: the description is missing"),
        (GOOD, {"a": "Praise.", "b": []}, "b: the description is missing"),
        ([*GOOD, {"text": "odd", "label": "c"}], NAMES, "train.jsonl:3: label: 'c' is not among"),
        ([*GOOD, {"text": " ", "label": "a"}], NAMES, "train.jsonl:3: text: is empty"),
        ([GOOD[0], GOOD[0]], NAMES, "all rows have one label"),
        ([GOOD[0], {**GOOD[1], "text_pair": "x"}], NAMES, "train.jsonl:2: text_pair: texts and pairs"),
        ([{"text": "fine"}], NAMES, "train.jsonl:1: label: missing"),
    ],
)
def test_bad_input_to_fit_is_named_and_leaves_nothing_behind(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rows: list[dict[str, str]],
    labels: object,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("labels.json").write_text(json.dumps(labels))
    code = _run(monkeypatch, "fit --train train.jsonl --labels labels.json --out made")
    assert code == 2
    assert said in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.json", "train.jsonl"]


def _run(monkeypatch: pytest.MonkeyPatch, line: str) -> int | str | None:
    monkeypatch.setattr("sys.argv", ["trimtab", "classify", *line.split()])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code
