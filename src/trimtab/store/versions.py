"""The versions of every adapter: which serves, which is tried on a share of requests, which has been.

    candidate --promote with a share--> canary --promote--> serving --another is promoted--> retired
    candidate ----------------------promote---------------> serving

`share` is of requests: a canary's own, 1 for the serving one. A retired version keeps 1 where it served and
was replaced, so that a rollback finds it; what was itself rolled back stands at 0 and is not gone back to.
Which version is worth promoting is decided elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from trimtab.data import question_hash
from trimtab.errors import InputError
from trimtab.store import tables
from trimtab.store.transactions import Transactions

_ROWS = tables.adapter_versions.c


class VersionStatus(StrEnum):
    """What an adapter's version is there for."""

    CANDIDATE = "candidate"  # waits for a decision
    CANARY = "canary"  # answers a share of requests
    SERVING = "serving"  # answers the rest; one of a name
    RETIRED = "retired"  # answers those who name it


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """One version of an adapter."""

    name: str
    version: int  # from 1
    folder: Path
    parent: int | None = None  # the version it was trained on from
    status: VersionStatus = VersionStatus.CANDIDATE
    share: float = 0.0
    metrics: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""  # why it is what it is
    created_at: float = 0.0  # seconds since the epoch
    decided_at: float | None = None  # when its status changed last


def lot_of(question: str) -> float:
    """A number in [0, 1) that a question always draws: below a canary's share, the canary answers it.

    A user who asks again is answered by the same version, in every worker.
    """
    return int(question_hash(f"canary {question}")[:13], 16) / 16**13  # 52 bits: exact in a float


class Versions(Transactions):
    """The versions of all adapters."""

    def versions(self, name: str) -> tuple[AdapterVersion, ...]:
        """The versions of an adapter, oldest first; none where it never had but one."""
        with self._read() as connection:
            return _versions(connection, name)

    def adapter_names(self) -> tuple[str, ...]:
        """The adapters that have versions, by name."""
        with self._read() as connection:
            return tuple(connection.execute(select(_ROWS.name).distinct().order_by(_ROWS.name)).scalars())

    def begin_versions(self, name: str, folder: Path, *, reason: str = "the first") -> AdapterVersion:
        """The version that serves; where there are none, the folder becomes version 1."""
        with self._write() as connection:
            known = _versions(connection, name)
            if not known:
                at, serves = time.time(), VersionStatus.SERVING
                known = (AdapterVersion(name, 1, folder, None, serves, 1.0, {}, reason, at, at),)
                _insert(connection, known[0])
            return _serving(known)

    def add_version(
        self, name: str, folder: Path, *, parent: int, metrics: Mapping[str, Any], reason: str
    ) -> AdapterVersion:
        """The new candidate, with the next free number."""
        with self._write() as connection:
            number = 1 + max(each.version for each in _locked(connection, name))
            made = AdapterVersion(
                name, number, folder, parent, metrics=metrics, reason=reason, created_at=time.time()
            )
            _insert(connection, made)
            return made

    def promote(self, name: str, version: int, *, share: float = 1.0, reason: str) -> AdapterVersion:
        """The version, now serving, or with a share below 1 the only canary.

        Raises:
            InputError: no such version, or a share for the one that serves already.
        """
        with self._write() as connection:
            known = _locked(connection, name)
            wanted = next((each for each in known if each.version == version), None)
            if wanted is None:
                raise InputError(f"{name} has no version {version}; `trimtab versions {name}` lists them")
            if wanted.status is VersionStatus.SERVING:
                raise InputError(f"{name}@v{version} serves already")
            _retire(connection, known, VersionStatus.CANARY, 0.0, f"v{version} was promoted")
            if share >= 1:
                _retire(connection, known, VersionStatus.SERVING, 1.0, f"replaced by v{version}")
            status = VersionStatus.CANARY if share < 1 else VersionStatus.SERVING
            _decide(connection, wanted, status, min(share, 1.0), reason)
            return _one(connection, name, version)

    def rollback(self, name: str, *, reason: str) -> tuple[AdapterVersion, AdapterVersion]:
        """What was taken back, and what serves now: a canary goes first, else the one before comes back.

        Raises:
            InputError: nothing was promoted that could be taken back.
        """
        with self._write() as connection:
            known = _locked(connection, name)
            canaries = [each for each in known if each.status is VersionStatus.CANARY]
            if canaries:
                _decide(connection, canaries[0], VersionStatus.RETIRED, 0.0, reason)
                return _one(connection, name, canaries[0].version), _serving(known)
            before = [each for each in known if each.status is VersionStatus.RETIRED and each.share == 1]
            if not before:
                raise InputError(f"{name}: there is no version to go back to")
            bad, good = _serving(known), max(before, key=lambda each: (each.decided_at or 0, each.version))
            _decide(connection, bad, VersionStatus.RETIRED, 0.0, reason)
            _decide(connection, good, VersionStatus.SERVING, 1.0, f"v{bad.version} was taken back")
            return _one(connection, name, bad.version), _one(connection, name, good.version)


def _versions(connection: Connection, name: str) -> tuple[AdapterVersion, ...]:
    wanted = select(tables.adapter_versions).where(_ROWS.name == name).order_by(_ROWS.version)
    return tuple(map(_as_version, connection.execute(wanted)))


def _locked(connection: Connection, name: str) -> tuple[AdapterVersion, ...]:
    """The versions of an adapter, which nobody else changes before this transaction ends."""
    wanted = select(tables.adapter_versions).where(_ROWS.name == name).order_by(_ROWS.version)
    known = tuple(map(_as_version, connection.execute(wanted.with_for_update())))
    if not known:
        raise InputError(f"{name!r}: no such adapter has versions; `trimtab versions` lists those that have")
    return known


def _one(connection: Connection, name: str, version: int) -> AdapterVersion:
    return next(each for each in _versions(connection, name) if each.version == version)


def _serving(known: tuple[AdapterVersion, ...]) -> AdapterVersion:
    return next(each for each in known if each.status is VersionStatus.SERVING)


def _retire(
    connection: Connection,
    known: tuple[AdapterVersion, ...],
    status: VersionStatus,
    share: float,
    reason: str,
) -> None:
    for each in known:
        if each.status is status:
            _decide(connection, each, VersionStatus.RETIRED, share, reason)


def _decide(
    connection: Connection, version: AdapterVersion, status: VersionStatus, share: float, reason: str
) -> None:
    changed = update(tables.adapter_versions).where(
        _ROWS.name == version.name, _ROWS.version == version.version
    )
    connection.execute(
        changed.values(status=status.value, share=share, reason=reason, decided_at=time.time())
    )


def _insert(connection: Connection, made: AdapterVersion) -> None:
    values = {
        "name": made.name,
        "version": made.version,
        "folder": str(made.folder),
        "parent": made.parent,
        "status": made.status.value,
        "share": made.share,
        "metrics": dict(made.metrics),
        "reason": made.reason,
        "created_at": made.created_at,
        "decided_at": made.decided_at,
    }
    connection.execute(insert(tables.adapter_versions).values(values))


def _as_version(row: Row[Any]) -> AdapterVersion:
    return AdapterVersion(
        row.name,
        row.version,
        Path(row.folder),
        row.parent,
        VersionStatus(row.status),
        row.share,
        row.metrics,
        row.reason,
        row.created_at,
        row.decided_at,
    )
