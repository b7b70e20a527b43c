"""Reads frames and cameras from the database."""

import datetime
from typing import Any

import sqlalchemy as sa

from rjpeg.errors import InputError
from server.frames import CAMERA_ID
from server.store.database import Database
from server.store.rows import MAX_ID, MAX_SEQUENCE, CameraSummary, FrameRow, camera_summary, frame_row
from server.store.tables import cameras, frames
from server.store.times import clamped_time, to_microseconds

__all__ = [
    "find_camera_id",
    "find_frame",
    "newest_first",
    "read_camera_names",
    "read_frame",
    "read_frame_of",
    "read_frame_times",
    "read_latest",
    "read_page",
    "read_summaries",
    "read_total_bytes",
    "select_duplicate",
    "total_bytes",
]

_TOTAL_BYTES = sa.select(sa.func.coalesce(sa.func.sum(cameras.c.bytes), 0))


def find_frame(database: Database, camera: str, sequence: int, capture_time: datetime.datetime) -> FrameRow | None:
    """Return the frame of a camera with this sequence and capture time, None if there is none. Raises StorageError."""
    if not 0 <= sequence <= MAX_SEQUENCE:
        return None
    with database.reading() as connection:
        camera_id = find_camera_id(connection, camera)
        if camera_id is None:
            return None
        query = select_duplicate(camera_id, sequence, to_microseconds(capture_time))
        row = connection.execute(query).mappings().one_or_none()
    return None if row is None else frame_row(camera, row)


def read_frame(database: Database, camera: str, frame_id: int) -> FrameRow | None:
    """Return a camera's frame by id, None if there is none or it is another camera's. Raises StorageError."""
    if not 0 <= frame_id <= MAX_ID:
        return None
    with database.reading() as connection:
        camera_id = find_camera_id(connection, camera)
        if camera_id is None:
            return None
        query = sa.select(frames).where(frames.c.id == frame_id, frames.c.camera_id == camera_id)
        row = connection.execute(query).mappings().one_or_none()
    return None if row is None else frame_row(camera, row)


def read_frame_times(
    database: Database, camera: str, since: datetime.datetime, until: datetime.datetime, limit: int
) -> list[tuple[int, datetime.datetime]]:
    """Return id and capture time of the frames that were captured in some time, oldest first. Raises StorageError.

    Args:
        database: where they are.
        camera: the camera's name. An unknown one has no frames.
        since: only those that were captured then or later.
        until: only those that were captured earlier.
        limit: greatest number of frames.
    """
    with database.reading() as connection:
        camera_id = find_camera_id(connection, camera)
        if camera_id is None:
            return []
        query = (
            sa.select(frames.c.id, frames.c.capture_time)
            .where(frames.c.camera_id == camera_id)
            .where(frames.c.capture_time >= to_microseconds(since), frames.c.capture_time < to_microseconds(until))
            .order_by(frames.c.capture_time, frames.c.id)
            .limit(limit)
        )
        return [(int(row.id), clamped_time(row.capture_time)) for row in connection.execute(query)]


def read_frame_of(connection: sa.Connection, frame_id: int, camera: str) -> FrameRow | None:
    """Return a frame by id, None if there is none, as the connection's transaction sees it.

    Args:
        connection: to the database.
        frame_id: from another row.
        camera: name of the camera, which the other row has, too.
    """
    row = connection.execute(sa.select(frames).where(frames.c.id == frame_id)).mappings().one_or_none()
    return None if row is None else frame_row(camera, row)


def read_latest(database: Database, camera: str) -> FrameRow | None:
    """Return the frame of a camera that was stored last, None if there is none. Raises StorageError."""
    if not CAMERA_ID.fullmatch(camera):
        return None
    query = sa.select(frames).join(cameras, cameras.c.last_frame == frames.c.id).where(cameras.c.name == camera)
    with database.reading() as connection:
        row = connection.execute(query).mappings().one_or_none()
    return None if row is None else frame_row(camera, row)


