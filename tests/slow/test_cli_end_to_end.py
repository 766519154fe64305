"""Laws of the commands as real processes: adapt, evaluate, answer, doctor, and going on after kill -9."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from loopback import said
from trimtab.energy import read_manifest, verify_adapter
from trimtab.llm.embedded import running
from trimtab.llm.embedded.world import questions as world_questions

pytestmark = pytest.mark.slow

TRIMTAB = Path(sys.executable).with_name("trimtab")
SMALL = ["--max-length", "64", "--lr", "0.005", "--epochs", "2"]
BOX = ["--model", "trimtab-blackbox", "--task", "house", "--max-tokens", "96"]
METHODS = ("single", "majority", "best_of_n", "weighted_vote", "oracle")


def environment(**more: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("TRIMTAB_")}
    inherited.pop("OPENAI_API_KEY", None)
    return {**inherited, "OMP_NUM_THREADS": "1", **more}


def trimtab(*args: object, **more: str) -> subprocess.CompletedProcess[str]:
    command = [str(TRIMTAB), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(**more), timeout=300)


def document(*args: object, **more: str) -> dict[str, Any]:
    """What a command prints with --json; it must succeed."""
    done = trimtab(*args, "--json", **more)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def recorded_rows(numbers: range, draws: int = 6) -> list[dict[str, Any]]:
    """A black box that is mostly wrong, and says "red" when it is."""
    rng = random.Random(numbers.start)
    return [
        {
            "id": f"q{n}",
            "question": f"What is {n} + 1?",
            "answer": str(n + 1),
            "samples": [{"text": _said(n, rng.random())} for _ in range(draws)],
        }
        for n in numbers
    ]


def _said(number: int, chance: float) -> str:
    if chance < 0.4:
        return f"The blue way. The answer is {number + 1}."
    return f"The red way. The answer is {number + 2}." if chance < 0.95 else "What is it?"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write(folder / "train.jsonl", recorded_rows(range(60)))
    write(folder / "dev.jsonl", recorded_rows(range(60, 80)))
    write(folder / "test.jsonl", recorded_rows(range(80, 100)))
    problems = [
        {"id": each.id, "question": each.text, "answer": each.answer}
        for each in world_questions(7, 24, "heldout")
    ]
    write(folder / "house.jsonl", problems[:12])
    write(folder / "house_dev.jsonl", problems[12:18])
    write(folder / "house_test.jsonl", problems[18:])
    return folder


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, data, tiny_backbone) -> tuple[Path, dict[str, Any]]:
    """An adapter trained from recorded answers, and what `adapt --json` said of it."""
    folder = tmp_path_factory.mktemp("adapted")
    return folder / "adapter", document(*adapting(data, tiny_backbone, folder))


def adapting(data: Path, backbone: Path, folder: Path) -> list[object]:
    return [
        *("adapt", "--recorded", data / "train.jsonl", "--dev", data / "dev.jsonl"),
        *("--backbone", backbone, *SMALL),
        *("--out", folder / "adapter", "--work-dir", folder / "work"),
    ]


@pytest.fixture(scope="module")
def house_adapter(tmp_path_factory, data, tiny_backbone, blackbox) -> Path:
    """An adapter for the embedded black box, adapted online."""
    folder = tmp_path_factory.mktemp("house")
    document(*asking(blackbox, data, tiny_backbone, folder))
    return folder / "adapter"


def asking(url: str, data: Path, backbone: Path, folder: Path) -> list[object]:
    return [
        *("adapt", "--questions", data / "house.jsonl", "--dev", data / "house_dev.jsonl", *BOX),
        *("--base-url", url, "--draws", 4, "--rounds", 1, "--concurrency", 2),
        *("--backbone", backbone, *SMALL),
        *("--out", folder / "adapter", "--work-dir", folder / "work"),
    ]


@pytest.fixture(scope="module")
def blackbox() -> Iterator[str]:
    with running() as url:
        yield url


def calls(url: str) -> int:
    with urllib.request.urlopen(f"{url}/stats", timeout=30) as reply:
        return int(json.load(reply)["calls"])


# --------------------------------------------------------------------------- adapt, evaluate


def test_adapt_leaves_an_adapter_that_names_its_data_and_its_settings(adapted, tiny_backbone):
    folder, said = adapted
    manifest = verify_adapter(folder)
    assert said["weights_sha256"] == manifest.weights_sha256
    assert said["task"] == manifest.task == "numeric"
    assert said["usage"]["calls"] == 0
    assert manifest.backbone == str(tiny_backbone)
    assert manifest.settings["lr"] == 0.005
    assert manifest.data_hash
    assert manifest.metrics["dev_questions"] == 20
    assert [each["round"] for each in manifest.metrics["rounds"]] == [0]


def test_adapt_and_evaluate_leave_their_figures_for_tensorboard(adapted, data):
    folder, _ = adapted
    work = folder.with_name("work")
    evaluated = ("evaluate", "--adapter", folder, "--recorded", data / "test.jsonl", "--work-dir", work)
    document(*evaluated)
    runs = {path.parent.name: path.read_bytes() for path in work.glob("tensorboard/*/events.out.tfevents.*")}
    assert {name.partition("-")[0] for name in runs} == {"adapt", "evaluate"}
    for name, figures in runs.items():
        assert (b"held_out/chosen" in figures) == name.startswith("adapt")
        assert (b"accuracy/majority" in figures) == name.startswith("evaluate")


def test_evaluate_reports_every_count_and_measure(adapted, data):
    found = document("evaluate", "--adapter", adapted[0], "--recorded", data / "test.jsonl")
    assert found["asked"] == 20
    assert found["asked"] == sum(found[key] for key in ("answered", "unreadable", "failed", "abstained"))
    assert found["samples_per_question"] == 6
    for name in METHODS:
        estimate = found["accuracy"][name]
        assert 0 <= estimate["low"] <= estimate["value"] <= estimate["high"] <= 1
    for name in ("weighted_vote_minus_majority", "best_of_n_minus_single"):
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]
    assert found["best_of_n_minus_single"]["low"] > 0


def judging(body: dict[str, Any]) -> Any:
    """A judge that names an answer of the blue way, which is right."""
    asked = body["messages"][-1]["content"]
    shown = re.findall(r"^\[(\w) [^\]\n]+\]\n(.*?)\n\[end of", asked, re.DOTALL | re.MULTILINE)
    return said(f"BEST: {next(label for label, text in shown if 'blue' in text)}")(body)


def verdicts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a person says of every answer."""
    texts = {(row["question"], each["text"]) for row in rows for each in row["samples"]}
    ways = ((question, text, "right" if "blue" in text else "wrong") for question, text in sorted(texts))
    return [{"question": question, "text": text, "verdict": way} for question, text, way in ways]


