"""Small documents of each camera that a device fetches: its map of importance, its zones. The last few are kept."""

import datetime
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import sqlalchemy as sa

import rjpeg
from rjpeg._zones import Zone, pack_zones
from rjpeg.errors import StorageError
from server.errors import OutdatedError
from server.store.database import Database
from server.store.queries import find_camera_id
from server.store.tables import cameras, importance, zones
from server.store.times import to_microseconds

__all__ = ["KEPT_VERSIONS", "Documents", "ImportanceMaps", "ZoneLists"]

KEPT_VERSIONS = 10
"""Documents of a kind that are kept of each camera: the newest ones."""
FRESH_SECONDS = 2.0
"""Age up to which versions that were read are relied on."""
MAX_VERSION = 2**32 - 1

Content = TypeVar("Content")


class Documents(ABC, Generic[Content]):
    """Reads and writes documents of one kind, and knows which versions there are. For any number of threads.

    Args:
        database: where they are.
        clock: seconds of a monotonic clock.

    Attributes:
        name: of the kind, as it stands in paths, topics and headers.
        title: of the kind, for messages.
        table: with a row for each document.
        newest: of the table `cameras`: version of the newest; None: there never was one.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    table: ClassVar[sa.Table]
    newest: ClassVar[sa.Column[Any]]

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._versions: dict[str, int] = {}
        self._read_at = float("-inf")

    @abstractmethod
    def _pack(self, content: Content, version: int) -> bytes:
        """Return a document as bytes, with its version in it."""

    def _first(self, now: datetime.datetime) -> int:  # noqa: ARG002  of a kind
        """Return the least version that a document may get now."""
        return 1

    @property
    def header(self) -> str:
        """The header of the answer to a frame that names the newest version."""
        return f"Rjpeg-{self.name.title()}"

    def write(
        self, camera: str, content: Content, now: datetime.datetime, *, expected: Callable[[int], bool] | None = None
    ) -> int | None:
        """Store a document as the camera's newest.

        Args:
            camera: the camera's name.
            content: the document. A version in it doesn't count.
            now: by the server's clock.
            expected: called with the version up to now, 0 if there is none. Nothing is written if it returns False.

        Returns:
            The document's version, greater than that of the last. None: there is no such camera.

        Raises:
            OutdatedError: the version up to now is not as expected.
            StorageError: the database can't be written, or there are no more versions.
        """
        table = self.table
        with self._database.writing() as connection:
            camera_id = find_camera_id(connection, camera)
            if camera_id is None:
                return None
            # this also makes others wait who write a document of this camera
            before, first = sa.func.coalesce(self.newest, 0), self._first(now)
            after = sa.case((before >= first, before + 1), else_=first)
            raised = sa.update(cameras).where(cameras.c.id == camera_id).values({self.newest.name: after})
            version = int(connection.execute(raised.returning(self.newest)).scalar_one())
            if version > MAX_VERSION:
                raise StorageError(f"camera {camera} can have no more {self.title}: the version is {version}")
            of_camera = table.c.camera_id == camera_id
            kept = connection.execute(sa.select(table.c.version).where(of_camera).order_by(table.c.version.desc()))
            versions = [version, *map(int, kept.scalars())]
            if expected is not None and not expected((versions[1:] or [0])[0]):
                raise OutdatedError(f"the {self.title} of camera {camera} were set meanwhile, or are not as expected")
            row = {"camera_id": camera_id, "version": version, "data": self._pack(content, version)}
            connection.execute(sa.insert(table).values(row | {"set_time": to_microseconds(now)}))
            if len(versions) > KEPT_VERSIONS:
                oldest = versions[KEPT_VERSIONS - 1]
                connection.execute(sa.delete(table).where(of_camera, table.c.version < oldest))
        with self._lock:
            self._versions[camera] = version
        return version

    def read(self, camera: str, version: int | None = None) -> tuple[int, bytes] | None:
        """Return a document: its version, and its bytes.

        Args:
            camera: the camera's name.
            version: which one; None: the newest.

        Returns:
            None: there is no such camera, or no such document of it.

        Raises:
            StorageError: the database can't be read.
        """
        table = self.table
        with self._database.reading() as connection:
            camera_id = find_camera_id(connection, camera)
            if camera_id is None:
                return None
            query = sa.select(table.c.version, table.c.data).where(table.c.camera_id == camera_id)
            if version is not None:
                query = query.where(table.c.version == min(version, MAX_VERSION + 1))
            row = connection.execute(query.order_by(table.c.version.desc()).limit(1)).one_or_none()
        return None if row is None else (int(row.version), bytes(row.data))

    @property
    def is_fresh(self) -> bool:
        """Whether the versions were read a moment ago."""
        with self._lock:
            return self._clock() < self._read_at + FRESH_SECONDS

    def refresh(self) -> None:
        """Read which versions there are. Raises StorageError."""
        now = self._clock()
        query = sa.select(cameras.c.name, self.newest).where(self.newest.is_not(None))
        with self._database.reading() as connection:
            versions = {name: int(version) for name, version in connection.execute(query)}
        with self._lock:
            self._versions, self._read_at = versions, now

    def version(self, camera: str) -> int | None:
        """Return the version of a camera's newest document as last read; None: it has none."""
        with self._lock:
            return self._versions.get(camera)


class ImportanceMaps(Documents[rjpeg.Importance]):
    """What matters where in a camera's picture, packed as `rjpeg.pack_importance` does."""

    name = "importance"
    title = "maps of importance"
    table = importance
    newest = cameras.c.importance

    def _pack(self, content: rjpeg.Importance, version: int) -> bytes:
        return rjpeg.pack_importance(content.octaves, version)


class ZoneLists(Documents[Sequence[Zone]]):
    """A camera's zones. See `rjpeg._zones`."""

    name = "zones"
    title = "zones"
    table = zones
    newest = cameras.c.zones

    def _pack(self, content: Sequence[Zone], version: int) -> bytes:
        return pack_zones(content, version)

    def _first(self, now: datetime.datetime) -> int:
        # A camera that was removed, or a database that was put back, never gives a version again that a device has
        # of other zones: it would not fetch these, and show what they hide.
        return max(1, int(now.timestamp()))