def read_page(
    database: Database,
    camera: str,
    *,
    before_id: int | None,
    since: datetime.datetime | None,
    until: datetime.datetime | None,
    limit: int,
) -> list[FrameRow]:
    """Return at most `limit` frames of a camera, see `newest_first`; none if the camera is unknown.

    Raises:
        InputError: the limit is negative.
        StorageError: the database can't be read.
    """
    if limit < 0:
        raise InputError(f"limit {limit}, expected 0 at least")
    with database.reading() as connection:
        camera_id = find_camera_id(connection, camera)
        if camera_id is None:
            return []
        query = newest_first(connection, [frames], camera_id, before_id=before_id, since=since, until=until)
        rows = connection.execute(query.limit(min(limit, MAX_ID))).mappings().all()
    return [frame_row(camera, row) for row in rows]


def newest_first(
    connection: sa.Connection,
    columns: list[Any],
    camera_id: int,
    *,
    before_id: int | None = None,
    since: datetime.datetime | None = None,
    until: datetime.datetime | None = None,
) -> sa.Select[Any]:
    """Select a camera's frames, newest first: by capture time, and frames of equal time by id.

    Args:
        connection: to the database, which is asked for the capture time of `before_id`.
        columns: what is selected.
        camera_id: the camera.
        before_id: only frames after this one in the order. It is the last frame of the page before.
        since: only frames that were captured then or later.
        until: only frames that were captured earlier.
    """
    query = sa.select(*columns).order_by(frames.c.capture_time.desc(), frames.c.id.desc())
    query = query.where(frames.c.camera_id == camera_id)
    if since is not None:
        query = query.where(frames.c.capture_time >= to_microseconds(since))
    if until is not None:
        query = query.where(frames.c.capture_time < to_microseconds(until))
    if before_id is None:
        return query
    before_id = max(0, min(before_id, MAX_ID))
    last_of_page = sa.select(frames.c.capture_time).where(frames.c.id == before_id, frames.c.camera_id == camera_id)
    last = connection.execute(last_of_page).scalar_one_or_none()
    if last is None:
        # it was deleted in the meantime, and so were most of the frames that were stored before it
        return query.where(frames.c.id < before_id)
    # the first condition follows from the second, but only the first can use an index
    return query.where(frames.c.capture_time <= last, sa.or_(frames.c.capture_time < last, frames.c.id < before_id))


def read_summaries(database: Database, *, name: str | None = None) -> list[CameraSummary]:
    """Return all cameras that ever sent a frame, by name, or only the one of a name. Raises StorageError."""
    query = (
        sa.select(cameras, frames.c.metrics)
        .join(frames, cameras.c.last_frame == frames.c.id, isouter=True)
        .order_by(cameras.c.name)
    )
    if name is not None:
        if not CAMERA_ID.fullmatch(name):
            return []
        query = query.where(cameras.c.name == name)
    with database.reading() as connection:
        rows = connection.execute(query).mappings().all()
    return [camera_summary(row) for row in rows]


def read_camera_names(database: Database) -> list[str]:
    """Return the names of all cameras that ever sent a frame, sorted. Raises StorageError."""
    with database.reading() as connection:
        return list(connection.execute(sa.select(cameras.c.name).order_by(cameras.c.name)).scalars())


def read_total_bytes(database: Database) -> int:
    """Return the size of the files of all stored frames together. Raises StorageError."""
    with database.reading() as connection:
        return total_bytes(connection)


def total_bytes(connection: sa.Connection) -> int:
    """Return the size of the files of all stored frames together, as the connection's transaction sees it."""
    return int(connection.execute(_TOTAL_BYTES).scalar_one())


def find_camera_id(connection: sa.Connection, camera: str) -> int | None:
    """Return a camera's id by its name, None if there is none."""
    if not CAMERA_ID.fullmatch(camera):
        # databases refuse some of these, such as NUL
        return None
    return connection.execute(sa.select(cameras.c.id).where(cameras.c.name == camera)).scalar_one_or_none()


def select_duplicate(camera_id: int, sequence: int, capture_time: int) -> sa.Select[Any]:
    """Select the frame that has this camera, sequence and capture time, in microseconds since 1970."""
    return sa.select(frames).where(
        frames.c.camera_id == camera_id, frames.c.capture_time == capture_time, frames.c.sequence == sequence
    )
