"""`trimtab promote`, `rollback` and `versions`: which version of an adapter answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from trimtab.cli import build
from trimtab.cli.console import print_json, say, table
from trimtab.cli.settings import Settings
from trimtab.energy import verify_adapter
from trimtab.errors import ConfigError
from trimtab.store import AdapterVersion, Store, VersionStatus

NAMED = re.compile(r"(?P<name>[^@]+)(?:@v(?P<version>\d{1,9}))?")


def promote(settings: Settings, named: str, as_json: bool, *, share: float) -> None:
    """Puts a version in service, whole or for a share of requests; without a number the newest that waits."""
    name, number = _read(named)
    with closing(build.store_of(settings)) as store:
        wanted = number if number is not None else _waiting(store, name)
        chosen = [each for each in store.versions(name) if each.version == wanted]
        for each in chosen:
            verify_adapter(each.folder)  # what cannot be served is not promoted
        made = store.promote(name, wanted, share=share, reason="promoted by hand")
    if as_json:
        return print_json(told(made))
    how = "serves" if made.status is VersionStatus.SERVING else f"answers {100 * made.share:g} % of requests"
    return say(f"{name}@v{made.version} {how}; servers know it within seconds")


def rollback(settings: Settings, name: str, as_json: bool) -> None:
    """Takes back what was promoted last: a canary, else the version that serves."""
    with closing(build.store_of(settings)) as store:
        bad, good = store.rollback(name, reason="rolled back by hand")
    if as_json:
        return print_json({"taken_back": told(bad), "serving": told(good)})
    return say(f"{name}@v{bad.version} is taken back; {name}@v{good.version} serves")


def versions(settings: Settings, name: str | None, as_json: bool) -> None:
    """Lists the versions of an adapter, or of all."""
    with closing(build.store_of(settings)) as store:
        names = [name] if name else store.adapter_names()
        found = [each for one in names for each in store.versions(one)]
    if as_json:
        return print_json({"versions": [told(each) for each in found]})
    columns = ["version", "status", "share", "from", "right", "points", "why"]
    return table("versions", columns, [_row(each) for each in found])


def told(version: AdapterVersion) -> dict[str, Any]:
    """A version in plain values."""
    return {
        "adapter": version.name,
        "version": version.version,
        "status": str(version.status),
        "share": version.share,
        "parent": version.parent,
        "folder": str(version.folder),
        "reason": version.reason,
        "created_at": version.created_at,
        "decided_at": version.decided_at,
        "metrics": dict(version.metrics),
    }


def _read(named: str) -> tuple[str, int | None]:
    found = NAMED.fullmatch(named)
    if found is None:
        raise ConfigError(f"{named!r}: write NAME or NAME@v2; `trimtab versions` lists them")
    return found["name"], None if found["version"] is None else int(found["version"])


def _waiting(store: Store, name: str) -> int:
    """The canary, else the newest candidate: what promoting without a number means."""
    known = store.versions(name)
    canaries = [each.version for each in known if each.status is VersionStatus.CANARY]
    candidates = [each.version for each in known if each.status is VersionStatus.CANDIDATE]
    waiting = canaries or candidates
    if not waiting:
        raise ConfigError(f"{name}: no version waits to be promoted; `trimtab versions` lists them all")
    return max(waiting)


def _row(version: AdapterVersion) -> Sequence[str]:
    holdout = (version.metrics.get("trial") or {}).get("holdout") or {}
    difference = holdout.get("difference") or {}
    return [
        f"{version.name}@v{version.version}",
        str(version.status),
        f"{version.share:g}",
        "-" if version.parent is None else f"v{version.parent}",
        f"{holdout['new']:.3f}" if holdout else "-",
        f"{100 * difference['value']:+.1f}" if difference else "-",
        version.reason,
    ]
