"""Alembic runs this file to change the tables. It uses the given connection and its transaction."""

from alembic import context

from server.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
