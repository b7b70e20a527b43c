"""Alembic's own entry: brings the schema of the connection that it is given up to date, in its transaction."""

from alembic import context

from server.store.database import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
