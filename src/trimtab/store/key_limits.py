"""How often keys ask and how much they have under way: counted in the store, for all workers together.

A rate is a bucket: full with a minute's requests, refilled evenly. What is under way holds a place until it
ends; a place that nobody has prolonged is a dead worker's, and free again.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, case, delete, func, insert, select, update

from trimtab.store import tables
from trimtab.store.transactions import Transactions

MINUTE_S = 60.0
_KEYS = tables.api_keys
_PLACES = tables.key_places


class KeyLimits(Transactions):
    """What keys have left, and have under way."""

    def admit_key(self, key_id: str, per_minute: float, at: float) -> float:
        """0 where the key may ask now, and this request is counted; else the seconds until it may.

        One conditional statement counts, so that no number of workers admits the same request twice.

        Args:
            key_id: the key.
            per_minute: its rate, and the most that it can have saved up.
            at: now, in seconds since the epoch.
        """
        most = max(1.0, per_minute)
        left, is_it = _left(most, at), _KEYS.c.id == key_id
        counted = {"requests_left": left - 1, "counted_at": _larger(_KEYS.c.counted_at, at)}
        with self._write() as connection:
            if connection.execute(update(_KEYS).where(is_it, left >= 1).values(counted)).rowcount:
                return 0.0
            short = connection.execute(select(1 - left).where(is_it)).scalar_one_or_none()
        return MINUTE_S * (1.0 if short is None else max(0.0, short)) / most

    def take_place(self, key_id: str, place: str, most: int, *, at: float, until: float) -> bool:
        """True where the key had fewer than `most` requests under way: now one more, until then."""
        wanted = select(func.count()).select_from(_PLACES).where(_PLACES.c.key_id == key_id)
        with self._write() as connection:
            connection.execute(select(_KEYS.c.id).where(_KEYS.c.id == key_id).with_for_update())
            connection.execute(delete(_PLACES).where(_PLACES.c.key_id == key_id, _PLACES.c.until <= at))
            if connection.execute(wanted).scalar_one() >= most:
                return False
            connection.execute(insert(_PLACES).values(id=place, key_id=key_id, until=until))
            return True

    def hold_places(self, places: Collection[str], until: float) -> None:
        """Prolong places: whoever has them is alive."""
        with self._write() as connection:
            connection.execute(update(_PLACES).where(_PLACES.c.id.in_(places)).values(until=until))

    def leave_place(self, place: str) -> None:
        """Give a place back."""
        with self._write() as connection:
            connection.execute(delete(_PLACES).where(_PLACES.c.id == place))


def _left(most: float, at: float) -> ColumnElement[float]:
    """What is left in the bucket now; clocks of two machines may differ, so time never runs backwards."""
    since = at - func.coalesce(_KEYS.c.counted_at, at)
    filled = (
        func.coalesce(_KEYS.c.requests_left, most) + case((since > 0, since), else_=0.0) * most / MINUTE_S
    )
    return case((filled > most, most), else_=filled)


def _larger(column: ColumnElement[Any], value: float) -> ColumnElement[Any]:
    return case((column > value, column), else_=value)
