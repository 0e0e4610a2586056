"""What Alembic runs a migration by: the connection that it was given, in the transaction that has begun on it."""

from __future__ import annotations

from alembic import context

from inflame.monitor import schema

context.configure(
    connection=context.config.attributes["connection"], version_table=schema.TABLE, transactional_ddl=True
)
context.run_migrations()
