"""What SQLite and PostgreSQL do differently within a transaction."""

import enum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

__all__ = ["AdvisoryLock", "greatest", "insert_into", "least", "lock_until_commit"]


class AdvisoryLock(enum.IntEnum):
    """Numbers of PostgreSQL's advisory locks. Any numbers will do that no other program uses."""

    MIGRATION = 0x726A706567  # "rjpeg"
    CLOCK = 0x726A70656763  # "rjpegc"
    DELETION = 0x726A70656764  # "rjpegd"


def lock_until_commit(connection: sa.Connection, lock: AdvisoryLock, *, shared: bool = False) -> None:
    """Wait until no other program's transaction holds the lock. SQLite has only one writer anyway.

    Args:
        connection: in a transaction that writes.
        lock: which one.
        shared: others may hold it at the same time, if they share it too.
    """
    if connection.dialect.name == "postgresql":
        take = sa.func.pg_advisory_xact_lock_shared if shared else sa.func.pg_advisory_xact_lock
        connection.execute(sa.select(take(int(lock))))


def insert_into(table: sa.Table, dialect: str) -> sqlite.Insert | postgresql.Insert:
    """Return an INSERT that can be given an ON CONFLICT clause."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


def least(dialect: str, *values: Any) -> sa.ColumnElement[Any]:
    """Return the smallest of the values of one row."""
    return sa.func.least(*values) if dialect == "postgresql" else sa.func.min(*values)


def greatest(dialect: str, *values: Any) -> sa.ColumnElement[Any]:
    """Return the largest of the values of one row."""
    return sa.func.greatest(*values) if dialect == "postgresql" else sa.func.max(*values)
