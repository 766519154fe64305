"""Laws of limits on real runs against a real server: kept, ended cleanly, and gone on from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from trimtab.energy import read_manifest
from trimtab.llm.embedded import running
from trimtab.llm.embedded.world import questions as world_questions
from trimtab.store import Store
from trimtab.types import Usage

pytestmark = pytest.mark.slow

TRIMTAB = Path(sys.executable).with_name("trimtab")
SMALL = ["--max-length", "64", "--lr", "0.005", "--epochs", "1"]
BOX = ["--model", "trimtab-blackbox", "--task", "house", "--max-tokens", "96", "--concurrency", "3"]
PRICES = ["--usd-per-million-in", "100", "--usd-per-million-out", "1000"]
SPENT, HERE = 4, 12  # exit code; questions


def environment() -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("TRIMTAB_")}
    inherited.pop("OPENAI_API_KEY", None)
    return {**inherited, "OMP_NUM_THREADS": "1"}


def trimtab(*args: object) -> subprocess.CompletedProcess[str]:
    command = [str(TRIMTAB), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300)


@pytest.fixture(scope="module")
def blackbox() -> Iterator[str]:
    with running() as url:
        yield url


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rows = [{"id": q.id, "question": q.text, "answer": q.answer} for q in world_questions(7, 18, "heldout")]
    for name, some in (("house.jsonl", rows[:HERE]), ("dev.jsonl", rows[HERE:])):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in some), "utf-8")
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, data, blackbox, tiny_backbone) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    done = trimtab(*adapting(folder, data, blackbox, tiny_backbone, rounds=0))
    assert done.returncode == 0, done.stderr
    return folder / "adapter"


def adapting(folder: Path, data: Path, url: str, backbone: Path, *, rounds: int = 1) -> list[object]:
    return [
        *("adapt", "--questions", data / "house.jsonl", "--dev", data / "dev.jsonl", *BOX),
        *("--base-url", url, "--draws", 4, "--rounds", rounds, "--backbone", backbone, *SMALL, *PRICES),
        *("--out", folder / "adapter", "--work-dir", folder / "work"),
    ]


def answering(folder: Path, data: Path, url: str, adapter: Path) -> list[object]:
    return [
        *("answer", "--questions", data / "house.jsonl", "--adapter", adapter, *BOX, "--base-url", url),
        *("--draws", 4, *PRICES, "--out", folder / "answers.jsonl", "--work-dir", folder / "work"),
    ]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text("utf-8").splitlines()]


def statuses(folder: Path) -> Counter[str]:
    return Counter(row["status"] for row in rows_of(folder))


def calls(url: str) -> int:
    with urllib.request.urlopen(f"{url}/stats", timeout=30) as reply:
        return int(json.load(reply)["calls"])


def paid(folder: Path) -> Usage:
    """All that the ledger in a folder has."""
    with closing(Store.open(folder / "work" / "store.db")) as store:
        return sum((cost.usage for cost in store.costs()), Usage())


# --------------------------------------------------------------------------- answer


@pytest.mark.parametrize(
    ("flag", "limit"), [("--max-calls", 5), ("--max-usd", 1.0), ("--max-total-tokens", 1500)]
)
def test_answer_ends_at_a_limit_and_goes_on_with_a_higher_one_without_repeating_a_call(
    tmp_path, data, blackbox, adapter, flag, limit
):
    command, before = answering(tmp_path, data, blackbox, adapter), calls(blackbox)
    first = trimtab(*command, flag, limit)
    assert first.returncode == SPENT, first.stderr
    spent = paid(tmp_path)
    assert {"--max-calls": spent.calls, "--max-usd": spent.usd}.get(
        flag, spent.input_tokens + spent.output_tokens
    ) <= limit
    found = statuses(tmp_path)
    assert sum(found.values()) == HERE
    assert 0 < found["failed"] < HERE
    failed = [row for row in rows_of(tmp_path) if row["status"] == "failed"]
    assert all(row["error"].startswith("budget spent: the limit of this run is") for row in failed)
    assert "goes on with a higher limit" in first.stderr

    second = trimtab(*command, flag, 1000 * limit)
    assert second.returncode == 0, second.stderr
    assert statuses(tmp_path)["failed"] == 0
    assert calls(blackbox) - before == paid(tmp_path).calls == HERE


def test_the_same_limit_again_spends_nothing_more(tmp_path, data, blackbox, adapter):
    command = [*answering(tmp_path, data, blackbox, adapter), "--max-calls", 5]
    assert trimtab(*command).returncode == SPENT
    first, before = rows_of(tmp_path), calls(blackbox)
    assert trimtab(*command).returncode == SPENT
    assert calls(blackbox) == before
    free = [{**row, "usage": None} for row in first]
    assert [{**row, "usage": None} for row in rows_of(tmp_path)] == free


@pytest.mark.parametrize("limits", [("--max-usd", 0), ("--max-calls", 0), ("--max-wall-s", 0.000001)])
def test_where_nothing_may_be_spent_nothing_is_asked_and_all_rows_say_why(
    tmp_path, data, blackbox, adapter, limits
):
    before = calls(blackbox)
    done = trimtab(*answering(tmp_path, data, blackbox, adapter), *limits)
    assert done.returncode == SPENT, done.stderr
    assert calls(blackbox) == before
    assert statuses(tmp_path) == {"failed": HERE}


def test_the_limit_of_a_key_holds_for_all_runs_together(tmp_path, data, blackbox, adapter):
    command = [*answering(tmp_path, data, blackbox, adapter), "--key-max-calls", 15]
    assert trimtab(*command).returncode == 0
    other = trimtab(*command, "--seed", 1)
    assert other.returncode == SPENT, other.stderr
    assert "the limit of key OPENAI_API_KEY is 15 calls" in other.stderr
    assert paid(tmp_path).calls == 15


def test_a_price_that_is_not_known_is_refused_before_anything_is_asked(tmp_path, data, blackbox, adapter):
    command = [each for each in answering(tmp_path, data, blackbox, adapter) if each not in PRICES]
    command[command.index("trimtab-blackbox")] = "some-model"
    before = calls(blackbox)
    done = trimtab(*command)
    assert done.returncode == 2
    assert "no price is known for model 'some-model'" in done.stderr
    limited = trimtab(*command, "--unpriced", "--max-usd", 1)
    assert limited.returncode == 2
    assert "a limit in dollars cannot be kept with --unpriced" in limited.stderr
    assert calls(blackbox) == before


def test_a_limit_is_kept_through_kill_9(tmp_path, data, blackbox, adapter):
    command = list(map(str, [*answering(tmp_path, data, blackbox, adapter), "--max-calls", 9]))
    for _ in range(3):
        before = calls(blackbox)
        process = subprocess.Popen(
            [str(TRIMTAB), *command], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and calls(blackbox) < before + 2:
            time.sleep(0.02)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait(60)
        assert paid(tmp_path).calls <= 9
    assert trimtab(*command).returncode == SPENT
    assert paid(tmp_path).calls == 9


# --------------------------------------------------------------------------- adapt


def test_adapt_ends_at_a_limit_with_the_best_it_has_and_a_higher_one_makes_the_same_of_it_as_none(
    tmp_path, data, blackbox, tiny_backbone
):
    limited, unbroken = tmp_path / "limited", tmp_path / "unbroken"
    command, before = adapting(limited, data, blackbox, tiny_backbone), calls(blackbox)
    weights, rounds = [], []
    for limit in (8, 22, 100):  # in the first draws; in the draws of round 1; not at all
        done = trimtab(*command, "--max-calls", limit)
        assert done.returncode == (0 if limit == 100 else SPENT), done.stderr
        assert paid(limited).calls <= limit
        manifest = read_manifest(limited / "adapter")
        weights.append(manifest.weights_sha256)
        rounds.append([each["round"] for each in manifest.metrics["rounds"]])
    assert rounds == [[0], [0, 1], [0, 1]]
    assert calls(blackbox) - before == paid(limited).calls == 2 * HERE + 6

    assert trimtab(*adapting(unbroken, data, blackbox, tiny_backbone)).returncode == 0
    assert read_manifest(unbroken / "adapter").weights_sha256 == weights[-1]


def test_adapt_without_any_money_says_so_and_leaves_no_adapter(tmp_path, data, blackbox, tiny_backbone):
    done = trimtab(*adapting(tmp_path, data, blackbox, tiny_backbone), "--max-calls", 0)
    assert done.returncode == SPENT
    assert "nothing could be learnt from what was drawn by then" in done.stderr
    assert not (tmp_path / "adapter").exists()


# --------------------------------------------------------------------------- evaluate


def evaluating(folder: Path, data: Path, url: str, adapter: Path) -> list[object]:
    return [
        *("evaluate", "--questions", data / "house.jsonl", "--adapter", adapter, *BOX, "--base-url", url),
        *("--draws", 4, *PRICES, "--work-dir", folder / "work", "--json"),
    ]


def test_evaluate_ends_at_a_limit_and_keeps_unasked_questions_in_the_denominator(
    tmp_path, data, blackbox, adapter
):
    done = trimtab(*evaluating(tmp_path, data, blackbox, adapter), "--max-calls", 7, "--require", "oracle>=1")
    assert done.returncode == SPENT, done.stderr
    counts = json.loads(done.stdout)
    assert (counts["asked"], counts["failed"]) == (HERE, HERE - 7)


def test_evaluate_refuses_where_nothing_was_answered(tmp_path, data, blackbox, adapter):
    done = trimtab(*evaluating(tmp_path, data, blackbox, adapter), "--max-calls", 0)
    assert done.returncode == SPENT
    assert "budget spent before any question was answered" in done.stderr
    assert done.stdout == ""
