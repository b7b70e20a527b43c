"""What the errors of a database driver mean, and which transactions are tried again."""

import logging
import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from rjpeg.errors import StorageError
from server.store.errors import ReopenedError, TooLateError

__all__ = [
    "MAX_ATTEMPTS",
    "describe",
    "is_about_rows",
    "is_damage",
    "is_disk_full",
    "is_missing_table",
    "is_transient",
    "retry_transient",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_ATTEMPTS = 3
"""Attempts at a transaction that meets a restarted database or a deadlock."""

_DAMAGE_CODES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_DISK_FULL = "53100"  # these and the following: SQLSTATE of PostgreSQL
_UNDEFINED_TABLE = "42P01"
_SERIALIZATION_FAILURE = "40001"
_DEADLOCK = "40P01"


def describe(error: SQLAlchemyError) -> str:
    """Return the driver's message in one line."""
    text = str(error.orig) if isinstance(error, DBAPIError) and error.orig is not None else str(error)
    return " ".join(text.split()) or type(error).__name__


def is_disk_full(error: SQLAlchemyError) -> bool:
    """Return whether the database's disk had no room left."""
    original = getattr(error, "orig", None)
    return _sqlite_code(original) == sqlite3.SQLITE_FULL or _sqlstate(original) == _DISK_FULL


def is_damage(error: Any) -> bool:
    """Return whether a driver's error says that SQLite's file is damaged, or no database at all."""
    return _sqlite_code(error) in _DAMAGE_CODES


def is_missing_table(error: DBAPIError) -> bool:
    """Return whether a statement failed because its table does not exist."""
    return _sqlstate(error.orig) == _UNDEFINED_TABLE or "no such table" in str(error.orig)


def is_transient(error: StorageError) -> bool:
    """Return whether the same transaction may succeed at once: a lost connection, a deadlock, a replaced file."""
    if isinstance(error, ReopenedError):
        return True
    cause = error.__cause__
    if not isinstance(cause, DBAPIError):
        return False
    return cause.connection_invalidated or _sqlstate(cause.orig) in (_SERIALIZATION_FAILURE, _DEADLOCK)


def is_about_rows(error: Exception) -> bool:
    """Return whether a transaction failed because of a row in it, so that its other rows may succeed without it.

    Other failures concern every row: the database is gone, locked, full or read-only.
    """
    if isinstance(error, TooLateError):
        return True
    cause = error.__cause__ if isinstance(error, StorageError) else error
    if not isinstance(cause, DBAPIError):
        return True
    return isinstance(cause, (IntegrityError, sa.exc.DataError, sa.exc.ProgrammingError, sa.exc.NotSupportedError))


def retry_transient(transaction: Callable[[], T]) -> T:
    """Run a transaction, at most MAX_ATTEMPTS times as long as its errors are transient. Raises StorageError."""
    for _ in range(MAX_ATTEMPTS - 1):
        try:
            return transaction()
        except StorageError as error:
            if not is_transient(error):
                raise
            logger.info("store: again, as %s", error)
    return transaction()


def _sqlite_code(error: Any) -> int:
    """Return SQLite's primary error code, 0 if it is another driver's error."""
    return (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def _sqlstate(error: Any) -> str | None:
    return getattr(error, "sqlstate", None)
