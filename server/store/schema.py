"""Brings the tables of a database to the version that this program needs."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from rjpeg.errors import StorageError

__all__ = ["is_outdated", "upgrade"]

_MIGRATIONS = Path(__file__).with_name("migrations")


def is_outdated(connection: sa.Connection, name: str) -> bool:
    """Return whether the tables are missing, or of an older version of this program.

    Args:
        connection: to the database.
        name: of the database, for messages.

    Raises:
        StorageError: a newer version of this program has changed the tables.
    """
    script = ScriptDirectory.from_config(_config())
    known = {revision.revision for revision in script.walk_revisions()}
    current, head = MigrationContext.configure(connection).get_current_revision(), script.get_current_head()
    if current is not None and current not in known:
        raise StorageError(
            f"database {name} has schema {current!r}, which a newer version of this program has made; "
            f"expected at most {head!r}"
        )
    return current != head


def upgrade(connection: sa.Connection) -> None:
    """Create the tables, or change those of an older version, within the connection's transaction."""
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config
