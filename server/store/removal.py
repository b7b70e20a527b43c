"""Removes a camera: its frames, its documents, and then its row."""

import sqlalchemy as sa

from server.store.database import Database
from server.store.deletion import delete_where
from server.store.dialects import AdvisoryLock, lock_until_commit
from server.store.driver_errors import retry_transient
from server.store.files import Files
from server.store.queries import find_camera_id
from server.store.tables import cameras, frames, metadata, tokens

__all__ = ["remove_camera"]


OF_A_CAMERA = tuple(
    table
    for table in metadata.sorted_tables
    if table is not frames and any(key.references(cameras) for key in table.foreign_keys)
)
"""Tables besides `frames` whose rows are of a camera, `camera_id`."""
OF_A_NAME = tuple(table for table in metadata.sorted_tables if "camera" in table.c and table is not tokens)
"""Tables whose rows are of a camera's name. A token is for a name, whether there is a camera or not."""


def remove_camera(database: Database, files: Files, camera: str) -> int | None:
    """Remove a camera with all that is kept of it. Its tokens stay.

    A crash leaves fewer frames, and never a row without its file. A camera that sends meanwhile stays, with its new
    frames.

    Returns:
        Number of deleted frames. None: there is no such camera.

    Raises:
        StorageError: database or files can't be written. What was deleted before stays deleted.
    """
    with database.reading() as connection:
        camera_id = find_camera_id(connection, camera)
    if camera_id is None:
        return None
    deleted = delete_where(database, files, frames.c.camera_id == camera_id)
    retry_transient(lambda: _remove_row(database, camera, camera_id))
    return deleted


def _remove_row(database: Database, camera: str, camera_id: int) -> None:
    some = sa.select(frames.c.id).where(frames.c.camera_id == camera_id).limit(1)
    with database.writing() as connection:
        lock_until_commit(connection, AdvisoryLock.DELETION)
        if connection.execute(some).first() is not None:
            return
        for table in OF_A_CAMERA:
            connection.execute(sa.delete(table).where(table.c.camera_id == camera_id))
        for table in OF_A_NAME:
            connection.execute(sa.delete(table).where(table.c.camera == camera))
        connection.execute(sa.delete(cameras).where(cameras.c.id == camera_id))
