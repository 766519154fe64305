"""Laws of `trimtab evaluate` as a process: seeds, other black boxes and adapters, going on after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trimtab.llm.embedded import running
from trimtab.llm.embedded.world import questions as world_questions

pytestmark = pytest.mark.slow

TRIMTAB = Path(sys.executable).with_name("trimtab")
BOX = ["--model", "trimtab-blackbox", "--task", "house", "--max-tokens", "96", "--draws", "2", "--unpriced"]


def environment() -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("TRIMTAB_")}
    return {**inherited, "OMP_NUM_THREADS": "1"}


def trimtab(*args: object) -> subprocess.CompletedProcess[str]:
    command = [str(TRIMTAB), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300)


def document(*args: object) -> dict[str, Any]:
    done = trimtab(*args, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def rows(path: Path, numbers: range) -> Path:
    written = [
        {
            "id": f"q{n}",
            "question": f"What is {n} + 1?",
            "answer": str(n + 1),
            "category": "odd" if n % 2 else "even",
            "samples": [
                {"text": f"The {way} way, {n + draw}. The answer is {n + (1 if way == 'blue' else 2)}."}
                for draw, way in enumerate(("blue", "red", "red" if n % 3 else "blue"))
            ],
        }
        for n in numbers
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in written), "utf-8")
    return path


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Path) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    document(
        *("adapt", "--recorded", rows(folder / "train.jsonl", range(40)), "--backbone", tiny_backbone),
        *("--max-length", 64, "--lr", 0.005, "--epochs", 1, "--out", folder / "mine"),
        *("--work-dir", folder / "work"),
    )
    return folder / "mine"


@pytest.fixture(scope="module")
def blackbox() -> Iterator[str]:
    with running() as url:
        yield url


def test_seeds_and_another_black_box_stand_side_by_side(tmp_path: Path, blackbox: str) -> None:
    problems = [
        {"id": each.id, "question": each.text, "answer": each.answer}
        for each in world_questions(3, 6, "heldout")
    ]
    questions = tmp_path / "house.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in problems), "utf-8")
    found = document(
        *("evaluate", "--questions", questions, *BOX, "--base-url", blackbox, "--seeds", 2),
        *("--against", "early=model:trimtab-blackbox-early", "--work-dir", tmp_path / "work"),
    )
    assert (found["asked"], found["clusters"]) == (12, 6)
    assert found["seeds"]["seeds"] == [0, 1]
    assert 0 <= found["accuracy"]["majority@early"]["value"] <= 1
    assert "majority_minus_majority@early" in found


def test_a_second_evaluation_finds_its_scores_and_an_adapter_against_itself_is_no_different(
    tmp_path: Path, adapter: Path
) -> None:
    asked = [
        *("evaluate", "--adapter", adapter, "--recorded", rows(tmp_path / "dev.jsonl", range(50, 70))),
        *("--against", f"same={adapter}", "--work-dir", tmp_path / "work"),
    ]
    first = document(*asked)
    (kept,) = (tmp_path / "work" / "scores").iterdir()
    before = kept.read_bytes()
    assert document(*asked) == first
    assert kept.read_bytes() == before
    (same,) = (name for name in first if name.endswith("@same"))
    assert (first[same]["value"], first[same]["won"], first[same]["lost"]) == (0.0, 0, 0)
    assert {name: each["asked"] for name, each in first["categories"].items()} == {"even": 10, "odd": 10}


def test_an_interrupted_evaluation_goes_on_where_it_was(tmp_path: Path, adapter: Path) -> None:
    asked = [
        *("evaluate", "--adapter", adapter, "--recorded", rows(tmp_path / "dev.jsonl", range(100, 700))),
        *("--budgets", "1", "--json"),
    ]
    work = tmp_path / "killed"
    command = [str(TRIMTAB), *map(str, [*asked, "--work-dir", work])]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()
    )
    kept = _first_scores(work / "scores", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = kept.read_bytes()
    resumed, whole = trimtab(*asked, "--work-dir", work), trimtab(*asked, "--work-dir", tmp_path / "whole")
    assert resumed.returncode == whole.returncode == 0, resumed.stderr
    found, wanted = json.loads(resumed.stdout), json.loads(whole.stdout)
    assert found["accuracy"] == wanted["accuracy"]
    assert kept.read_bytes().startswith(before[: before.rindex(b"\n") + 1])


def _first_scores(folder: Path, process: subprocess.Popen[bytes]) -> Path:
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        for path in folder.glob("*.jsonl"):
            if path.stat().st_size:
                return path
        time.sleep(0.005)
    raise AssertionError("no score was kept while it ran")


def test_a_damaged_file_of_scores_is_refused_with_2(tmp_path: Path, adapter: Path) -> None:
    asked = [
        *("evaluate", "--adapter", adapter, "--recorded", rows(tmp_path / "dev.jsonl", range(50, 56))),
        *("--work-dir", tmp_path / "work"),
    ]
    document(*asked)
    (kept,) = (tmp_path / "work" / "scores").iterdir()
    kept.write_text("not a score\n" + kept.read_text("utf-8"), "utf-8")
    done = trimtab(*asked)
    assert done.returncode == 2
    assert f"{kept.name}:1 is damaged" in done.stderr
    assert "Traceback" not in done.stderr
