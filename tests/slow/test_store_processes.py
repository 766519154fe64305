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
from trimtab.types import Completion, Completions, Usage

pytestmark = pytest.mark.slow

WRITER = """
import sys
from trimtab.store import Store
from trimtab.types import Completion, Completions, Usage

path, name, count, survives = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "True"
with Store.open(path, survives_power_cut=survives) as store:
    responses = store.responses_of(name)
    for number in range(count):
        text = Completion(f"{name} {number}")
        responses.keep(f"{name}-{number}", Completions((text,), Usage(calls=1), "box"))
        print(number, flush=True)
"""


def writer(path: Path, name: str, count: int, survives: bool = True) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), name, str(count), str(survives)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def expected(name: str, number: int) -> Completions:
    return Completions((Completion(f"{name} {number}"),), Usage(calls=1), "box")


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
        assert [store.kept(f"w-{number}") for number in told] == [expected("w", n) for n in told]
        assert store.usage_of("w").calls in (len(told), len(told) + 1)
        store.keep("after", expected("w", 0))
        assert store.kept("after") == expected("w", 0)


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
            store.keep("key", expected("w", 0))
            assert store.kept("key") == expected("w", 0)


def test_processes_that_write_side_by_side_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "trimtab.db"
    writers = {name: writer(path, name, 50) for name in ("a", "b", "c")}
    for process in writers.values():
        process.communicate(timeout=60)
        assert process.returncode == 0
    with Store.open(path) as store:
        assert [store.usage_of(name).calls for name in writers] == [50, 50, 50]
        assert store.kept("b-49") == expected("b", 49)