@pytest.mark.parametrize("judge", ["ai", "combined", "human"])
def test_an_adapter_learns_what_a_judge_says_with_references_or_without(
    tmp_path, data, tiny_backbone, serve, judge
):
    rows = [row for row in recorded_rows(range(60)) if {"blue", "red"} <= set(str(row).split())]
    learnt = rows if judge == "combined" else [{**row, "answer": None} for row in rows]
    work = ("--work-dir", tmp_path / "work")
    if judge == "human":
        file = write(tmp_path / "verdicts.jsonl", verdicts([*rows, *recorded_rows(range(60, 80))]))
        assert trimtab("feedback", "import", file, *work).returncode == 0
    made = document(
        *("adapt", "--recorded", write(tmp_path / "rows.jsonl", learnt), "--dev", data / "dev.jsonl"),
        *("--backbone", tiny_backbone, *SMALL, "--task", "numeric", "--out", tmp_path / "adapter", *work),
        *("--judge", judge, "--judge-model", "judge", "--base-url", serve(judging).url, "--unpriced"),
        OPENAI_API_KEY="none",
    )
    calls, asked = made["usage"]["calls"], len(rows) + 20  # once each, unless all its answers are the same
    assert calls == 0 if judge == "human" else len(rows) < calls <= asked
    (reached,) = made["metrics"]["rounds"]
    assert reached["best_of_n"] > reached["single"] + 0.3


def test_a_required_accuracy_that_is_missed_ends_with_3(data):
    missed = trimtab("evaluate", "--recorded", data / "test.jsonl", "--json", "--require", "single>=0.9")
    assert missed.returncode == 3
    assert "required single>=0.9" in missed.stderr
    assert json.loads(missed.stdout)["asked"] == 20


