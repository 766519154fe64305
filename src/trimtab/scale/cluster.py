"""Joining a Ray cluster, or starting one on this machine: quietly, and with errors that say what to do.

What runs there stands in `actors`. Ray's own switches are environment variables, which the command line sets
before anything here is imported.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import ray
import ray._private.worker
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
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
VERSIONS_S = 30.0  # how long all nodes together may take to say what they run, once something is wrong
BEGIN_S = 180.0  # how long an actor may take to be placed and to load what it needs


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that this process has joined."""

    address: str

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that are alive."""
        return alive()

    @property
    def is_one_machine(self) -> bool:
        """True when all nodes are on this machine."""
        return {node["NodeManagerHostname"] for node in self.nodes} <= {os.uname().nodename}

    def gate(self, limiter: Limiter, budget: Budget) -> Any:
        """The gate's actor, on this process's own node: that cannot be lost without this process."""
        here = on_node(ray.get_runtime_context().get_node_id())
        made: Any = ray.remote(GateActor)
        return made.options(num_cpus=0, max_restarts=0, scheduling_strategy=here).remote(limiter, budget)


def alive() -> list[dict[str, Any]]:
    """The nodes of the cluster that are alive."""
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def on_node(node_id: str) -> NodeAffinitySchedulingStrategy:
    """On this node and no other."""
    return NodeAffinitySchedulingStrategy(node_id, soft=False)


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
        ray.shutdown()
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
        both = said.partition("Version mismatch: ")[2]
        return f"the Ray cluster at {address} runs other versions than this process. {both}: install the same"
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
        raise _not_begun(what, error) from None
    except RayError as error:
        raise _not_begun(what, error) from None
    if standing.trimtab != version("trimtab"):
        raise _another_version(standing.host, standing.trimtab)
    return standing


def _not_begun(what: str, error: Exception) -> ClusterError:
    """What keeps an actor from beginning: another trimtab on some node if there is one, else its words."""
    for host, found in _versions():
        if found != version("trimtab"):
            return _another_version(host, found)
    return ClusterError(f"{what} could not begin: {_last_line(error)}")


def _another_version(host: str, found: str) -> ClusterError:
    return ClusterError(
        f"the cluster's node {host} has trimtab {found}, and this is {version('trimtab')}: "
        "install the same on every node"
    )


def _versions() -> list[tuple[str, str]]:
    """Each node's name and its trimtab; what asks there travels by value, and needs no trimtab."""

    def said() -> tuple[str, str]:
        import os
        from importlib.metadata import PackageNotFoundError, version

        try:
            return os.uname().nodename, version("trimtab")
        except PackageNotFoundError:
            return os.uname().nodename, "none"

    asked: Any = ray.remote(said)
    places = [on_node(node["NodeID"]) for node in alive()]
    return _heard([asked.options(num_cpus=0, scheduling_strategy=place).remote() for place in places])


def _heard(references: list[Any]) -> list[Any]:
    """What those give that give anything in time."""
    ready, _ = ray.wait(references, num_returns=len(references), timeout=VERSIONS_S)
    found = []
    for reference in ready:
        with suppress(RayError):
            found.append(ray.get(reference))
    return found


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
