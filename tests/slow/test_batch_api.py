"""Laws of batches over HTTP: real processes, killed with -9, against a provider that counts what it does."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from trimtab.llm.batch_api import BatchAPI
from trimtab.store import Store

pytestmark = pytest.mark.slow

PEERS = Path(__file__).resolve().parents[1] / "peers_batch"
QUESTIONS, DRAWS = 30, 4


class Peer:
    """The provider, and what it is told."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._root = url.removesuffix("/v1")

    def told(self, **control: Any) -> None:
        asked = urllib.request.Request(f"{self._root}/control", json.dumps(control).encode(), method="POST")
        urllib.request.urlopen(asked, timeout=10).close()

    def seen(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self._root}/seen", timeout=10) as reply:
            return json.load(reply)


@pytest.fixture
def peer() -> Iterator[Peer]:
    command = [sys.executable, str(PEERS / "server.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Peer(process.stdout.readline().strip())
        finally:
            process.kill()
            process.communicate()


def command(peer: Peer, folder: Path, *words: str, questions: int = QUESTIONS) -> list[str]:
    given = [peer.url, str(folder / "store.db"), str(questions), str(DRAWS), *words]
    return [sys.executable, str(PEERS / "client.py"), *given]


def bought(peer: Peer, folder: Path, *words: str, **more: int) -> dict[str, Any]:
    """What a run says that goes on to its end."""
    done = subprocess.run(command(peer, folder, *words, **more), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def killed_when(peer: Peer, folder: Path, is_time: Callable[[dict[str, Any]], bool]) -> None:
    """Starts a run and kills it, -9, as soon as the provider has seen what it is to see."""
    with subprocess.Popen(
        command(peer, folder), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        deadline = time.monotonic() + 60
        while not is_time(peer.seen()):
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)


def billed_once(peer: Peer, folder: Path, requests: int = QUESTIONS) -> None:
    """Each request executed once and none live; every draw kept; the ledger is what the provider bills."""
    seen = peer.seen()
    assert (seen["executed"], seen["twice"], seen.get("chat", 0)) == (requests, 0, 0)
    with closing(Store.open(folder / "store.db")) as store:
        usage = store.usage_of("run-1")
        assert sum(line.draws for line in store.cache_summary()) == requests * DRAWS
        assert list(store.batches(status=["planned", "uploaded", "submitted"])) == []
    assert usage.calls == seen["billed"]["requests"] == requests
    assert usage.input_tokens == seen["billed"]["prompt_tokens"]
    assert usage.output_tokens == seen["billed"]["completion_tokens"]


# --------------------------------------------------------------------------- a whole cycle


def test_draws_bought_by_batch_are_the_ones_that_a_run_then_finds(peer, tmp_path):
    said = bought(peer, tmp_path, "live")
    assert said["bought"] == QUESTIONS * DRAWS
    assert said["drawn"] == [DRAWS] * QUESTIONS
    billed_once(peer, tmp_path)


def test_what_is_bought_is_not_bought_again(peer, tmp_path):
    bought(peer, tmp_path)
    again = bought(peer, tmp_path, "live")
    assert (again["bought"], again["kept"]) == (0, QUESTIONS * DRAWS)
    billed_once(peer, tmp_path)


def test_more_requests_than_a_batch_takes_go_into_several(peer, tmp_path):
    bought(peer, tmp_path, questions=100)
    assert peer.seen()["batches"] == 3
    billed_once(peer, tmp_path, 100)


def test_lines_that_fail_are_counted_and_asked_for_live(peer, tmp_path):
    peer.told(fail=["question 3:", "question 7:"])
    said = bought(peer, tmp_path, "live")
    assert said["failed"] == {"the content was refused": 2}
    assert said["bought"] == (QUESTIONS - 2) * DRAWS
    assert said["drawn"] == [DRAWS] * QUESTIONS
    assert peer.seen()["chat"] == 2


@pytest.mark.parametrize("ends_as", ["expired", "cancelled"])
def test_a_batch_that_ends_early_keeps_what_was_done_and_the_rest_is_bought_later(peer, tmp_path, ends_as):
    peer.told(expire_after=10, expire_as=ends_as, lines_a_look=10)
    first = bought(peer, tmp_path)
    assert first["bought"] == 10 * DRAWS
    assert sum(first["failed"].values()) == QUESTIONS - 10
    peer.told()
    second = bought(peer, tmp_path, "live")
    assert (second["kept"], second["bought"]) == (10 * DRAWS, (QUESTIONS - 10) * DRAWS)
    billed_once(peer, tmp_path)


def test_a_lost_result_is_in_the_ledger_at_its_worst_case(peer, tmp_path):
    peer.told(lose=["question 5:"])
    bought(peer, tmp_path)
    with closing(Store.open(tmp_path / "store.db")) as store:
        (uncertain,) = [cost for cost in store.costs("run-1") if cost.outcome == "uncertain"]
    assert uncertain.requests == 1
    assert uncertain.usage.output_tokens == 64 * DRAWS


def test_a_batch_refused_as_a_whole_says_why_and_bills_nothing(peer, tmp_path):
    peer.told(refuse_batch="Enqueued token limit reached for peer-model")
    done = subprocess.run(command(peer, tmp_path), capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "Enqueued token limit reached" in done.stderr
    assert peer.seen()["executed"] == 0
    peer.told()
    bought(peer, tmp_path)
    billed_once(peer, tmp_path)


# --------------------------------------------------------------------------- a provider in trouble


@pytest.mark.parametrize("step", ["upload", "create", "list", "look", "content", "delete"])
def test_a_step_that_fails_for_a_while_is_tried_again_and_nothing_is_executed_twice(peer, tmp_path, step):
    failing = {f"fail_{step}": [503, 500]}
    if step in ("list", "delete"):
        failing |= {"refuse_create": [500]}  # only then is anything looked up
    peer.told(**failing)
    bought(peer, tmp_path)
    billed_once(peer, tmp_path)


def test_a_limit_on_creating_is_waited_out(peer, tmp_path):
    peer.told(refuse_create=[429, 429])
    bought(peer, tmp_path)
    billed_once(peer, tmp_path)


def test_a_wrong_key_is_refused_at_once_and_stands_in_no_error_though_the_provider_repeats_it(peer, tmp_path):
    wrong = "sk-another-peers-key-987"
    done = subprocess.run(
        command(peer, tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PEER_KEY": wrong},
    )
    assert done.returncode != 0
    assert "status 401" in done.stderr
    assert wrong not in done.stderr + done.stdout


# --------------------------------------------------------------------------- kill -9

STAGES: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any]], bool]]] = {
    "the file is there, its id was never told": (
        {"hold_upload_s": 30},
        lambda seen: seen.get("upload", 0) == 1,
    ),
    "the batch is made, its id was never told": (
        {"hold_create_s": 30},
        lambda seen: seen.get("create", 0) == 1,
    ),
    "the batch is worked on": ({"lines_a_look": 1}, lambda seen: seen.get("look", 0) >= 5),
    "the results are on their way": ({"hold_content_s": 30}, lambda seen: seen.get("content", 0) == 1),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_killed_while(peer, tmp_path, stage):
    control, is_time = STAGES[stage]
    peer.told(**control)
    killed_when(peer, tmp_path, is_time)
    peer.told()
    said = bought(peer, tmp_path, "live")
    assert said["drawn"] == [DRAWS] * QUESTIONS
    billed_once(peer, tmp_path)


def test_a_submission_that_arrives_after_its_senders_death_comes_to_nothing(peer, tmp_path):
    peer.told(late_create_s=4)
    killed_when(peer, tmp_path, lambda seen: seen.get("create_asked", 0) == 1)
    peer.told()
    bought(peer, tmp_path)
    deadline = time.monotonic() + 30
    while not peer.seen().get("create_without_file"):  # the dead run's request, refused for want of its file
        assert time.monotonic() < deadline
        time.sleep(0.05)
    billed_once(peer, tmp_path)


def test_runs_killed_at_random_moments_execute_each_request_once(peer, tmp_path):
    chance = random.Random(3)
    peer.told(lines_a_look=4, hold_upload_s=0.1, hold_create_s=0.1, hold_content_s=0.1)
    for _ in range(8):
        with subprocess.Popen(
            command(peer, tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            time.sleep(chance.uniform(0.8, 2.5))
            process.send_signal(signal.SIGKILL)
    bought(peer, tmp_path)
    billed_once(peer, tmp_path)


# --------------------------------------------------------------------------- finding one again


async def test_a_batch_is_found_among_hundreds_by_our_name_or_by_its_file(peer):
    api = BatchAPI("peer-model", peer.url, api_key="sk-batch-peer-0123456789", timeout_s=10)
    try:
        files = [await api.upload(f"{number}.jsonl", b"") for number in range(2)]
        first = await api.create(files[0], "the first")
        for number in range(230):
            await api.create(files[1], f"later {number}")
        since = time.time()
        by_name = await api.find("the first", "no such file", since)
        by_file = await api.find("no such name", files[0], since)
        assert by_name is not None and by_file is not None  # noqa: PT018
        assert by_name.id == by_file.id == first.id
        assert await api.find("no such name", "no such file", since) is None
        looked_at = peer.seen()["list"]
        assert looked_at == 3 + 3 + 3  # pages of a hundred, to the end
        assert await api.find("no such name", "no such file", since + 10 * 86_400) is None
        assert peer.seen()["list"] == looked_at + 1  # what is older than we are is not ours
    finally:
        await api.close()
