"""Laws of the store that need real processes: what outlives `kill -9`, and writers side by side."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trimtab.store import Store
from trimtab.types import Completion, Draws

pytestmark = pytest.mark.slow

WRITER = """
import sys
from trimtab.store import Store
from trimtab.types import Call, Completion, Outcome, Purpose, Reply, Usage

def reply(name, number):
    call = Call(f"{name} {number}", Purpose.SAMPLING, "box", "", "", Outcome.PAID, Usage(calls=1), 0.1, 1.0)
    return Reply(f"{name}-{number}", 0, "box", (Completion(f"{name} {number}"),), (call,))

path, name, count, survives = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "True"
with Store.open(path, survives_power_cut=survives) as store:
    samples = store.samples_of(name)
    for number in range(count):
        samples.keep([reply(name, number)])
        print(number, flush=True)
"""


def writer(path: Path, name: str, count: int, survives: bool = True) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), name, str(count), str(survives)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kept(store: Store, name: str, number: int) -> dict[int, Completion]:
    return store.samples_of(name).kept([Draws(f"{name}-{number}", 0, 1)])[0]


def expected(name: str, number: int) -> dict[int, Completion]:
    return {0: Completion(f"{name} {number}")}


@pytest.mark.parametrize("survives_power_cut", [True, False])
@pytest.mark.parametrize("read", [1, 20, 60])
def test_a_writer_killed_in_the_middle_loses_nothing_that_keep_returned_from(
    tmp_path: Path, read: int, survives_power_cut: bool
) -> None:
    path = tmp_path / "trimtab.db"
    with writer(path, "w", 100_000, survives_power_cut) as process:
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(read)]
        process.send_signal(signal.SIGKILL)
        told += [int(line) for line in process.stdout.read().split("\n")[:-1]]
    assert process.returncode == -signal.SIGKILL
    with Store.open(path) as store:
        assert [kept(store, "w", number) for number in told] == [expected("w", n) for n in told]
        assert store.usage_of("w").calls in (len(told), len(told) + 1)
        store.put_round("after", 0, {"written": True})
        assert store.rounds("after")[0].record == {"written": True}


def test_an_opening_killed_at_any_moment_leaves_a_file_that_opens(tmp_path: Path) -> None:
    start = time.monotonic()
    with writer(tmp_path / "whole.db", "w", 1) as process:
        process.wait()
    whole_s = time.monotonic() - start
    for attempt in range(6):
        path = tmp_path / f"{attempt}.db"
        with writer(path, "w", 1) as process:
            time.sleep(whole_s * random.Random(attempt).uniform(0.5, 1.0))
            process.kill()
        with Store.open(path) as store:
            store.put_round("after", 0, {"written": True})
            assert store.rounds("after")[0].record == {"written": True}


def test_processes_that_write_side_by_side_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "trimtab.db"
    writers = {name: writer(path, name, 50) for name in ("a", "b", "c")}
    for process in writers.values():
        process.communicate(timeout=60)
        assert process.returncode == 0
    with Store.open(path) as store:
        assert [store.usage_of(name).calls for name in writers] == [50, 50, 50]
        assert kept(store, "b", 49) == expected("b", 49)
