"""The cameras' maps of importance: the last few of each, packed as `rjpeg.pack_importance` does."""

import datetime
import threading
import time
from collections.abc import Callable

import sqlalchemy as sa

import rjpeg
from rjpeg.errors import StorageError
from server.store.database import Database
from server.store.queries import find_camera_id
from server.store.tables import cameras, importance
from server.store.times import to_microseconds

__all__ = ["KEPT_VERSIONS", "ImportanceMaps"]

KEPT_VERSIONS = 10
"""Maps that are kept of each camera: the newest ones."""
FRESH_SECONDS = 2.0
"""Age up to which versions that were read are relied on."""
MAX_VERSION = 2**32 - 1


class ImportanceMaps:
    """Reads and writes maps, and knows which versions there are. For any number of threads.

    Args:
        database: where they are.
        clock: seconds of a monotonic clock.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._versions: dict[str, int] = {}
        self._read_at = float("-inf")

    def write(self, camera: str, octaves: rjpeg.Importance, now: datetime.datetime) -> int | None:
        """Store a map as the camera's newest.

        Args:
            camera: the camera's name.
            octaves: the map. Its own version doesn't count.
            now: by the server's clock.

        Returns:
            The map's version, one more than that of the last. None: there is no such camera.

        Raises:
            StorageError: the database can't be written, or there are no more versions.
        """
        with self._database.writing() as connection:
            camera_id = find_camera_id(connection, camera)
            if camera_id is None:
                return None
            # this also makes others wait who write a map of this camera
            more = sa.func.coalesce(cameras.c.importance, 0) + 1
            raised = sa.update(cameras).where(cameras.c.id == camera_id).values(importance=more)
            version = int(connection.execute(raised.returning(cameras.c.importance)).scalar_one())
            if version > MAX_VERSION:
                raise StorageError(f"camera {camera} had {MAX_VERSION} maps of importance, as many as may be")
            data = rjpeg.pack_importance(octaves.octaves, version)
            row = {"camera_id": camera_id, "version": version, "data": data, "set_time": to_microseconds(now)}
            connection.execute(sa.insert(importance).values(row))
            old = sa.and_(importance.c.camera_id == camera_id, importance.c.version <= version - KEPT_VERSIONS)
            connection.execute(sa.delete(importance).where(old))
        with self._lock:
            self._versions[camera] = version
        return version

    def read(self, camera: str, version: int | None = None) -> tuple[int, bytes] | None:
        """Return a map: its version, and the packed file.

        Args:
            camera: the camera's name.
            version: which one; None: the newest.

        Returns:
            None: there is no such camera, or no such map of it.

        Raises:
            StorageError: the database can't be read.
        """
        with self._database.reading() as connection:
            camera_id = find_camera_id(connection, camera)
            if camera_id is None:
                return None
            query = sa.select(importance.c.version, importance.c.data).where(importance.c.camera_id == camera_id)
            if version is not None:
                query = query.where(importance.c.version == min(version, MAX_VERSION + 1))
            row = connection.execute(query.order_by(importance.c.version.desc()).limit(1)).one_or_none()
        return None if row is None else (int(row.version), bytes(row.data))

    @property
    def is_fresh(self) -> bool:
        """Whether the versions were read a moment ago."""
        with self._lock:
            return self._clock() < self._read_at + FRESH_SECONDS

    def refresh(self) -> None:
        """Read which versions there are. Raises StorageError."""
        now = self._clock()
        query = sa.select(cameras.c.name, cameras.c.importance).where(cameras.c.importance.is_not(None))
        with self._database.reading() as connection:
            versions = {row.name: int(row.importance) for row in connection.execute(query)}
        with self._lock:
            self._versions, self._read_at = versions, now

    def version(self, camera: str) -> int | None:
        """Return the version of a camera's newest map as last read; None: it has none."""
        with self._lock:
            return self._versions.get(camera)
