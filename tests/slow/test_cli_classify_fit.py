"""`trimtab classify` as real processes with the offline encoder: fit, evaluate, predict."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from weather import DESCRIPTIONS, TRAIN

pytestmark = pytest.mark.slow

TEST = {
    "weather": ["clouds and thunder tonight", "a warm and dry morning"],
    "food": ["too much pepper in the stew", "fresh bread with butter"],
}


def trimtab(*args: object) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "trimtab"), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def written(path: Path, texts: dict[str, list[str]]) -> Path:
    rows = [{"text": text, "label": label} for label, each in texts.items() for text in each]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("classify")
    (folder / "labels.json").write_text(json.dumps(DESCRIPTIONS), "utf-8")
    train = written(folder / "train.jsonl", TRAIN)
    place = ("--labels", folder / "labels.json", "--out", folder / "mine", "--work-dir", folder / "work")
    done = trimtab("classify", "fit", "--train", train, *place, "--json")
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def test_a_handful_of_texts_and_descriptions_make_a_classifier(fitted):
    folder, told = fitted
    assert told["shots"] == 8
    test = written(folder / "test.jsonl", TEST)
    done = trimtab("classify", "evaluate", "--model", folder / "mine", "--data", test, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["asked"] == 4
    assert set(report["accuracy"]) == set(report["macro_f1"]) == {"value", "low", "high"}
    assert report["accuracy"]["value"] >= 0.75
    assert set(report["per_class"]) == set(DESCRIPTIONS)
    assert 0 <= report["ece"] <= 1
    assert sum(map(sum, report["confusion"]["counts"])) == 4


def test_predictions_come_with_probabilities_and_the_unsure_abstain(fitted):
    folder, _ = fitted
    test = written(folder / "asked.jsonl", TEST)
    for below, abstains in ((0.0, False), (1.0, True)):
        out = folder / f"labelled-{below}.jsonl"
        done = trimtab(
            *("classify", "predict", "--model", folder / "mine", "--input", test, "--out", out),
            *("--abstain-below", below),
        )
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
        assert [row["text"] for row in rows] == [text for each in TEST.values() for text in each]
        assert all(sum(row["probabilities"].values()) == pytest.approx(1) for row in rows)
        assert all((row["label"] is None) == abstains for row in rows)


def test_a_label_that_the_classifier_does_not_know_is_named(fitted):
    folder, _ = fitted
    test = written(folder / "other.jsonl", {"sport": ["a late goal"]})
    done = trimtab("classify", "evaluate", "--model", folder / "mine", "--data", test)
    assert done.returncode == 2
    assert "sport" in done.stderr


def test_a_classifier_with_a_flipped_byte_is_refused(fitted):
    folder, _ = fitted
    weights = next((folder / "mine").glob("*.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    test = written(folder / "again.jsonl", TEST)
    done = trimtab("classify", "evaluate", "--model", folder / "mine", "--data", test)
    weights.write_bytes(whole)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["evaluate --data", "predict -o found.jsonl -i"])
def test_a_folder_that_is_no_classifier_is_refused(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    written(Path("rows.jsonl"), TEST)
    done = trimtab("classify", *command.split(), "rows.jsonl", "--model", ".")
    assert done.returncode == 2
    assert "not a classifier's folder" in done.stderr
    assert not Path("found.jsonl").exists()
