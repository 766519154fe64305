"""Which answer feedback is about, and the versions of adapters."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004_versions"
down_revision = "0003_serving"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("feedback", sa.Column("inference_id", sa.String(64), nullable=True))
    op.create_index("ix_feedback_inference_id", "feedback", ["inference_id"])
    op.create_index("ix_feedback_created_at", "feedback", ["created_at"])
    _create_versions()


def downgrade() -> None:
    op.drop_table("adapter_versions")
    op.drop_index("ix_feedback_created_at", "feedback")
    op.drop_index("ix_feedback_inference_id", "feedback")
    op.drop_column("feedback", "inference_id")


def _create_versions() -> None:
    op.create_table(
        "adapter_versions",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("folder", sa.Text, nullable=False),
        sa.Column("parent", sa.Integer, nullable=True),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("share", sa.Float(53), nullable=False),
        sa.Column("metrics", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float(53), nullable=False),
        sa.Column("decided_at", sa.Float(53), nullable=True),
    )
    serving = sa.text("status = 'serving'")
    op.create_index(
        "uq_adapter_versions_serving",
        "adapter_versions",
        ["name"],
        unique=True,
        sqlite_where=serving,
        postgresql_where=serving,
    )
