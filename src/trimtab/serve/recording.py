"""What is kept of every answer, before it has left: one row an inference, and the ledger's lines with it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from trimtab.llm.grouped import Grouped
from trimtab.store import Inference, Store
from trimtab.types import Call


@dataclass(frozen=True, slots=True)
class Record:
    """An answer, and the calls that it took and that nobody else puts into the ledger."""

    inference: Inference
    calls: tuple[Call, ...] = ()


class Recorder:
    """Keeps answers; those of one moment go into one transaction.

    Args:
        store: where they are kept. It need not survive a power cut: what a killed process has written stays.
        run_id: on whose account the calls are.
    """

    def __init__(self, store: Store, run_id: str) -> None:
        self._store, self._run_id = store, run_id
        writer = ThreadPoolExecutor(1, thread_name_prefix="trimtab-inferences")
        self._write: Grouped[Record, None] = Grouped(self._written, writer)
        self._under_way: set[asyncio.Task[None]] = set()

    async def keep(self, inference: Inference, calls: tuple[Call, ...] = ()) -> None:
        """Returns when the answer is kept. Raises RunError where it cannot be."""
        await self._write(Record(inference, calls))

    def _written(self, records: Sequence[Record]) -> Sequence[None]:
        calls = [call for each in records for call in each.calls]
        self._store.add_inferences([each.inference for each in records], self._run_id, calls)
        return [None] * len(records)

    def keep_soon(self, inference: Inference, calls: tuple[Call, ...] = ()) -> None:
        """The same for who cannot wait: its client has gone away."""
        task = asyncio.create_task(self.keep(inference, calls))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def close(self) -> None:
        """Returns when everything is kept."""
        await asyncio.gather(*self._under_way, return_exceptions=True)
