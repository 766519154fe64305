"""The only SQL: paid draws and their ledger, rounds and feedback, in SQLite by default or in PostgreSQL."""

from __future__ import annotations

from trimtab.store.batches import Batch
from trimtab.store.database import step_down
from trimtab.store.feedback import Heard
from trimtab.store.history import PaidCall, Past
from trimtab.store.inferences import Inference, Order
from trimtab.store.keys import ApiKey, Scope, key_digest
from trimtab.store.ledger import Cost, Replays
from trimtab.store.retention import Forgotten
from trimtab.store.rounds import RoundRecord
from trimtab.store.runs import FINISHED, RUNNING, Run
from trimtab.store.samples import CacheLine, KeptDraw, Pruned
from trimtab.store.store import Store
from trimtab.store.versions import AdapterVersion, VersionStatus, lot_of

__all__ = [
    "FINISHED",
    "RUNNING",
    "AdapterVersion",
    "ApiKey",
    "Batch",
    "CacheLine",
    "Cost",
    "Forgotten",
    "Heard",
    "Inference",
    "KeptDraw",
    "Order",
    "PaidCall",
    "Past",
    "Pruned",
    "Replays",
    "RoundRecord",
    "Run",
    "Scope",
    "Store",
    "VersionStatus",
    "key_digest",
    "lot_of",
    "step_down",
]
