"""The law of `trimtab estimate`: with a probe, what it says is within 20 % of what the run then spends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from trimtab.llm.embedded import running
from trimtab.llm.embedded.world import questions as world_questions
from trimtab.store import Store
from trimtab.types import Usage

pytestmark = pytest.mark.slow

TRIMTAB = Path(sys.executable).with_name("trimtab")
BOX = ["--model", "trimtab-blackbox", "--task", "house", "--max-tokens", "96"]
PRICES = ["--usd-per-million-in", "2", "--usd-per-million-out", "10"]
SMALL = ["--max-length", "64", "--lr", "0.005", "--epochs", "1"]


def document(*args: object) -> dict[str, Any]:
    """What a command prints with --json; it must succeed."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TRIMTAB_")}
    environment.pop("OPENAI_API_KEY", None)
    done = subprocess.run(
        [str(TRIMTAB), *map(str, args), "--json"],
        capture_output=True,
        text=True,
        env={**environment, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def blackbox() -> Iterator[str]:
    with running() as url:
        yield url


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rows = [{"id": q.id, "question": q.text, "answer": q.answer} for q in world_questions(7, 54, "heldout")]
    for name, some in (("house.jsonl", rows[:40]), ("dev.jsonl", rows[40:])):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in some), "utf-8")
    return folder


def paid(work: Path, kind: str) -> Usage:
    """What the runs of a kind have paid."""
    with closing(Store.open(work / "store.db")) as store:
        return sum((store.usage_of(run.id) for run in store.runs() if run.kind == kind), Usage())


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, data, blackbox, tiny_backbone) -> dict[str, Any]:
    """A small adapt, estimated and then run; and the estimate's and the run's cost."""
    folder = tmp_path_factory.mktemp("adapt")
    shared = [
        *("--questions", data / "house.jsonl", "--dev", data / "dev.jsonl", *BOX, "--base-url", blackbox),
        *("--draws", 4, "--rounds", 1, *PRICES, "--work-dir", folder / "work"),
    ]
    blind = document("estimate", "--for-command", "adapt", *shared)
    probed = document("estimate", "--for-command", "adapt", *shared, "--probe", 10)
    out = folder / "adapter"
    document("adapt", *shared, "--backbone", tiny_backbone, *SMALL, "--out", out)
    return {"blind": blind, "probed": probed, "paid": paid(folder / "work", "adapt"), "adapter": out}


def within(estimate: dict[str, Any], spent: Usage, share: float) -> None:
    """The expected cost is as near as that to what was spent, and the worst case is not below it."""
    expected, worst = estimate["expected"], estimate["worst"]
    assert expected["usd"] == pytest.approx(spent.usd, rel=share)
    assert expected["output_tokens"] == pytest.approx(spent.output_tokens, rel=share)
    assert expected["input_tokens"] == pytest.approx(spent.input_tokens, rel=share)
    assert worst["usd"] >= (spent.usd or 0.0)
    assert worst["calls"] >= spent.calls


def test_a_small_adapt_costs_what_its_estimate_said(adapted):
    assert adapted["probed"]["grounds"][0]["source"] == "measured"
    assert adapted["probed"]["probe"]["calls"] == 10
    within(adapted["probed"], adapted["paid"], 0.2)
    assert adapted["probed"]["expected"]["calls"] == adapted["paid"].calls == 2 * 40 + 14 - 10


def test_an_estimate_that_knows_nothing_says_so_and_has_the_cost_between_its_bounds(adapted):
    blind = adapted["blind"]
    assert blind["grounds"][0]["source"] == "assumed"
    assert blind["expected"]["calls"] == 2 * 40 + 14
    assert blind["low"]["usd"] < adapted["paid"].usd < blind["high"]["usd"]


def answering(folder: Path, data: Path, url: str, adapter: Path) -> list[object]:
    return [
        *("--questions", data / "house.jsonl", "--adapter", adapter, *BOX, "--base-url", url),
        *("--draws", 6, *PRICES, "--work-dir", folder / "work"),
    ]


def test_answering_costs_what_its_estimate_said(tmp_path, data, blackbox, adapted):
    shared = answering(tmp_path, data, blackbox, adapted["adapter"])
    estimate = document("estimate", "--for-command", "answer", *shared, "--probe", 8)
    again = document("estimate", "--for-command", "answer", *shared, "--probe", 8)
    assert again["probe"]["calls"] == 0  # it was paid for
    document("answer", *shared)
    spent = paid(tmp_path / "work", "answer")
    assert estimate["expected"]["calls"] == spent.calls == 40 - 8
    within(estimate, spent, 0.2)
    assert document("estimate", "--for-command", "answer", *shared)["expected"]["usd"] == 0


def test_other_questions_cost_what_history_says(tmp_path, data, blackbox, adapted):
    shared = answering(tmp_path, data, blackbox, adapted["adapter"])
    document("answer", *shared)
    first = paid(tmp_path / "work", "answer")
    estimate = document("estimate", "--for-command", "answer", *shared, "--seed", 1)
    assert estimate["grounds"][0]["source"] == "history"
    document("answer", *shared, "--seed", 1)
    both = paid(tmp_path / "work", "answer")
    assert both.usd is not None
    assert first.usd is not None
    assert estimate["expected"]["usd"] == pytest.approx(both.usd - first.usd, rel=0.2)


def test_a_search_costs_what_its_estimate_said(tmp_path, data, blackbox, adapted):
    shared = [*answering(tmp_path, data, blackbox, adapted["adapter"]), "--search", "beam", "--width", 2]
    estimate = document("estimate", "--for-command", "answer", *shared, "--probe", 8)
    document("answer", *shared)
    spent = paid(tmp_path / "work", "answer")
    assert estimate["expected"]["usd"] == pytest.approx(spent.usd, rel=0.2)
    assert estimate["worst"]["usd"] >= (spent.usd or 0.0)
