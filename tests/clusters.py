"""Ray clusters on this machine, as tests start them: quiet, small, and tried twice on a busy machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from trimtab.cli.scaling import QUIET

NODE = {"num_cpus": 4, "object_store_memory": 80_000_000}


@contextmanager
def started() -> Iterator[Any]:
    """A cluster of one node; `add_node(**NODE)` makes it larger."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**QUIET, "OMP_NUM_THREADS": "1"}.items():
            patch.setenv(name, value)
        cluster = _made()
        yield cluster
        cluster.shutdown()


def _made() -> Any:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=False)
    try:
        cluster.add_node(**NODE, include_dashboard=False)
    except Exception as error:
        if "timed out during startup" not in str(error):  # Ray gives a node half a minute
            raise
        cluster = Cluster(initialize_head=False)
        cluster.add_node(**NODE, include_dashboard=False)
    return cluster
