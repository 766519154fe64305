"""Laws of training by several workers of a Ray cluster: the adapter of one process, or a word before it."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from clusters import started
from colours import recorded
from trimtab.cli import adapting
from trimtab.cli.scaling import on_cluster
from trimtab.cli.settings import Settings
from trimtab.errors import ClusterError
from trimtab.scale.bounds import Bounds

pytest.importorskip("ray", reason="ray is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with started() as cluster:
        yield cluster.address


def workers() -> list[int]:
    """Ray Train's processes on this machine: no other test has any."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended in between
            if entry.read_bytes().startswith(b"ray::RayTrainWorker"):
                found.append(int(entry.parent.name))
    return found


def kill_one() -> None:
    """As soon as there are two."""
    waits_until = time.monotonic() + 100
    while len(found := workers()) < 2:
        assert time.monotonic() < waits_until
        time.sleep(0.2)
    os.kill(found[0], signal.SIGKILL)


def test_workers_of_a_cluster_one_of_them_killed_make_the_adapter_of_one_process(
    tmp_path, address, tiny_backbone, capfd
):
    given = {"recorded": recorded(tmp_path / "r.jsonl", 30), "backbone": str(tiny_backbone), "max_length": 64}
    given |= {"epochs": 2, "lr": 0.003, "threads": 1}
    there = {"engine": "ray", "ray_address": address, "training_workers": 2}
    told, killer = [], threading.Thread(target=kill_one)
    killer.start()
    for name, place in (("there", there), ("plain", {})):
        folder = {"work_dir": tmp_path / name, "out": tmp_path / name / "adapter"}
        assert adapting.run(Settings.model_validate({**given, **folder, **place}), True) == 0
        out, err = capfd.readouterr()
        told.append(json.loads(out))
        assert re.search(r"round 0: fit: (\d+) of \1\b", err), "what is done there is seen here"
    killer.join()
    found, alone = (
        {name: each for name, each in one["metrics"].items() if name.startswith("dev")} for one in told
    )
    assert found == alone
    assert told[0]["weights_sha256"] != told[1]["weights_sha256"], "sums are rounded in another order"


def test_workers_for_whom_there_is_no_room_are_refused(address):
    from trimtab.scale.training import cluster_fit

    with (
        on_cluster(Settings(engine="ray", ray_address=address)),
        pytest.raises(ClusterError, match=r"64 workers.* needs 65 CPU") as refused,
    ):
        cluster_fit(64, Bounds())
    assert refused.value.exit_code == 2
