"""Draws by their numbers, a ledger of calls, and provider batches; the responses of before give way to them.

What old responses cost goes into the ledger. Their texts go: they were kept under a key that held n, from
which the keys of today cannot be made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002_draws_and_calls"
down_revision = "0001_first_tables"
branch_labels = None
depends_on = None

PAGE = 1000
FORMERLY = "response:"  # marks the ledger's lines that were responses

responses = sa.table(
    "responses",
    sa.column("key", sa.String),
    sa.column("run_id", sa.String),
    sa.column("model", sa.Text),
    sa.column("completions", sa.Text),
    sa.column("calls", sa.Integer),
    sa.column("input_tokens", sa.Integer),
    sa.column("output_tokens", sa.Integer),
    sa.column("usd", sa.Float(53)),
    sa.column("created_at", sa.DateTime(timezone=True)),
)
calls = sa.table(
    "calls",
    sa.column("id", sa.String),
    sa.column("run_id", sa.String),
    sa.column("purpose", sa.String),
    sa.column("model", sa.Text),
    sa.column("endpoint", sa.Text),
    sa.column("payer", sa.Text),
    sa.column("outcome", sa.String),
    sa.column("input_tokens", sa.Integer),
    sa.column("output_tokens", sa.Integer),
    sa.column("calls", sa.Integer),
    sa.column("usd", sa.Float(53)),
    sa.column("seconds", sa.Float(53)),
    sa.column("started_at", sa.Float(53)),
    sa.column("attempt", sa.Integer),
    sa.column("n", sa.Integer),
    sa.column("error", sa.Text),
    sa.column("is_batch", sa.Boolean),
)


def upgrade() -> None:
    _create_samples()
    _create_calls()
    _create_replays_and_batches()
    for rows in _pages(responses, "key"):
        op.get_bind().execute(calls.insert(), [_call(row) for row in rows])
    op.drop_index("ix_responses_run_id", "responses")
    op.drop_table("responses")


def downgrade() -> None:
    """What calls cost becomes responses without a text, under keys that nobody asks for."""
    _create_responses()
    for rows in _pages(calls, "id"):
        op.get_bind().execute(responses.insert(), [_response(row) for row in rows])
    for table in ("batches", "replays", "calls", "samples"):
        op.drop_table(table)


def _pages(table: sa.TableClause, key: str) -> Iterator[Sequence[sa.Row[Any]]]:
    """The rows of a table by their key, so many at a time: a store may be larger than memory."""
    last = ""
    while True:
        page = sa.select(table).where(table.c[key] > last).order_by(table.c[key]).limit(PAGE)
        rows = op.get_bind().execute(page).all()
        if not rows:
            return
        yield rows
        last = rows[-1]._mapping[key]


def _call(row: sa.Row[Any]) -> dict[str, Any]:
    money = {name: row._mapping[name] for name in ("input_tokens", "output_tokens", "calls", "usd")}
    made = row.created_at if row.created_at.tzinfo else row.created_at.replace(tzinfo=UTC)
    return {
        "id": FORMERLY + row.key,
        "run_id": row.run_id,
        "purpose": "sampling",
        "model": row.model,
        "endpoint": "",
        "payer": "",
        "outcome": "paid" if row.calls else "unpaid",
        **money,
        "seconds": 0.0,
        "started_at": made.timestamp(),
        "attempt": 0,
        "n": len(json.loads(row.completions)),
        "error": "",
        "is_batch": False,
    }


def _response(row: sa.Row[Any]) -> dict[str, Any]:
    money = {name: row._mapping[name] for name in ("input_tokens", "output_tokens", "calls", "usd")}
    key = f"call:{row.id}"[:200]
    made = datetime.fromtimestamp(row.started_at, UTC)
    about = {"key": key, "run_id": row.run_id, "model": row.model, "completions": "[]", "created_at": made}
    return {**about, **money}


def _create_samples() -> None:
    op.create_table(
        "samples",
        sa.Column("key", sa.String(200), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("finish", sa.String(10), nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("call_id", sa.String(200), nullable=True),
        sa.Column("run_id", sa.String(200), nullable=False),
        sa.Column("usd", sa.Float(53), nullable=True),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Float(53), nullable=False),
    )
    op.create_index("ix_samples_created_at", "samples", ["created_at", "size"])


def _create_calls() -> None:
    op.create_table(
        "calls",
        sa.Column("id", sa.String(200), primary_key=True),
        sa.Column("run_id", sa.String(200), nullable=True),
        sa.Column("purpose", sa.String(20), nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("payer", sa.Text, nullable=False),
        sa.Column("outcome", sa.String(20), nullable=False),
        sa.Column("input_tokens", sa.Integer, nullable=False),
        sa.Column("output_tokens", sa.Integer, nullable=False),
        sa.Column("calls", sa.Integer, nullable=False),
        sa.Column("usd", sa.Float(53), nullable=True),
        sa.Column("seconds", sa.Float(53), nullable=False),
        sa.Column("started_at", sa.Float(53), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("n", sa.Integer, nullable=False),
        sa.Column("status", sa.Integer, nullable=True),
        sa.Column("request_id", sa.Text, nullable=True),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("is_batch", sa.Boolean, nullable=False),
    )
    op.create_index("ix_calls_run_id", "calls", ["run_id"])
    op.create_index("ix_calls_payer", "calls", ["payer", "endpoint"])


def _create_replays_and_batches() -> None:
    op.create_table(
        "replays",
        sa.Column("run_id", sa.String(200), primary_key=True),
        sa.Column("draws", sa.Integer, nullable=False),
        sa.Column("usd", sa.Float(53), nullable=False),
    )
    op.create_table(
        "batches",
        sa.Column("id", sa.String(200), primary_key=True),
        sa.Column("run_id", sa.String(200), nullable=False),
        sa.Column("payer", sa.Text, nullable=False),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("remote_id", sa.Text, nullable=False),
        sa.Column("status", sa.String(50), nullable=False),
        sa.Column("asked", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_batches_run_id", "batches", ["run_id"])


def _create_responses() -> None:
    op.create_table(
        "responses",
        sa.Column("key", sa.String(200), primary_key=True),
        sa.Column("run_id", sa.String(200), nullable=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("completions", sa.Text, nullable=False),
        sa.Column("calls", sa.Integer, nullable=False),
        sa.Column("input_tokens", sa.Integer, nullable=False),
        sa.Column("output_tokens", sa.Integer, nullable=False),
        sa.Column("usd", sa.Float(53), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_responses_run_id", "responses", ["run_id"])
