"""What keys have left of their rate and have under way, for all workers; when words were deleted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005_limits_and_retention"
down_revision = "0004_versions"
branch_labels = None
depends_on = None

FORGETFUL = ("inferences", "feedback")
COUNTED = ("requests_left", "counted_at")


def upgrade() -> None:
    for table in FORGETFUL:
        op.add_column(table, sa.Column("forgotten_at", sa.Float(53), nullable=True))
    for column in COUNTED:
        op.add_column("api_keys", sa.Column(column, sa.Float(53), nullable=True))
    op.create_table(
        "key_places",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("key_id", sa.String(32), nullable=False),
        sa.Column("until", sa.Float(53), nullable=False),
    )
    op.create_index("ix_key_places_key_id", "key_places", ["key_id"])


def downgrade() -> None:
    op.drop_table("key_places")
    for column in COUNTED:
        op.drop_column("api_keys", column)
    for table in FORGETFUL:
        op.drop_column(table, "forgotten_at")
