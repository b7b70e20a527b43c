"""Deletes the oldest frames: those of some age, or as many as are too many.

Rows go first, into the table `trash`. Their files go next, so a crash or an error leaves no row without its file.

A key or a patch stays as long as a frame needs it. The transaction that deletes its last follower deletes it, too.
"""

import datetime
import logging
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from server.store.counters import subtract_from_counters
from server.store.database import Database
from server.store.dialects import AdvisoryLock, lock_until_commit
from server.store.driver_errors import retry_transient
from server.store.expiry import IS_FREE, expired
from server.store.files import Files
from server.store.keys import is_key, parse_key
from server.store.queries import total_bytes
from server.store.tables import frames, trash
from server.store.times import to_microseconds

__all__ = ["delete_older_than", "delete_until_size", "delete_where", "empty_trash"]

logger = logging.getLogger(__name__)

MAX_TOGETHER = 500
"""Frames that one transaction deletes. Others can write in between."""

_Choose = Callable[[sa.Connection], sa.ColumnElement[bool] | None]


def delete_older_than(database: Database, files: Files, when: datetime.datetime, now: datetime.datetime) -> int:
    """Delete the oldest frames, up to the first one that was not stored before `when`.

    A frame with a stored time in the future tells nothing about its age, see `server.store.expiry`.

    Args:
        database: where the rows are.
        files: where the files are.
        when: frames stored earlier are too old.
        now: by the server's clock.

    Returns:
        Number of deleted frames.

    Raises:
        StorageError: database or files can't be written. What was deleted before stays deleted.
    """
    cutoff, current = to_microseconds(when), to_microseconds(now)
    return _delete(database, files, lambda connection: expired(connection, cutoff, current, MAX_TOGETHER))


def delete_until_size(database: Database, files: Files, size: int) -> int:
    """Delete frames, oldest first, until the remaining files have at most `size` bytes together.

    Returns:
        Number of deleted frames.

    Raises:
        StorageError: database or files can't be written. What was deleted before stays deleted.
    """
    return _delete(database, files, lambda connection: _too_many(connection, size))


def delete_where(database: Database, files: Files, condition: sa.ColumnElement[bool]) -> int:
    """Delete all frames that meet a condition on the table `frames`, which includes what needs them; return how many.

    Raises:
        StorageError: database or files can't be written. What was deleted before stays deleted.
    """
    return _delete(database, files, lambda _: condition)


def empty_trash(database: Database, files: Files) -> None:
    """Remove the files of deleted frames. Raises StorageError."""
    while True:
        with database.reading() as connection:
            keys = list(connection.execute(sa.select(trash.c.key).limit(MAX_TOGETHER)).scalars())
        if not keys:
            return
        # a damaged key must not keep the other files from being removed
        files.remove(key for key in keys if is_key(key))
        with database.writing() as connection:
            connection.execute(sa.delete(trash).where(trash.c.key.in_(keys)))


def _delete(database: Database, files: Files, choose: _Choose) -> int:
    """Delete the frames that meet a condition, oldest first, as long as `choose` returns one that some frames meet."""
    empty_trash(database, files)
    deleted = 0
    while some := retry_transient(lambda: _delete_some(database, choose)):
        deleted += some
        empty_trash(database, files)
    return deleted


def _delete_some(database: Database, choose: _Choose) -> int:
    with database.writing() as connection:
        # without the lock, two programs that delete for the same reason would delete twice as much
        lock_until_commit(connection, AdvisoryLock.DELETION)
        condition = choose(connection)
        return 0 if condition is None else _move_to_trash(connection, condition)


def _too_many(connection: sa.Connection, size: int) -> sa.ColumnElement[bool] | None:
    """Choose the oldest frames whose deletion leaves at most `size` bytes, or as many as are deleted together."""
    excess = total_bytes(connection) - size
    if excess <= 0:
        return None
    chosen = []
    for row in connection.execute(_oldest(_released_bytes(frames.c.key_frame), _released_bytes(frames.c.patch_frame))):
        chosen.append(row.id)
        excess -= sum(row[1:])
        if excess <= 0:
            break
    return frames.c.id.in_(chosen)


def _oldest(*columns: Any) -> sa.Select[Any]:
    """Select id, bytes and more of the oldest frames that no other one needs."""
    # by id, not by time: a clock that jumped puts times out of order
    return sa.select(frames.c.id, frames.c.bytes, *columns).where(IS_FREE).order_by(frames.c.id).limit(MAX_TOGETHER)


def _released_bytes(base: "sa.Column[Any]") -> "sa.ColumnElement[int]":
    """Return the bytes of a frame's key or patch if the frame is the last one that needs it, else 0.

    Args:
        base: the column with the id of the key or patch.
    """
    needing, needed = frames.alias(), frames.alias()
    last = sa.select(sa.func.max(needing.c.id)).where(needing.c[base.name] == base).correlate(frames).scalar_subquery()
    size = sa.select(needed.c.bytes).where(needed.c.id == base).correlate(frames).scalar_subquery()
    return sa.case((frames.c.id == last, sa.func.coalesce(size, 0)), else_=0)


def _move_to_trash(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> int:
    """Delete the rows of the oldest frames that meet a condition, at most MAX_TOGETHER, and what only they need.

    Returns:
        Number of deleted rows.
    """
    rows = _delete_rows(connection, frames.c.id.in_(sa.select(_oldest().where(condition).subquery().c.id)))
    # patches first, as they need keys
    for name in ("patch_frame", "key_frame"):
        if released := {row[name] for row in rows if row[name] is not None}:
            rows += _delete_rows(connection, sa.and_(frames.c.id.in_(released), IS_FREE))
    if not rows:
        return 0
    if keys := [row["key"] for row in rows if _names_its_file(row["key"], row["stored_time"])]:
        connection.execute(sa.insert(trash), [{"key": key} for key in keys])
    subtract_from_counters(connection, rows)
    return len(rows)


def _delete_rows(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> list[dict[str, Any]]:
    """Delete the rows that meet a condition; return what the counters and the trash need of them."""
    names = ("camera_id", "capture_time", "stored_time", "bytes", "pixels", "key", "kind", "key_frame", "patch_frame")
    deleted = connection.execute(sa.delete(frames).where(condition).returning(*(frames.c[name] for name in names)))
    return [dict(row) for row in deleted.mappings()]


def _names_its_file(key: str, stored_time: int) -> bool:
    """Return whether a row's key agrees with its stored time. The file of a damaged row is not deleted."""
    agrees = is_key(key) and to_microseconds(parse_key(key).stored_time) == stored_time
    if not agrees:
        logger.warning("the row of file %r is damaged; the row is deleted, and the file left", key)
    return agrees
