"""The first tables: runs, responses, candidates, judgements, rounds and feedback.

There is no step below it: a store without tables is no store.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001_first_tables"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_runs_and_responses()
    _create_round_tables()
    _create_feedback()


def _create_runs_and_responses() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.String(200), primary_key=True),
        sa.Column("kind", sa.String(50), nullable=False),
        sa.Column("config", sa.Text, nullable=False),
        sa.Column("status", sa.String(50), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
    )
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


def _create_round_tables() -> None:
    op.create_table(
        "candidates",
        sa.Column("run_id", sa.String(200), primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("question_id", sa.Text, primary_key=True),
        sa.Column("draw", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("score", sa.Float(53), nullable=True),
        sa.Column("confidence", sa.Float(53), nullable=True),
        sa.Column("verdict", sa.String(20), nullable=False),
    )
    op.create_table(
        "judgements",
        sa.Column("run_id", sa.String(200), primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("question_id", sa.Text, primary_key=True),
        sa.Column("judgement", sa.Text, nullable=False),
    )
    op.create_table(
        "rounds",
        sa.Column("run_id", sa.String(200), primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.Column("adapter", sa.Text, nullable=True),
    )


def _create_feedback() -> None:
    op.create_table(
        "feedback",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("given_id", sa.Text, nullable=False),
        sa.Column("question_hash", sa.String(64), nullable=False),
        sa.Column("question", sa.Text, nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("id", name="uq_feedback_id"),
    )
    op.create_index("ix_feedback_question_hash", "feedback", ["question_hash"])
