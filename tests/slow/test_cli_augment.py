"""`trimtab classify augment` and `fit --augmented` as real processes against real servers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from loopback import Body, Reply, Server, said
from trimtab.llm.embedded import running
from trimtab.store import Store
from trimtab.types import Purpose, Usage
from weather import DESCRIPTIONS, TRAIN

pytestmark = pytest.mark.slow

TRIMTAB = Path(sys.executable).with_name("trimtab")
PRICES = ["--usd-per-million-in", "100", "--usd-per-million-out", "1000"]
SPENT = 4  # exit code
WORDS = {
    "weather": [
        "thunder",
        "clouds",
        "drizzle",
        "fog",
        "hail",
        "breeze",
        "frost",
        "sunshine",
        "storm",
        "gale",
    ],
    "food": ["butter", "noodles", "pepper", "cheese", "curry", "bread", "salad", "stew", "pancakes", "soup"],
}
PER_LABEL, A_REPLY = 20, 5


def written(body: Body) -> Reply:
    """Five texts of the label that is asked for, or the label of a text; the same for the same request."""
    asked, seed = body["messages"][-1]["content"], int(body.get("seed") or 0)
    text = re.search(r"The text to label:\n(.*)\n", asked)
    if text:
        return said(next((name for name, words in WORDS.items() if words[0] in text[1]), "neither"))(body)
    label = re.findall(r'The label: "(\w+)"', asked)[0]
    number = sum(map(ord, asked)) + seed
    lines = [f"{at}. {' '.join(_sentence(label, number, at))}" for at in range(1, A_REPLY + 1)]
    return said("\n".join(lines), tokens=(200, 60))(body)


def _sentence(label: str, number: int, at: int) -> list[str]:
    first, second = (WORDS[label][(number // step + at) % 10] for step in (1, 10))
    return [first, "and", second, f"w{number}x{at}", "here", f"v{number}y{at}"]


def environment() -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("TRIMTAB_")}
    return {**inherited, "OMP_NUM_THREADS": "1", "OPENAI_API_KEY": "sk-test-0123456789"}


def trimtab(*args: object) -> subprocess.CompletedProcess[str]:
    command = [str(TRIMTAB), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "labels.json").write_text(json.dumps(DESCRIPTIONS), "utf-8")
    rows = [{"text": text, "label": label} for label, texts in TRAIN.items() for text in texts]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return tmp_path


def augmenting(folder: Path, url: str, *more: object, model: str = "gpt-4o-mini") -> list[object]:
    return [
        *("classify", "augment", "--train", folder / "train.jsonl", "--labels", folder / "labels.json"),
        *("--out", folder / "more.jsonl", "--work-dir", folder / "work", "--base-url", url),
        *("--model", model, "--per-label", PER_LABEL, *PRICES, *more),
    ]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "more.jsonl").read_text("utf-8").splitlines()]


def paid(folder: Path) -> Usage:
    with closing(Store.open(folder / "work" / "store.db")) as store:
        costs = store.costs()
    assert {cost.purpose for cost in costs} <= {Purpose.AUGMENTATION}
    return sum((cost.usage for cost in costs), Usage())


def test_texts_are_written_balanced_over_labels_and_a_classifier_is_fitted_with_them(folder, serve):
    server = serve(written)
    done = trimtab(*augmenting(folder, server.url, "--json"))
    assert done.returncode == 0, done.stderr
    told, rows = json.loads(done.stdout), rows_of(folder)
    assert told["kept"] == {"weather": PER_LABEL, "food": PER_LABEL}
    assert len(rows) == told["rows"] == 2 * PER_LABEL
    assert {tuple(row) for row in rows} == {("text", "label", "source")}
    assert {row["source"] for row in rows} == {"generated"}
    assert told["paid"]["calls"] == len(server.bodies) == paid(folder).calls
    assert told["paid"]["usd"] == pytest.approx(paid(folder).usd)
    assert told["estimate"]["worst"]["calls"] >= told["estimate"]["expected"]["calls"] > 0

    place = ("--labels", folder / "labels.json", "--out", folder / "mine", "--work-dir", folder / "work")
    fit = ("classify", "fit", "--train", folder / "train.jsonl", *place)
    fitted = trimtab(*fit, "--augmented", folder / "more.jsonl", "--json")
    assert fitted.returncode == 0, fitted.stderr
    decided = json.loads(fitted.stdout)["augmentation"]
    assert decided["given"] == 2 * PER_LABEL
    assert decided["reason"] in fitted.stderr
    facts = json.loads((folder / "mine" / "crosstune.json").read_text("utf-8"))
    assert facts["augmentation"] == decided


def test_the_same_again_asks_nothing_and_writes_the_same(folder, serve):
    server = serve(written)
    assert trimtab(*augmenting(folder, server.url)).returncode == 0
    first, calls = (folder / "more.jsonl").read_bytes(), len(server.bodies)
    done = trimtab(*augmenting(folder, server.url))
    assert done.returncode == 0, done.stderr
    assert len(server.bodies) == calls
    assert (folder / "more.jsonl").read_bytes() == first


def test_dry_run_says_what_it_would_cost_and_asks_nothing(folder, serve):
    server = serve(written)
    done = trimtab(*augmenting(folder, server.url, "--dry-run", "--json"))
    assert done.returncode == 0, done.stderr
    assert server.bodies == []
    assert not (folder / "more.jsonl").exists()
    expected = json.loads(done.stdout)["expected"]
    assert trimtab(*augmenting(folder, server.url)).returncode == 0
    assert expected["calls"] == pytest.approx(paid(folder).calls, rel=0.3)
    assert expected["usd"] > 0
    again = json.loads(trimtab(*augmenting(folder, server.url, "--dry-run", "--json")).stdout)
    assert again["expected"]["calls"] == 0
    assert again["kept_replies"] == paid(folder).calls


@pytest.mark.parametrize("flag", [("--max-calls", 4), ("--max-usd", 1.0)])
def test_a_limit_keeps_what_there_is_and_a_higher_one_goes_on(folder, serve, flag):
    server, whole = serve(written), folder / "whole"
    done = trimtab(*augmenting(folder, server.url, *flag, "--concurrency", 1))
    assert done.returncode == SPENT, done.stderr
    assert "goes on with a higher limit" in done.stderr
    assert 0 < len(rows_of(folder)) < 2 * PER_LABEL
    assert {row["label"] for row in rows_of(folder)} == set(DESCRIPTIONS)
    calls = len(server.bodies)

    assert trimtab(*augmenting(folder, server.url)).returncode == 0
    limited = (folder / "more.jsonl").read_bytes()
    assert len(server.bodies) == paid(folder).calls > calls
    assert trimtab(*augmenting(folder, server.url, "--work-dir", whole)).returncode == 0
    assert (folder / "more.jsonl").read_bytes() == limited


def test_without_any_money_nothing_is_written(folder, serve):
    done = trimtab(*augmenting(folder, serve(written).url, "--max-calls", 0))
    assert done.returncode == SPENT
    assert "nothing to write" in done.stderr
    assert not (folder / "more.jsonl").exists()


def test_killed_and_gone_on_with_no_reply_is_paid_for_twice(folder, serve):
    lock = threading.Lock()

    def slow(body: Body) -> Reply:
        with lock:
            time.sleep(0.1)
        return written(body)

    server: Server = serve(slow)
    command = [str(TRIMTAB), *map(str, augmenting(folder, server.url, "--concurrency", 1))]
    process = subprocess.Popen(
        command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for(lambda: len(server.bodies) >= 3 or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert not (folder / "more.jsonl").exists()
    kept = paid(folder).calls
    assert kept >= 1
    before = [json.dumps(body, sort_keys=True) for body in server.bodies]

    assert trimtab(*augmenting(folder, server.url)).returncode == 0
    after = [json.dumps(body, sort_keys=True) for body in server.bodies[len(before) :]]
    assert not set(before[:kept]) & set(after)
    assert len(set(after)) == len(after)
    assert len(rows_of(folder)) == 2 * PER_LABEL


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_unlabelled_texts_are_labelled_and_checked_texts_are_of_their_label(folder, serve):
    own = [{"text": "thunder over the hills"}, {"text": "bread and butter"}, {"text": "Rain, all day long!"}]
    file = folder / "own.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in own), "utf-8")
    server = serve(written)
    more = ("--unlabelled", file, "--check", "--per-label", 2, "--json")
    done = trimtab(*augmenting(folder, server.url, *more))
    assert done.returncode == 0, done.stderr
    told, rows = json.loads(done.stdout), rows_of(folder)
    assert [row for row in rows if row["source"] == "pseudo"] == [
        {"text": "thunder over the hills", "label": "weather", "source": "pseudo"},
        {"text": "bread and butter", "label": "food", "source": "pseudo"},
    ]
    assert told["duplicates"] == 1
    assert told["unchecked"] > 0
    generated = [row for row in rows if row["source"] == "generated"]
    assert all(WORDS[row["label"]][0] in row["text"] for row in generated)
    assert told["estimate"]["worst"]["calls"] >= told["paid"]["calls"] == len(server.bodies)


def test_a_black_box_that_cannot_write_texts_ends_at_the_cap_and_says_why(folder):
    with running() as url:
        more = ("--max-tokens", 48, "--per-label", 5)
        done = trimtab(*augmenting(folder, url, *more, model="trimtab-blackbox"))
    assert done.returncode == 1
    assert "nothing to write: of 6 replies 6 could not be read" in done.stderr
    assert paid(folder).calls == 6
    assert not (folder / "more.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--model": None}, "--model is needed"),
        ({"--out": None}, "--out is needed"),
        ({"--out": "."}, "is a folder"),
        ({"--per-label": 0}, "per-label: with 0 nothing is written"),
        ({"--train": "none.jsonl"}, "no such file"),
        ({"--unlabelled": "pairs.jsonl"}, "one holds pairs, the other single texts"),
        ({"--labels": "train.jsonl"}, "not JSON"),
    ],
)
def test_bad_input_is_named_before_anything_is_asked(folder, serve, change, said):
    server = serve(written)
    (folder / "pairs.jsonl").write_text('{"text": "one", "text_pair": "two"}\n', "utf-8")
    line = list(map(str, augmenting(folder, server.url)))
    for flag, value in change.items():
        if flag in line:
            at = line.index(flag)
            del line[at : at + 2]
        line += [] if value is None else [flag, str(value if isinstance(value, int) else folder / value)]
    done = trimtab(*line)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert server.bodies == []
