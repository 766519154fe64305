"""The only SQL: paid responses, rounds and feedback, in SQLite by default or any database by URL."""

from __future__ import annotations

from trimtab.store.store import RoundRecord, Run, Store

__all__ = ["RoundRecord", "Run", "Store"]
