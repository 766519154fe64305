"""Who may ask a server: API keys by their hash, what each may do, and what it has spent.

The key itself is shown once, where it is made, and kept nowhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from sqlalchemy import Update, func, insert, select, update

from trimtab.store import tables
from trimtab.store.transactions import Transactions

_KEYS = tables.api_keys


class Scope(StrEnum):
    """What a key may do; `admin` may do everything."""

    INFER = "infer"
    FEEDBACK = "feedback"
    REVIEW = "review"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key: what it may do, and what it has done."""

    id: str
    name: str
    digest: str  # of the key itself (`key_digest`)
    scopes: tuple[Scope, ...]
    created_at: float  # seconds since the epoch
    adapters: tuple[str, ...] | None = None  # names of models it may ask; None is all
    max_usd: float | None = None
    requests_per_minute: int | None = None
    concurrency: int | None = None
    revoked_at: float | None = None
    spent_usd: float = 0.0

    def may(self, scope: Scope) -> bool:
        """True when the key has this scope."""
        return self.revoked_at is None and bool({scope, Scope.ADMIN} & set(self.scopes))


def key_digest(key: str) -> str:
    """What is kept of a key: 32 random bytes need no salt and no slow hash."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


_COLUMNS = [_KEYS.c[each.name] for each in fields(ApiKey)]


class Keys(Transactions):
    """The keys of a server."""

    def add_key(self, key: ApiKey) -> None:
        """Keep a new key."""
        with self._write() as connection:
            connection.execute(insert(_KEYS).values(asdict(key)))

    def keys(self) -> tuple[ApiKey, ...]:
        """All keys, revoked ones too, in the order they were made."""
        wanted = select(*_COLUMNS).order_by(_KEYS.c.created_at, _KEYS.c.id)
        with self._read() as connection:
            return tuple(_as_key(row._asdict()) for row in connection.execute(wanted))

    def revoke_key(self, key_id: str, at: float) -> bool:
        """True when there is such a key; it is of no use from then on."""
        wanted = update(_KEYS).where(_KEYS.c.id == key_id)
        with self._write() as connection:
            done = connection.execute(wanted.values(revoked_at=func.coalesce(_KEYS.c.revoked_at, at)))
            return done.rowcount > 0

    def reserve_on_key(self, key_id: str, usd: float) -> bool:
        """True when so much is left of what a key may spend; it is counted as spent then.

        One statement, so that no number of workers can spend the same dollar.
        """
        fits = _KEYS.c.max_usd.is_(None) | (_KEYS.c.spent_usd + usd <= _KEYS.c.max_usd)
        with self._write() as connection:
            done = connection.execute(_spent_more(key_id, usd).where(fits))
            return done.rowcount > 0

    def charge_key(self, key_id: str, usd: float) -> None:
        """Count dollars as spent; negative ones give back what was reserved."""
        with self._write() as connection:
            connection.execute(_spent_more(key_id, usd))


def _spent_more(key_id: str, usd: float) -> Update:
    return update(_KEYS).where(_KEYS.c.id == key_id).values(spent_usd=_KEYS.c.spent_usd + usd)


def _as_key(row: Mapping[str, Any]) -> ApiKey:
    adapters = row["adapters"]
    lists = {
        "scopes": tuple(map(Scope, row["scopes"])),
        "adapters": None if adapters is None else tuple(adapters),
    }
    return ApiKey(**{**row, **lists})
