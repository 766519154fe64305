"""What alembic runs: the steps, on the connection (and in the transaction) that `database` hands over."""

from __future__ import annotations

from alembic import context

from trimtab.store.tables import metadata

settings = context.config.attributes
context.configure(
    connection=settings["connection"], target_metadata=metadata, version_table=settings["version_table"]
)
with context.begin_transaction():
    context.run_migrations()
