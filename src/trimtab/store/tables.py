"""The tables, as SQLAlchemy sees them; how they came about stands in `migrations`.

Run ids are labels given by the caller; responses are shared by all runs, so they outlive the run that paid.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import (
    Column,
    DateTime,
    Dialect,
    Float,
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

responses = Table(
    "responses",
    metadata,
    Column("key", String(200), primary_key=True),
    Column("run_id", String(200), nullable=True, index=True),  # the run that paid
    Column("model", Text, nullable=False),
    Column("completions", Json, nullable=False),
    Column("calls", Integer, nullable=False),
    Column("input_tokens", Integer, nullable=False),
    Column("output_tokens", Integer, nullable=False),
    Column("usd", Float(53), nullable=True),
    Column("created_at", DateTime(timezone=True), nullable=False),
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
    UniqueConstraint("id", name="uq_feedback_id"),
)
