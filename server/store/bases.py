"""Finds the files that a follower can't be decoded without, and reads them.

A follower names its base by 24 bits, which are unique enough within one camera: its own checksum tells a wrong base. In
the database it refers to rows: to its key's, and to its patch's if it has one.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable

import sqlalchemy as sa

from rjpeg.errors import KeyMissingError, StorageError
from server.frames import BaseFile
from server.store.database import Database
from server.store.errors import GoneError
from server.store.files import Files
from server.store.keys import is_intact
from server.store.mending import is_lost
from server.store.queries import find_camera_id, read_frame_of
from server.store.reading import read_file
from server.store.rows import FrameRow, frame_row
from server.store.tables import IS_BASE, frames

__all__ = ["BaseFiles", "find_bases", "missing_bases"]


def find_bases(connection: sa.Connection, camera_id: int, base_id: str, capture_time: int) -> list[sa.RowMapping]:
    """Return the rows of a base and of what it needs itself: the key, and then the patch if there is one.

    Among several files of one id, the newest one up to the capture time is taken. If there is none, as a clock was set
    back, the newest of all is.

    Args:
        connection: to the database.
        camera_id: whose files they are.
        base_id: what the follower calls its base, 6 hexadecimal digits.
        capture_time: of the follower, microseconds since 1970.

    Raises:
        KeyMissingError: there is no such file.
    """
    named = (
        sa.select(frames)
        .where(frames.c.camera_id == camera_id, frames.c.file_id == base_id, IS_BASE)
        .order_by(frames.c.capture_time.desc(), frames.c.id.desc())
        .limit(1)
    )
    row = connection.execute(named.where(frames.c.capture_time <= capture_time)).mappings().one_or_none()
    row = row or connection.execute(named).mappings().one_or_none()
    if row is None:
        raise KeyMissingError(base_id)
    if row["key_frame"] is None:
        return [row]
    key = connection.execute(sa.select(frames).where(frames.c.id == row["key_frame"])).mappings().one_or_none()
    if key is None:
        raise KeyMissingError(base_id, "patch")
    return [key, row]


def missing_bases(connection: sa.Connection, ids: Iterable[int]) -> set[int]:
    """Return those of the ids that have no row, as the connection's transaction sees it."""
    wanted = set(ids)
    if not wanted:
        return wanted
    return wanted - set(connection.execute(sa.select(frames.c.id).where(frames.c.id.in_(wanted))).scalars())


class BaseFiles:
    """Reads files that others need, and keeps those that were read last. For any number of threads.

    Args:
        database: where the rows are.
        files: where the files are.
        max_bytes: limit on the files that are kept.
    """

    def __init__(self, database: Database, files: Files, max_bytes: int) -> None:
        self._database = database
        self._files = files
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        # by key, which no other file ever gets; the one that was used last is at the end
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def of_received(self, camera: str, base_id: str, capture_time: int) -> tuple[BaseFile, ...]:
        """Return the files that a new follower needs, see `find_bases`.

        Raises:
            KeyMissingError: there is no such file.
            StorageError: the database or a file can't be read.
        """
        with self._database.reading() as connection:
            camera_id = find_camera_id(connection, camera)
            if camera_id is None:
                raise KeyMissingError(base_id)
            rows = [frame_row(camera, row) for row in find_bases(connection, camera_id, base_id, capture_time)]
        return tuple(self._base_file(row, missing=base_id) for row in rows)

    def of_stored(self, row: FrameRow) -> tuple[BaseFile, ...]:
        """Return the files that a stored frame needs: the key, then the patch. Most need at most the key.

        Raises:
            GoneError: the frame was deleted with what it needs.
            StorageError: the database or a file can't be read.
        """
        needed = [number for number in (row.key_frame, row.patch_frame) if number is not None]
        if not needed:
            return ()
        with self._database.reading() as connection:
            found = [read_frame_of(connection, number, row.camera) for number in needed]
        if None in found:
            raise GoneError(f"frame {row.id} of camera {row.camera} was deleted with what it needs")
        return tuple(self._base_file(row) for row in found if row is not None)

    def _base_file(self, row: FrameRow, missing: str | None = None) -> BaseFile:
        """Return a file that others need.

        Args:
            row: its row.
            missing: what a new follower calls its base. Its sender has a file that is lost. None: there is none.

        Raises:
            KeyMissingError: a new follower needs the file, and it is lost.
            StorageError: the file can't be read.
        """
        try:
            jpeg = self._read(row)
        except StorageError as error:
            if missing is not None and (isinstance(error, GoneError) or is_lost(self._files, row)):
                raise KeyMissingError(missing) from error
            raise
        return BaseFile(frame_id=row.id, file_id=row.file_id or "", jpeg=jpeg)

    def _read(self, row: FrameRow) -> bytes:
        """Return a file, from memory if it was read before. Raises StorageError, also if it is damaged."""
        with self._lock:
            kept = self._kept.get(row.key)
            if kept is not None:
                self._kept.move_to_end(row.key)
                return kept
        jpeg = read_file(self._database, self._files, row)
        if not is_intact(row.key, jpeg):
            raise StorageError(f"{row.key} of {self._files.name} is not what was written there")
        with self._lock:
            if row.key not in self._kept:
                self._kept[row.key] = jpeg
                self._bytes += len(jpeg)
            while self._bytes > self._max_bytes:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return jpeg
