"""Draws that were paid for, by request and number, kept before they are used; and how they are bounded.

Draws are shared by all runs: whichever asks the same request gets them. What they cost stands in the ledger,
which outlives them. What makes a request the same is the client's to say: here it is a key.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    bindparam,
    delete,
    exists,
    func,
    or_,
    select,
    tuple_,
    update,
)

from trimtab.store import tables
from trimtab.store.ledger import Replays, put_calls, put_replays
from trimtab.store.runs import FINISHED
from trimtab.store.transactions import Transactions, put_new
from trimtab.types import Call, Completion, Draws, Outcome, Reply, SampleStore

MB = 1_000_000
ROW_BYTES = 320  # what a row takes beside its text, indices included; measured on SQLite
AT_ONCE = 500  # requests looked up by one statement; SQLite takes 32,766 parameters
PAGE = 2000  # rows of a transaction that could be long: others write in between
_SAMPLES = tables.samples.c


@dataclass(frozen=True, slots=True)
class KeptDraw:
    """One kept draw, as it is exported."""

    key: str
    number: int
    text: str
    finish: str
    model: str
    created_at: float  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class CacheLine:
    """What is kept of one model."""

    model: str
    requests: int
    draws: int
    bytes: int
    usd: float  # what these draws had cost, as far as known
    oldest: float  # seconds since the epoch
    newest: float


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was dropped, and what is left."""

    draws: int
    bytes: int
    bytes_left: int


@dataclass(frozen=True, slots=True)
class _Account:
    """A SampleStore on the account of one run."""

    store: Samples
    run_id: str

    def kept(self, wanted: Sequence[Draws]) -> list[dict[int, Completion]]:
        return self.store._kept(self.run_id, wanted)

    def keep(self, replies: Sequence[Reply]) -> None:
        self.store._keep(self.run_id, replies)


class Samples(Transactions):
    """The draws of all runs."""

    def samples_of(self, run_id: str) -> SampleStore:
        """All kept draws; what is kept through it goes on the account of this run, ledger lines included."""
        return _Account(self, run_id)

    def cache_summary(self) -> tuple[CacheLine, ...]:
        """What is kept, by model."""
        requests = func.count(func.distinct(_SAMPLES.key))
        dates = func.min(_SAMPLES.created_at), func.max(_SAMPLES.created_at)
        usd = func.coalesce(func.sum(_SAMPLES.usd), 0.0)
        sums = (requests, func.count(), func.sum(_SAMPLES.size), usd, *dates)
        wanted = select(_SAMPLES.model, *sums).group_by(_SAMPLES.model).order_by(_SAMPLES.model)
        with self._read() as connection:
            return tuple(
                CacheLine(model, requests, draws, int(size), paid, oldest, newest)
                for model, requests, draws, size, paid, oldest, newest in connection.execute(wanted)
            )

    def cache_bytes(self) -> int:
        """Bytes that the kept draws take, roughly."""
        with self._read() as connection:
            return _bytes(connection)

    def kept_draws(self, keys: Sequence[str] | None = None) -> Iterator[KeptDraw]:
        """The kept draws by key and number; of these requests only, if any are named."""
        if keys is not None:
            for some in _parts(sorted(set(keys))):
                yield from self._page(_SAMPLES.key.in_(some))
            return
        page = self._page(limit=PAGE)
        while page:
            yield from page
            last = page[-1]
            page = self._page(tuple_(_SAMPLES.key, _SAMPLES.number) > (last.key, last.number), limit=PAGE)

    def prune(
        self,
        *,
        max_bytes: float | None = None,
        keep_days: float | None = None,
        unfinished: bool = False,
        dry_run: bool = False,
    ) -> Pruned:
        """Drop the oldest draws. The ledger stays: what they cost is not forgotten.

        Args:
            max_bytes: drop until no more than this is left.
            keep_days: drop what is older.
            unfinished: also those that a run paid for, or used last, which is not finished. It would pay
                for them once more if it went on.
            dry_run: drop nothing, only say what would be.
        """
        before = None if keep_days is None else time.time() - keep_days * 86400
        allowed = () if unfinished else (_is_of_finished_runs(),)
        total = self.cache_bytes()
        draws, dropped, last = 0, 0, None
        while True:
            excess = 0.0 if max_bytes is None else total - dropped - max_bytes
            with self._read() if dry_run else self._write() as connection:
                doomed = _doomed(_oldest(connection, last, *allowed), excess, before)
                if doomed and not dry_run:
                    _drop(connection, doomed)
            draws, dropped = draws + len(doomed), dropped + sum(row.size for row in doomed)
            if len(doomed) < PAGE:
                return Pruned(draws, dropped, total - dropped)
            last = doomed[-1]

    def compact(self) -> None:
        """Give the room of dropped draws back to the disk; a server database sees to that by itself."""
        if self._reading.dialect.name == "sqlite":
            with self._explained("written"):
                connection = self._reading.raw_connection()
                try:
                    connection.cursor().execute("VACUUM")
                finally:
                    connection.close()

    # ------------------------------------------------------------------ on account of a run

    def _kept(self, run_id: str, wanted: Sequence[Draws]) -> list[dict[int, Completion]]:
        with self._read() as connection:
            found = _found(connection, wanted)
        used = [_used(found.get(draws.key, {}), draws) for draws in wanted]
        if others := [row for rows in used for row in rows.values() if row.run_id != run_id]:
            with self._write() as connection:
                _take_over(connection, run_id, others)
        return [{number: _completion(row) for number, row in rows.items()} for rows in used]

    def _keep(self, run_id: str, replies: Sequence[Reply]) -> None:
        at = time.time()
        rows = [row for reply in replies for row in _rows(run_id, reply, at)]
        # In one order everywhere: two that keep the same draws at once then wait, and never for each other.
        rows.sort(key=lambda row: row[:2])
        with self._write() as connection:
            put_calls(connection, run_id, (call for reply in replies for call in reply.calls))
            put_new(connection, tables.samples, rows)

    def _page(self, *wanted: ColumnElement[bool], limit: int | None = None) -> list[KeptDraw]:
        columns = (_SAMPLES[name] for name in ("key", "number", "text", "finish", "model", "created_at"))
        page = select(*columns).where(*wanted).order_by(_SAMPLES.key, _SAMPLES.number).limit(limit)
        with self._read() as connection:
            return [KeptDraw(*row) for row in connection.execute(page)]


