"""What a server answered, and who may ask it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003_serving"
down_revision = "0002_draws_and_calls"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_inferences()
    _create_api_keys()


def downgrade() -> None:
    op.drop_table("api_keys")
    op.drop_table("inferences")


def _create_inferences() -> None:
    op.create_table(
        "inferences",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("created_at", sa.Float(53), nullable=False),
        sa.Column("adapter", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("key_id", sa.String(32), nullable=True),
        sa.Column("question", sa.Text, nullable=False),
        sa.Column("question_hash", sa.String(64), nullable=False),
        sa.Column("messages", sa.Text, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("chosen", sa.Integer, nullable=True),
        sa.Column("candidates", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("confidence", sa.Float(53), nullable=True),
        sa.Column("score", sa.Float(53), nullable=True),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("usage", sa.Text, nullable=False),
        sa.Column("usd", sa.Float(53), nullable=True),
        sa.Column("seconds", sa.Float(53), nullable=False),
        sa.Column("upstream", sa.Text, nullable=False),
    )
    op.create_index("ix_inferences_question_hash", "inferences", ["question_hash"])
    op.create_index("ix_inferences_created_at", "inferences", ["created_at"])


def _create_api_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("adapters", sa.Text, nullable=False),
        sa.Column("max_usd", sa.Float(53), nullable=True),
        sa.Column("requests_per_minute", sa.Integer, nullable=True),
        sa.Column("concurrency", sa.Integer, nullable=True),
        sa.Column("created_at", sa.Float(53), nullable=False),
        sa.Column("revoked_at", sa.Float(53), nullable=True),
        sa.Column("spent_usd", sa.Float(53), nullable=False),
        sa.UniqueConstraint("digest", name="uq_api_keys_digest"),
    )
