"""Makes rows of new frames, within a transaction."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from rjpeg.errors import StorageError
from server.store.bases import missing_bases
from server.store.counters import add_to_counters
from server.store.database import Database
from server.store.dialects import AdvisoryLock, insert_into, lock_until_commit
from server.store.driver_errors import retry_transient
from server.store.keys import parse_key
from server.store.queries import select_duplicate
from server.store.rows import FrameRow, frame_row
from server.store.tables import REBUILT, cameras, frames

__all__ = ["MissingBase", "NewFrame", "insert_frames", "restore_frames"]

_CAMERA_IDS = sa.select(cameras.c.name, cameras.c.id).where(cameras.c.name.in_(sa.bindparam("names", expanding=True)))


@dataclass(frozen=True)
class NewFrame:
    """A row that is to be made.

    Attributes:
        camera: the camera's name.
        values: of the row, see `frame_values`.
    """

    camera: str
    values: dict[str, Any]

    @property
    def key(self) -> str:
        """Name of the frame's file."""
        key: str = self.values["key"]
        return key


@dataclass(frozen=True)
class MissingBase:
    """A file that a frame needs was deleted before the frame's row was made.

    Attributes:
        frame_id: of the row that is gone.
    """

    frame_id: int


def insert_frames(
    connection: sa.Connection, batch: list[NewFrame], maybe_stored: frozenset[str] = frozenset()
) -> dict[str, int | FrameRow | MissingBase]:
    """Make rows of frames that have none, and count them.

    Args:
        connection: in a transaction that writes.
        batch: the frames.
        maybe_stored: keys of those whose rows an earlier attempt may have committed.

    Returns:
        By key: the id of the new row, the row of an equal frame that was stored before, or what keeps it from having
        a row.

    Raises:
        StorageError: the database refuses a frame, but has no equal one.
    """
    ids = _camera_ids(connection, sorted({frame.camera for frame in batch}))
    rows = [frame.values | {"camera_id": ids[frame.camera]} for frame in batch]
    # in one order, so that programs that write the same rows can't wait for each other in a circle
    rows.sort(key=lambda row: (row["camera_id"], row["capture_time"], row["sequence"] or 0))
    outcomes: dict[str, int | FrameRow | MissingBase] = {}
    if maybe_stored:
        outcomes |= _find_own(connection, rows, maybe_stored)
        rows = [row for row in rows if row["key"] not in outcomes]
    outcomes |= _find_missing_bases(connection, rows)
    rows = [row for row in rows if row["key"] not in outcomes]
    if not rows:
        return outcomes
    new = {row.key: row.id for row in connection.execute(_insert_new(connection.dialect.name), rows)}
    add_to_counters(connection, [row | {"id": new[row["key"]]} for row in rows if row["key"] in new])
    outcomes |= new
    names = {id_: name for name, id_ in ids.items()}
    for row in rows:
        if row["key"] not in new:
            query = select_duplicate(row["camera_id"], row["sequence"], row["capture_time"])
            stored = connection.execute(query).mappings().one_or_none()
            if stored is None:
                raise StorageError(f"the database refuses frame {row['key']}, but has no equal one")
            outcomes[row["key"]] = frame_row(names[row["camera_id"]], stored)
    return outcomes


def restore_frames(
    database: Database, rows: dict[str, dict[str, Any]], choose: Callable[[sa.Connection], list[str]]
) -> set[str]:
    """Make rows of files that have none, in one transaction.

    Args:
        database: which holds the rows.
        rows: their values by key.
        choose: returns the keys of those that are to be made, as read within the transaction.

    Returns:
        Keys of the new rows. The other files are of frames that have another file's row.

    Raises:
        StorageError: the database can't be written.
    """

    def insert() -> set[str]:
        with database.writing() as connection:
            batch = [NewFrame(parse_key(key).camera, rows[key] | {"writer": REBUILT}) for key in choose(connection)]
            outcomes = insert_frames(connection, batch) if batch else {}
        return {key for key, outcome in outcomes.items() if isinstance(outcome, int)}

    return retry_transient(insert) if rows else set()


@functools.cache
def _insert_new(dialect: str) -> sa.sql.dml.ReturningInsert[tuple[str, int]]:
    # built once: that takes longer than adding a row
    return insert_into(frames, dialect).on_conflict_do_nothing().returning(frames.c.key, frames.c.id)


def _find_missing_bases(connection: sa.Connection, rows: list[dict[str, Any]]) -> dict[str, MissingBase]:
    """Return by key what keeps frames from having a row. Other files are not deleted before the transaction's end."""
    needed = {row["key"]: [row[name] for name in ("key_frame", "patch_frame") if row.get(name)] for row in rows}
    if not any(needed.values()):
        return {}
    # a deletion that is under way ends first, and another one waits
    lock_until_commit(connection, AdvisoryLock.DELETION, shared=True)
    gone = missing_bases(connection, [number for numbers in needed.values() for number in numbers])
    return {key: MissingBase(number) for key, numbers in needed.items() for number in numbers if number in gone}


def _find_own(connection: sa.Connection, rows: list[dict[str, Any]], keys: frozenset[str]) -> dict[str, int]:
    """Return by key the ids of rows that an earlier attempt has committed."""
    times = [row["stored_time"] for row in rows if row["key"] in keys]
    query = sa.select(frames.c.key, frames.c.id).where(frames.c.stored_time.in_(times), frames.c.key.in_(keys))
    return {row.key: row.id for row in connection.execute(query)}


def _camera_ids(connection: sa.Connection, names: list[str]) -> dict[str, int]:
    """Return the ids of cameras by name; make rows of those that are new."""
    ids = {row.name: row.id for row in connection.execute(_CAMERA_IDS, {"names": names})}
    if unknown := [name for name in names if name not in ids]:
        connection.execute(
            insert_into(cameras, connection.dialect.name).on_conflict_do_nothing(),
            [{"name": name, "frames": 0, "bytes": 0} for name in unknown],
        )
        ids |= {row.name: row.id for row in connection.execute(_CAMERA_IDS, {"names": names})}
    return ids