def test_a_required_accuracy_that_is_reached_ends_with_0(adapted, data):
    asked = ["evaluate", "--adapter", adapted[0], "--recorded", data / "test.jsonl"]
    assert trimtab(*asked, "--require", "best_of_n>=0.8, best_of_n_minus_single.low>0").returncode == 0


def test_without_dev_a_fifth_is_held_out_and_the_embedded_backbone_needs_no_network(tmp_path, data):
    write(tmp_path / "rows.jsonl", recorded_rows(range(30), draws=3))
    said = document(
        *("adapt", "--recorded", tmp_path / "rows.jsonl", "--backbone", "offline", "--max-length", 64),
        *("--epochs", 1, "--out", tmp_path / "adapter", "--work-dir", tmp_path / "work"),
        HF_HUB_OFFLINE="1",
    )
    assert 0 < said["metrics"]["dev_questions"] < 15
    assert read_manifest(tmp_path / "adapter").backbone == "offline"


def test_of_too_few_rows_to_hold_any_out_it_says_that_nothing_is_known(tmp_path, tiny_backbone):
    rows = write(tmp_path / "rows.jsonl", recorded_rows(range(2)))
    places = ("--out", tmp_path / "adapter", "--work-dir", tmp_path / "work")
    done = trimtab("adapt", "--recorded", rows, "--backbone", tiny_backbone, *SMALL, *places)
    assert done.returncode == 0, done.stderr
    assert "neither calibrated nor measured. Give --dev" in done.stdout + done.stderr
    assert "nan" not in done.stdout + done.stderr


def test_settings_may_come_from_a_file_with_flags_on_either_side(tmp_path, data):
    file = tmp_path / "trimtab.toml"
    file.write_text(f'recorded = "{data / "test.jsonl"}"\nseed = 3\n')
    before, after = (
        document("evaluate", *args) for args in (["--rule", "majority", file], [file, "--seed", 3])
    )
    assert before == after
    assert before["asked"] == 20


def test_a_report_is_written_into_the_folder_named(tmp_path, adapted, data):
    report = tmp_path / "report"
    done = trimtab("evaluate", "--adapter", adapted[0], "--recorded", data / "test.jsonl", "--out", report)
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout.lower()
    assert {"report.html", "report.json"} <= {path.name for path in report.iterdir()}


# --------------------------------------------------------------------------- live: adapt, answer, doctor


def test_answer_writes_one_row_a_question_in_their_order(tmp_path, house_adapter, data, blackbox):
    out = tmp_path / "deep" / "answers.jsonl"
    counts = document(
        *("answer", "--adapter", house_adapter, "--questions", data / "house_test.jsonl", *BOX),
        *("--base-url", blackbox, "--draws", 4, "--out", out, "--work-dir", tmp_path / "work"),
    )
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    asked = [json.loads(line)["id"] for line in (data / "house_test.jsonl").read_text("utf-8").splitlines()]
    assert [row["id"] for row in rows] == asked
    for row in rows:
        assert row.keys() >= {"id", "text", "answer", "score", "confidence", "candidates", "usage", "status"}
        assert row["usage"].keys() == {"input_tokens", "output_tokens", "calls", "usd"}
        assert row["candidates"] == 4
        assert row["usage"]["calls"] == 1
    assert (
        counts["asked"] == 6 == sum(counts[key] for key in ("answered", "unreadable", "failed", "abstained"))
    )
    assert Counter(row["status"] for row in rows) == {
        key: count for key, count in counts.items() if key != "asked" and count
    }


def test_the_same_questions_again_cost_no_call(tmp_path, house_adapter, data, blackbox):
    asked = [
        *("answer", "--adapter", house_adapter, "--questions", data / "house_test.jsonl", *BOX),
        *("--base-url", blackbox, "--draws", 4, "--work-dir", tmp_path / "work"),
    ]
    first = trimtab(*asked)
    paid = calls(blackbox)
    again = trimtab(*asked)
    assert first.returncode == again.returncode == 0, first.stderr
    assert calls(blackbox) == paid
    shown = [
        [{**json.loads(line), "usage": None} for line in done.stdout.splitlines()] for done in (first, again)
    ]
    assert shown[0] == shown[1]
    assert all(json.loads(line)["usage"]["calls"] == 0 for line in again.stdout.splitlines())


