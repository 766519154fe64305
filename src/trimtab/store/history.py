"""What requests have taken before: the measurements that an estimate stands on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select

from trimtab.store import tables
from trimtab.store.samples import AT_ONCE
from trimtab.store.transactions import Transactions
from trimtab.types import Outcome, Purpose

_PAID = tables.calls.c
_SAMPLES = tables.samples.c


@dataclass(frozen=True, slots=True)
class PaidCall:
    """One call that brought draws which are kept."""

    key: str  # of the request
    input_tokens: int
    output_tokens: int
    draws: int  # that it brought


@dataclass(frozen=True, slots=True)
class Past:
    """What one run's answered calls to a model took, by purpose."""

    run_id: str | None
    purpose: Purpose
    calls: int
    input_tokens: int
    output_tokens: int
    draws: int  # that were asked for


class History(Transactions):
    """Measured lengths, from the ledger."""

    def paid_for(self, keys: Sequence[str]) -> tuple[PaidCall, ...]:
        """The calls that brought the kept draws of these requests."""
        wanted = sorted(set(keys))
        found: list[PaidCall] = []
        for start in range(0, len(wanted), AT_ONCE):
            found += self._paid_for(wanted[start : start + AT_ONCE])
        return tuple(found)

    def past(self, model: str, endpoint: str) -> tuple[Past, ...]:
        """What answered calls to a model have taken, by run and purpose."""
        by = (_PAID.run_id, _PAID.purpose)
        sums = (func.sum(column) for column in (_PAID.input_tokens, _PAID.output_tokens, _PAID.n))
        wanted = select(*by, func.count(), *sums).group_by(*by).order_by(*by)
        answered = _PAID.outcome == Outcome.PAID.value
        with self._read() as connection:
            rows = connection.execute(
                wanted.where(answered, _PAID.model == model, _PAID.endpoint == endpoint)
            )
            return tuple(Past(row[0], Purpose(row[1]), *map(int, row[2:])) for row in rows)

    def _paid_for(self, keys: Sequence[str]) -> list[PaidCall]:
        tokens = (_PAID.input_tokens, _PAID.output_tokens)
        wanted = (
            select(_SAMPLES.key, *tokens, func.count())
            .join_from(tables.samples, tables.calls, _SAMPLES.call_id == _PAID.id)
            .where(_SAMPLES.key.in_(keys), _PAID.outcome == Outcome.PAID.value)
            .group_by(_SAMPLES.key, _PAID.id, *tokens)
            .order_by(_SAMPLES.key, _PAID.id)
        )
        with self._read() as connection:
            return [PaidCall(*row) for row in connection.execute(wanted)]
