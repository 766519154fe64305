"""Ray clusters on this machine, as tests start them: quiet, small, and tried twice on a busy machine."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from trimtab.cli.scaling import QUIET

NODE = {"num_cpus": 4, "object_store_memory": 80_000_000}


@contextmanager
def started(**more: Any) -> Iterator[Any]:
    """A cluster of one node, as `NODE` and what is given have it; `add_node(**NODE)` makes it larger."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**QUIET, "OMP_NUM_THREADS": "1"}.items():
            patch.setenv(name, value)
        cluster = _made({**NODE, **more, "include_dashboard": False})
        yield cluster
        cluster.shutdown()


def _made(head: dict[str, Any]) -> Any:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=False)
    try:
        cluster.add_node(**head)
    except Exception as error:
        if "timed out during startup" not in str(error):  # Ray gives a node half a minute
            raise
        cluster = Cluster(initialize_head=False)
        cluster.add_node(**head)
    return cluster


def can_be_apart() -> bool:
    """True where a process may be given a view of its own of disks and names."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-mu", "true"], capture_output=True, check=False).returncode == 0


@contextmanager
def machine_apart(cluster: Any, hidden: Path) -> Iterator[Path]:
    """Another node, on what is another machine for all it can see: its own name, and nothing at `hidden`.

    Gives the folder of its temporary files. Where we have no leave for that, it is a node like the first.
    """
    own = Path(tempfile.mkdtemp(prefix="tt-", dir="/tmp"))  # sockets stand in it: their paths must be short
    start = [Path(sys.executable).with_name("ray"), "start", "--block", f"--address={cluster.address}"]
    size = [f"--num-cpus={NODE['num_cpus']}", f"--object-store-memory={NODE['object_store_memory']}"]
    command = shlex.join(map(str, [*start, *size]))
    script = f"hostname apart && mount -t tmpfs none {shlex.quote(str(hidden))} && exec {command}"
    whole = ["unshare", "-mu", "sh", "-c", script] if can_be_apart() else shlex.split(command)
    environment = {**os.environ, **QUIET, "OMP_NUM_THREADS": "1", "TMPDIR": str(own)}
    node = subprocess.Popen(whole, env=environment, cwd="/", stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while sum(each["Alive"] for each in cluster.global_state.node_table()) < 2:
            assert node.poll() is None
            assert time.monotonic() < until, "the second node has not come up"
            time.sleep(0.1)
        yield own
    finally:
        node.terminate()
        node.wait(30)
        shutil.rmtree(own, ignore_errors=True)