def test_stopping_when_sure_pays_for_fewer_draws_and_going_on_pays_for_the_rest(
    tmp_path, house_adapter, data, blackbox
):
    asked = [
        *("answer", "--adapter", house_adapter, "--questions", data / "house_test.jsonl", *BOX),
        *("--base-url", blackbox, "--draws", 8, "--rule", "majority", "--work-dir", tmp_path / "work"),
    ]
    early = document(*asked, "--stop-when-sure", "--certainty", 0.6, "--wave", 1, "--out", tmp_path / "early")
    assert early["drawn"] + early["spared"] == 6 * 8
    assert early["spared"] > 0
    rows = [json.loads(line) for line in (tmp_path / "early").read_text("utf-8").splitlines()]
    assert [row["spared"] for row in rows] == [8 - row["candidates"] for row in rows]
    assert sum(row["usage"]["calls"] for row in rows) == early["drawn"]
    before = calls(blackbox)
    document(*asked, "--out", tmp_path / "all")
    more = sum(
        json.loads(line)["usage"]["calls"] for line in (tmp_path / "all").read_text("utf-8").splitlines()
    )
    assert calls(blackbox) - before == more == sum(row["spared"] > 0 for row in rows)
    refused = trimtab(*asked, "--stop-when-sure", "--batch")
    assert refused.returncode == 2


def test_an_adapter_serves_in_front_of_another_black_box_and_by_search(
    tmp_path, house_adapter, data, blackbox
):
    out = tmp_path / "answers.jsonl"
    other = ["--model", "trimtab-blackbox-early", *BOX[2:]]
    document(
        *("answer", "--adapter", house_adapter, "--questions", data / "house_test.jsonl", *other),
        *("--base-url", blackbox, "--search", "beam", "--out", out, "--work-dir", tmp_path / "work"),
    )
    assert len(out.read_text("utf-8").splitlines()) == 6


def test_evaluate_draws_live_answers(tmp_path, house_adapter, data, blackbox):
    found = document(
        *("evaluate", "--adapter", house_adapter, "--questions", data / "house_test.jsonl", *BOX),
        *("--base-url", blackbox, "--draws", 4, "--work-dir", tmp_path / "work"),
    )
    assert found["asked"] == 6
    assert found["samples_per_question"] == 4


def test_doctor_finds_the_endpoint_and_the_adapter(tmp_path, house_adapter, blackbox):
    done = trimtab(
        *("doctor", "--model", "trimtab-blackbox", "--base-url", blackbox, "--adapter", house_adapter),
        *("--backbone", "offline", "--work-dir", tmp_path / "work", "--json"),
    )
    found = {each["subject"]: each for each in json.loads(done.stdout)}
    assert done.returncode == 0, done.stderr
    assert all(found[subject]["is_fine"] for subject in ("endpoint", "adapter", "backbone", "store"))


# --------------------------------------------------------------------------- what goes wrong


def closed_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        return int(taken.getsockname()[1])


