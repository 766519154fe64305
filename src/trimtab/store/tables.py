"""The tables, as SQLAlchemy sees them; how they came about stands in `migrations`.

Run ids are labels given by the caller; samples and calls outlive the run that paid: the samples are shared
by all runs, the calls are money that is gone.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.types import TypeDecorator

metadata = MetaData()


class Json(TypeDecorator[Any]):
    """A value as JSON in ASCII.

    Free text is kept this way too: a NUL or half a surrogate pair, which black boxes do send, then comes
    back as it was from every database.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:
        """The JSON text of a value."""
        return json.dumps(value, allow_nan=False)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """The value of a JSON text."""
        return None if value is None else json.loads(value)


class Line(TypeDecorator[str]):
    """One line that somebody else's program wrote; what no database takes in it stands as a �."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """The line without NULs and half surrogate pairs."""
        return None if value is None else value.encode("utf-8", "replace").decode().replace("\0", "�")


runs = Table(
    "runs",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("kind", String(50), nullable=False),
    Column("config", Json, nullable=False),
    Column("status", String(50), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False),
)

samples = Table(
    "samples",
    metadata,
    Column("key", String(200), primary_key=True),  # of the request
    Column("number", Integer, primary_key=True, autoincrement=False),  # of the draw
    Column("text", Json, nullable=False),
    Column("finish", String(10), nullable=False),
    Column("model", Line, nullable=False),
    Column("call_id", String(200), nullable=True),  # the call that paid; null: nobody did
    Column("run_id", String(200), nullable=False),  # the run that used it last
    Column("usd", Float(53), nullable=True),  # its share of what was paid
    Column("size", Integer, nullable=False),  # bytes it takes, roughly
    Column("created_at", Float(53), nullable=False),  # seconds since the epoch
    Index("ix_samples_created_at", "created_at", "size"),  # its own sum and order: no text is read for them
)

calls = Table(
    "calls",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("run_id", String(200), nullable=True),  # the run that paid
    Column("purpose", String(20), nullable=False),
    Column("model", Line, nullable=False),
    Column("endpoint", Line, nullable=False),
    Column("payer", Line, nullable=False),
    Column("outcome", String(20), nullable=False),
    Column("input_tokens", Integer, nullable=False),
    Column("output_tokens", Integer, nullable=False),
    Column("calls", Integer, nullable=False),
    Column("usd", Float(53), nullable=True),
    Column("seconds", Float(53), nullable=False),
    Column("started_at", Float(53), nullable=False),  # seconds since the epoch
    Column("attempt", Integer, nullable=False),
    Column("n", Integer, nullable=False),
    Column("status", Integer, nullable=True),
    Column("request_id", Line, nullable=True),
    Column("error", Line, nullable=False),
    Column("is_batch", Boolean, nullable=False),
    Index("ix_calls_run_id", "run_id"),
    Index("ix_calls_payer", "payer", "endpoint"),
)

replays = Table(
    "replays",
    metadata,
    Column("run_id", String(200), primary_key=True),
    Column("draws", Integer, nullable=False),  # draws it used that an earlier run had paid for
    Column("usd", Float(53), nullable=False),  # what those had cost, as far as known
)

batches = Table(
    "batches",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("run_id", String(200), nullable=False, index=True),
    Column("payer", Line, nullable=False),
    Column("endpoint", Line, nullable=False),
    Column("remote_id", Line, nullable=False),  # the provider's; empty before it has said one
    Column("status", String(50), nullable=False),
    Column("asked", Json, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False),
)

candidates = Table(
    "candidates",
    metadata,
    Column("run_id", String(200), primary_key=True),
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("question_id", Text, primary_key=True),
    Column("draw", Integer, primary_key=True, autoincrement=False),
    Column("text", Json, nullable=False),
    Column("answer", Json, nullable=False),  # JSON null: unreadable
    Column("score", Float(53), nullable=True),
    Column("confidence", Float(53), nullable=True),
    Column("verdict", String(20), nullable=False),
)

judgements = Table(
    "judgements",
    metadata,
    Column("run_id", String(200), primary_key=True),
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("question_id", Text, primary_key=True),
    Column("judgement", Json, nullable=False),
)

rounds = Table(
    "rounds",
    metadata,
    Column("run_id", String(200), primary_key=True),
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("record", Json, nullable=False),
    Column("adapter", Text, nullable=True),  # the folder
)

feedback = Table(
    "feedback",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),  # order of arrival
    Column("id", Text, nullable=False),  # the giver's, else a hash of the content
    Column("given_id", Json, nullable=False),
    Column("question_hash", String(64), nullable=False, index=True),
    Column("question", Json, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("text", Json, nullable=False),
    Column("value", Json, nullable=False),
    Column("source", Json, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("inference_id", String(64), nullable=True, index=True),  # the served answer it is about
    Column("forgotten_at", Float(53), nullable=True),  # when its words were deleted
    UniqueConstraint("id", name="uq_feedback_id"),
    Index("ix_feedback_created_at", "created_at"),
)

inferences = Table(
    "inferences",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("created_at", Float(53), nullable=False),  # seconds since the epoch
    Column("adapter", Line, nullable=False),  # empty: the black box itself answered
    Column("version", Integer, nullable=False),
    Column("key_id", String(32), nullable=True),  # who asked; null where no key is needed
    Column("question", Json, nullable=False),
    Column("question_hash", String(64), nullable=False, index=True),
    Column("messages", Json, nullable=False),
    Column("task", Line, nullable=False),
    Column("chosen", Integer, nullable=True),  # index among the candidates
    Column("candidates", Json, nullable=False),
    Column("text", Json, nullable=False),
    Column("answer", Json, nullable=False),  # JSON null: unreadable, or not read at all
    Column("confidence", Float(53), nullable=True),
    Column("score", Float(53), nullable=True),
    Column("status", String(20), nullable=False),
    Column("usage", Json, nullable=False),
    Column("usd", Float(53), nullable=True),
    Column("seconds", Float(53), nullable=False),
    Column("upstream", Line, nullable=False),  # the black box that was asked
    Column("forgotten_at", Float(53), nullable=True),  # when its words were deleted (`store.retention`)
    Index("ix_inferences_created_at", "created_at"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", Line, nullable=False),
    Column("digest", String(64), nullable=False),  # SHA-256 of the key, which itself is kept nowhere
    Column("scopes", Json, nullable=False),
    Column("adapters", Json, nullable=False),  # JSON null: all of them
    Column("max_usd", Float(53), nullable=True),
    Column("requests_per_minute", Integer, nullable=True),
    Column("concurrency", Integer, nullable=True),
    Column("created_at", Float(53), nullable=False),
    Column("revoked_at", Float(53), nullable=True),
    Column("spent_usd", Float(53), nullable=False),
    Column("requests_left", Float(53), nullable=True),  # of its rate; null: it has not asked yet
    Column("counted_at", Float(53), nullable=True),  # when so many were left
    UniqueConstraint("digest", name="uq_api_keys_digest"),
)

key_places = Table(
    "key_places",  # requests under way of keys that may have so many at once
    metadata,
    Column("id", String(32), primary_key=True),
    Column("key_id", String(32), nullable=False, index=True),
    Column("until", Float(53), nullable=False),  # seconds since the epoch; later, whoever held it is dead
)

adapter_versions = Table(
    "adapter_versions",
    metadata,
    Column("name", Line, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("folder", Text, nullable=False),
    Column("parent", Integer, nullable=True),  # the version it was trained on from
    Column("status", String(20), nullable=False),
    Column("share", Float(53), nullable=False),  # of requests; see `store.versions`
    Column("metrics", Json, nullable=False),
    Column("reason", Line, nullable=False),
    Column("created_at", Float(53), nullable=False),  # seconds since the epoch
    Column("decided_at", Float(53), nullable=True),
)
Index(
    "uq_adapter_versions_serving",  # one version of an adapter serves, whoever promotes at the same time
    adapter_versions.c.name,
    unique=True,
    sqlite_where=adapter_versions.c.status == "serving",
    postgresql_where=adapter_versions.c.status == "serving",
)