# --------------------------------------------------------------------------- looking up


Found = Mapping[int, Row[Any]]  # by number


def _found(connection: Connection, wanted: Sequence[Draws]) -> dict[str, dict[int, Row[Any]]]:
    """The rows of these requests, by key and number; some beside what is wanted may be among them."""
    found: dict[str, dict[int, Row[Any]]] = {}
    for some in _parts(wanted):
        for row in connection.execute(_lookup(some)):
            found.setdefault(row.key, {})[row.number] = row
    return found


def _lookup(wanted: Sequence[Draws]) -> Any:
    first = min(draws.start for draws in wanted)
    end = max(draws.start + draws.n for draws in wanted)
    columns = (_SAMPLES[name] for name in ("key", "number", "text", "finish", "run_id", "usd"))
    keys = {draws.key for draws in wanted}
    return select(*columns).where(_SAMPLES.key.in_(keys), _SAMPLES.number >= first, _SAMPLES.number < end)


def _used(rows: Found, draws: Draws) -> Found:
    numbers = range(draws.start, draws.start + draws.n)
    return {number: rows[number] for number in numbers if number in rows}


def _completion(row: Row[Any]) -> Completion:
    return Completion(row.text, row.finish)


def _take_over(connection: Connection, run_id: str, rows: Sequence[Row[Any]]) -> None:
    """Notes that a run uses what another had paid for: once, for from now on these draws are its own."""
    place = _SAMPLES.key == bindparam("of"), _SAMPLES.number == bindparam("at")
    places = sorted({(row.key, row.number) for row in rows})
    connection.execute(
        update(tables.samples).where(*place).values(run_id=run_id),
        [{"of": key, "at": number} for key, number in places],
    )
    paid = {(row.key, row.number): row.usd or 0.0 for row in rows}
    put_replays(connection, run_id, Replays(len(paid), sum(paid.values())))


# --------------------------------------------------------------------------- keeping


def _rows(run_id: str, reply: Reply, at: float) -> Iterator[tuple[Any, ...]]:
    paid = [call for call in reply.calls if call.outcome is Outcome.PAID]
    share = _share(paid, len(reply.completions))
    for number, completion in enumerate(reply.completions, reply.start):
        yield (
            reply.key,
            number,
            completion.text,
            completion.finish,
            reply.model,
            paid[-1].id if paid else None,
            run_id,
            share,
            ROW_BYTES + _written_bytes(completion.text),
            at,
        )


def _share(paid: Sequence[Call], draws: int) -> float | None:
    """What one of these draws cost, where all prices are known."""
    prices = [call.usage.usd for call in paid]
    known = [usd for usd in prices if usd is not None]
    return sum(known) / draws if draws and known and len(known) == len(prices) else None


def _written_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(json.dumps(text))


# --------------------------------------------------------------------------- dropping


def _bytes(connection: Connection) -> int:
    return int(connection.scalar(select(func.coalesce(func.sum(_SAMPLES.size), 0))) or 0)


def _is_of_finished_runs() -> ColumnElement[bool]:
    """True of draws that no unfinished run paid for or used last."""
    runs, calls = tables.runs.c, tables.calls.c
    unfinished = select(runs.id).where(runs.status != FINISHED)
    is_paid_by_one = exists().where(calls.id == _SAMPLES.call_id, calls.run_id.in_(unfinished))
    return _SAMPLES.run_id.not_in(unfinished) & or_(_SAMPLES.call_id.is_(None), ~is_paid_by_one)


def _oldest(connection: Connection, after: Any, *wanted: ColumnElement[bool]) -> Sequence[Any]:
    order = _SAMPLES.created_at, _SAMPLES.key, _SAMPLES.number
    page = select(*order, _SAMPLES.size).where(*wanted).order_by(*order).limit(PAGE)
    if after is not None:
        page = page.where(tuple_(*order) > (after.created_at, after.key, after.number))
    return connection.execute(page).all()


def _doomed(rows: Sequence[Any], excess: float, before: float | None) -> list[Any]:
    """The first of these, oldest first: as many as are in excess or too old."""
    doomed = []
    for row in rows:
        if excess <= 0 and (before is None or row.created_at >= before):
            break
        doomed.append(row)
        excess -= row.size
    return doomed


def _drop(connection: Connection, rows: Sequence[Any]) -> None:
    place = _SAMPLES.key == bindparam("of"), _SAMPLES.number == bindparam("at")
    connection.execute(
        delete(tables.samples).where(*place), [{"of": row.key, "at": row.number} for row in rows]
    )


def _parts(items: Sequence[Any]) -> Iterator[list[Any]]:
    rest = iter(items)
    while part := list(islice(rest, AT_ONCE)):
        yield part
