"""How the tables came about, one small named step a file; alembic runs them when a store is opened."""
