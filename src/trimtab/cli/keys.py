"""`trimtab keys`: who may ask a server. A key is shown once, where it is made; the store has its hash."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from trimtab.cli import build
from trimtab.cli.console import print_json, say, table
from trimtab.cli.settings import Settings
from trimtab.errors import ConfigError
from trimtab.store import ApiKey, Scope, key_digest

PREFIX = "tt-"
BYTES = 32
COLUMNS = [
    *("key", "name", "scopes", "models", "$ spent", "$ at most"),
    *("a minute", "at once", "made", "revoked"),
]


def create(
    settings: Settings,
    as_json: bool,
    *,
    name: str,
    scopes: Sequence[str],
    adapters: Sequence[str],
    max_usd: float | None,
    rpm: int | None,
    concurrency: int | None,
) -> None:
    """Makes a key and prints it, this once."""
    secret = PREFIX + secrets.token_urlsafe(BYTES)
    key = ApiKey(
        id=secrets.token_hex(6),
        name=name,
        digest=key_digest(secret),
        scopes=_scopes(scopes),
        created_at=time.time(),
        adapters=tuple(adapters) or None,
        max_usd=max_usd,
        requests_per_minute=rpm,
        concurrency=concurrency,
    )
    with closing(build.store_of(settings)) as store:
        store.add_key(key)
    if as_json:
        return print_json({"key": secret, **_told(key)})
    say(f"key {key.id} ({name}) may {', '.join(key.scopes)}; it is shown this once and kept nowhere:")
    print(secret)
    return None


def show(settings: Settings, as_json: bool) -> None:
    """Lists the keys, revoked ones too."""
    with closing(build.store_of(settings)) as store:
        keys = store.keys()
    if as_json:
        return print_json({"keys": [_told(key) for key in keys]})
    return table("keys", COLUMNS, [_row(key) for key in keys])


def revoke(settings: Settings, key_id: str, as_json: bool) -> None:
    """Makes a key useless, in every server on this store within seconds."""
    with closing(build.store_of(settings)) as store:
        if not store.revoke_key(key_id, time.time()):
            raise ConfigError(f"no key {key_id!r}; `trimtab keys list` shows the ids")
    if as_json:
        print_json({"revoked": key_id})
    say(f"key {key_id} is revoked")


def _scopes(given: Sequence[str]) -> tuple[Scope, ...]:
    unknown = [each for each in given if each not in list(Scope)]
    if unknown:
        raise ConfigError(f"--scope: {', '.join(unknown)}; there are: {', '.join(Scope)}")
    return tuple(dict.fromkeys(map(Scope, given)))


def _told(key: ApiKey) -> dict[str, Any]:
    return {name: value for name, value in asdict(key).items() if name != "digest"}


def _row(key: ApiKey) -> list[str]:
    limits = (key.max_usd, key.requests_per_minute, key.concurrency)
    return [
        key.id,
        key.name,
        " ".join(key.scopes),
        " ".join(key.adapters) if key.adapters else "all",
        f"{key.spent_usd:.4f}",
        *("-" if limit is None else f"{limit:g}" for limit in limits),
        _day(key.created_at),
        "-" if key.revoked_at is None else _day(key.revoked_at),
    ]


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"
