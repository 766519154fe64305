"""Joining a Ray cluster, or starting one on this machine: quietly, and with errors that say what to do.

What runs there stands in `actors`. Ray's own switches are environment variables, which the command line sets
before anything here is imported.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import ray
import ray._private.worker
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trimtab.errors import ClusterError, TrimtabError
from trimtab.llm.budget import Budget
from trimtab.llm.limiter import Limiter
from trimtab.scale.actors import GateActor, Standing, own_error

QUIETLY: dict[str, Any] = {
    "log_to_driver": False,
    "configure_logging": True,
    "logging_level": logging.CRITICAL,
}
OBJECT_STORE_BYTES = 256 * 1024 * 1024  # of a cluster started here: questions and answers are small
REACHED_S = 10.0
BEGIN_S = 180.0  # how long an actor may take to be placed and to load what it needs


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that this process has joined."""

    address: str

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that are alive."""
        return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]

    @property
    def is_one_machine(self) -> bool:
        """True when all nodes are on this machine."""
        return {node["NodeManagerHostname"] for node in self.nodes} <= {os.uname().nodename}

    def gate(self, limiter: Limiter, budget: Budget) -> Any:
        """The gate's actor, on this process's own node: that cannot be lost without this process."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        made: Any = ray.remote(GateActor)
        return made.options(num_cpus=0, max_restarts=0, scheduling_strategy=here).remote(limiter, budget)


def refuse_too_large(what: str, *, cpus: float, gpus: float) -> None:
    """Raises ClusterError where the whole cluster has less than one actor needs: it would wait for ever."""
    there = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for name, needed in (("CPU", cpus), ("GPU", gpus)):
        if there.get(name, 0.0) < needed:
            has = f"{there.get(name, 0.0):g} in all"
            raise ClusterError(f"{what} needs {needed:g} {name}, and the cluster has {has}")


@contextmanager
def joined(address: str | None) -> Iterator[Cluster]:
    """The cluster at an address, else one that is started on this machine and ends with this context.

    Args:
        address: of the head, as `ray start` prints it, or "auto"; a node of it must run on this machine.

    Raises:
        ClusterError: nothing answers there, or it runs another version of Ray or Python.
    """
    if ray.is_initialized():
        yield Cluster(address or "local")
        return
    _join(address)
    try:
        yield Cluster(address or "local")
    finally:
        ray.shutdown()


def _join(address: str | None) -> None:
    # A raylet's last words are printed on stdout, where our results go; there is no public switch for them.
    ray._private.worker._worker_logs_enabled = False
    if address is None:
        return _start()
    if address != "auto":
        _refuse_unreachable(address)
    try:
        ray.init(address, **QUIETLY)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise ClusterError(_not_joined(address, error)) from None


def _start() -> None:
    """A cluster on this machine; a busy one may take longer than the half minute that Ray gives itself."""
    for is_last in (False, True):
        try:
            ray.init("local", object_store_memory=OBJECT_STORE_BYTES, include_dashboard=False, **QUIETLY)
        except Exception as error:  # noqa: BLE001  (Ray raises a bare one where a node comes up too late)
            ray.shutdown()
            if is_last:
                said = " ".join(str(error).split())
                raise ClusterError(f"Ray could not be started on this machine: {said}") from None
        else:
            return


def _refuse_unreachable(address: str) -> None:
    """Raises ClusterError where nobody listens: Ray itself would go on trying for five minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise ClusterError(f"ray_address: give host:port of the cluster's head, or auto; {address} came")
    try:
        with socket.create_connection((host, int(port)), timeout=REACHED_S):
            pass
    except (OSError, OverflowError) as error:
        raise ClusterError(_not_joined(address, error)) from None


def _not_joined(address: str, error: Exception) -> str:
    said = " ".join(str(error).split())
    if "Version mismatch" in said:
        return f"the Ray cluster at {address} runs other versions than this process: {said}"
    return (
        f"no Ray cluster can be joined at {address}: {said}. A node of it must run on this machine "
        f"(ray start --address={address})"
    )


def begun(reference: Any, what: str) -> Standing:
    """Where an actor is, once it has begun.

    Raises:
        ClusterError: it was not placed in time, died, or runs another trimtab.
        TrimtabError: what its recipe raised.
    """
    try:
        standing: Standing = ray.get(reference, timeout=BEGIN_S)
    except GetTimeoutError:
        raise ClusterError(
            f"{what} was not placed within {BEGIN_S:g} s: the cluster has no room for it"
        ) from None
    except RayTaskError as error:
        own = own_error(error)
        if isinstance(own, TrimtabError):
            raise own from None
        raise ClusterError(f"{what} could not begin: {_last_line(error)}") from None
    except (RayActorError, RayError) as error:
        raise ClusterError(f"{what} could not begin: {_last_line(error)}") from None
    _refuse_another_version(standing, what)
    return standing


def _refuse_another_version(standing: Standing, what: str) -> None:
    if standing.trimtab != version("trimtab"):
        raise ClusterError(
            f"{what} on {standing.host} has trimtab {standing.trimtab}, and this is {version('trimtab')}: "
            "install the same on every node"
        )


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