def one_paragraph(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "\n\n" not in done.stderr.strip()
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize("command", ["adapt", "evaluate", "answer"])
def test_an_endpoint_that_cannot_be_reached_ends_with_1_and_leaves_nothing(
    tmp_path, adapted, data, tiny_backbone, command
):
    url = f"http://127.0.0.1:{closed_port()}/v1"
    asked = [*live(command, adapted[0], data, tiny_backbone, tmp_path), "--base-url", url]
    one_paragraph(trimtab(*asked), 1, url)
    assert [path.name for path in tmp_path.iterdir()] == ["work"]
    one_paragraph(trimtab(*asked), 1, url, "goes on; calls it has paid: 0")  # not called finished


@pytest.mark.parametrize("command", ["adapt", "evaluate", "answer"])
def test_a_wrong_key_ends_with_2_shows_no_key_and_leaves_nothing(
    tmp_path, adapted, data, tiny_backbone, keyed, command
):
    asked = live(command, adapted[0], data, tiny_backbone, tmp_path)
    done = trimtab(*asked, "--base-url", keyed, OPENAI_API_KEY="sk-the-wrong-one")
    one_paragraph(done, 2, "key")
    assert "sk-the-wrong-one" not in done.stderr + done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


def test_doctor_names_a_wrong_key(tmp_path, keyed):
    done = trimtab(
        *("doctor", "--model", "trimtab-blackbox", "--base-url", keyed, "--work-dir", tmp_path, "--json"),
        OPENAI_API_KEY="sk-the-wrong-one",
    )
    (found,) = [each for each in json.loads(done.stdout) if each["subject"] == "endpoint"]
    assert (done.returncode, found["is_fine"]) == (1, False)


@pytest.fixture(scope="module")
def keyed() -> Iterator[str]:
    with running(api_key="sk-the-right-one") as url:
        yield url


def live(command: str, adapter: Path, data: Path, backbone: Path, folder: Path) -> list[object]:
    given = {
        "adapt": ["--backbone", backbone, *SMALL, "--out", folder / "out"],
        "evaluate": ["--out", folder / "out"],
        "answer": ["--adapter", adapter, "--out", folder / "out"],
    }
    questions = ["--questions", data / "house.jsonl", *BOX, "--work-dir", folder / "work"]
    return [command, *questions, *given[command]]


def test_a_backbone_that_is_not_here_and_cannot_be_fetched_is_refused_promptly(tmp_path, data):
    started = time.monotonic()
    done = trimtab(
        *("adapt", "--recorded", data / "train.jsonl", "--backbone", "no-such-owner/no-such-encoder"),
        *("--out", tmp_path / "adapter", "--work-dir", tmp_path / "work"),
    )
    one_paragraph(done, 2, "no-such-owner/no-such-encoder", "offline")
    assert time.monotonic() - started < 60
    assert not (tmp_path / "adapter").exists()


def test_a_backbone_that_reads_less_than_asked_is_refused(tmp_path, data, tiny_backbone):
    done = trimtab(
        *("adapt", "--recorded", data / "train.jsonl", "--backbone", tiny_backbone, "--max-length", 512),
        *("--out", tmp_path / "adapter", "--work-dir", tmp_path / "work"),
    )
    one_paragraph(done, 2, "128", "512")
    assert not (tmp_path / "adapter").exists()


# --------------------------------------------------------------------------- kill -9


def killed_when(is_time: Callable[[], bool], *args: object) -> None:
    """Starts the command and kills it, -9, as soon as it is time; it must not have ended before."""
    process = subprocess.Popen(
        [str(TRIMTAB), *map(str, args)],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not is_time():
        assert process.poll() is None, "the command ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def stored(folder: Path, table: str) -> int:
    """How many rows a run's store holds in one of its tables."""
    file = folder / "work" / "store.db"
    if not file.exists():
        return 0
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
            return int(connection.execute(f"select count(*) from {table}").fetchone()[0])
    except sqlite3.OperationalError:  # no table yet
        return 0


@pytest.mark.parametrize(("table", "rows"), [("candidates", 30), ("judgements", 10), ("judgements", 60)])
def test_adapt_killed_and_run_again_ends_as_if_it_had_not_been(
    tmp_path, data, tiny_backbone, adapted, table, rows
):
    asked = adapting(data, tiny_backbone, tmp_path)
    killed_when(lambda: stored(tmp_path, table) >= rows, *asked)
    assert not (tmp_path / "adapter").exists()
    again = document(*asked)
    unbroken = adapted[1]
    assert again["weights_sha256"] == unbroken["weights_sha256"]
    assert {**again, "adapter": ""} == {**unbroken, "adapter": ""}


def test_adapt_run_again_says_the_same_with_force_too(tmp_path, data, tiny_backbone, adapted):
    asked = adapting(data, tiny_backbone, tmp_path)
    said = [document(*asked), document(*asked), document(*asked, "--force")]
    assert [{**each, "adapter": ""} for each in said] == [{**adapted[1], "adapter": ""}] * 3
    assert stored(tmp_path, "judgements") == 60


@pytest.mark.parametrize("after", [3, 22])
def test_live_adapt_killed_and_run_again_repeats_no_call(
    tmp_path, data, tiny_backbone, blackbox, house_adapter, after
):
    asked, before = asking(blackbox, data, tiny_backbone, tmp_path), calls(blackbox)
    killed_when(lambda: calls(blackbox) - before >= after, *asked)
    again = document(*asked)
    needed = 2 * 12 + 6  # two rounds of twelve questions, and six held out
    in_flight = 2
    assert needed <= calls(blackbox) - before <= needed + in_flight
    assert needed - in_flight <= again["usage"]["calls"] <= needed
