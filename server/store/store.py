"""The store: every frame that was received, as a file and a row.

The file is written first, then the row is committed. A row is deleted before its file. So a crash can leave a file
without a row, which `Store.sweep` sets aside, but never a row without its file.

No content of the database is kept in memory: another database, or an older one, may take its place at any time.
"""

import datetime
import secrets
from collections import deque
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from server.frames import BaseFile, ReceivedFrame
from server.store import deletion, queries
from server.store.adding import FrameAdder
from server.store.alerts import Alerts
from server.store.bases import BaseFiles
from server.store.database import Database
from server.store.documents import ImportanceMaps, ZoneLists
from server.store.files import Files
from server.store.identity import attach
from server.store.insertion import restore_frames
from server.store.mending import mend_file
from server.store.opening import open_files
from server.store.reading import read_file
from server.store.removal import remove_camera
from server.store.rows import CameraSummary, FrameRow
from server.store.sweep import KEEP_QUARANTINE, Quarantine, count_quarantine, sweep_files, swept_until
from server.store.timeline import TimelineBin, read_timeline
from server.store.times import to_microseconds

__all__ = ["Store"]

MAX_BASE_BYTES = 2**25
"""Keys and patches that are kept in memory as files: those of some thousand cameras."""


class Store:
    """Frames in a database and in files. For any number of threads, and of programs that share both.

    Args:
        database: where the rows are.
        files: where the files are.
        now: the wall clock.

    Attributes:
        writer: this program's id, 16 characters. Only the rows of frames that were added here have it.
        uncertain: keys of frames whose `add` failed although the database may have, or may get, their rows.
        quarantined: what is set aside, as last counted; None: it was not counted yet.
        importance: the cameras' maps of importance.
        zones: the cameras' zones.
        documents: all kinds of what devices fetch.
        alerts: when rules over the task's answers held.

    Raises:
        StorageError: files and database do not belong together, see `server.store.identity`.
    """

    def __init__(
        self,
        database: Database,
        files: Files,
        *,
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    ) -> None:
        if files.mark is None:
            attach(database, files)
        self.database = database
        self.files = files
        self.now = now
        self.writer = secrets.token_hex(8)
        self.quarantined: Quarantine | None = None
        self._adder = FrameAdder(database, files, self.writer)
        self.importance, self.zones = ImportanceMaps(database), ZoneLists(database)
        self.documents = (self.importance, self.zones)
        self.alerts = Alerts(database)
        self._bases = BaseFiles(database, files, MAX_BASE_BYTES)
        database.watch()

    @classmethod
    def open(cls, database_url: str, files_url: str) -> "Store":
        """Open the store at two places. Create them, or bring them up to date, if need be.

        Args:
            database_url: sqlite:///PATH or postgresql+psycopg://USER:PASSWORD@HOST/NAME.
            files_url: folder, file:///FOLDER, or a URL that fsspec knows, such as s3://BUCKET/PREFIX.

        Raises:
            ConfigError: a URL is malformed, or a package for it is not installed.
            StorageError: a place can't be reached or created, or the two do not belong together.
        """
        files = open_files(files_url)
        database = Database(database_url)
        try:
            return cls(database, files)
        except BaseException:
            database.close()
            raise

    def add(self, frame: ReceivedFrame, measures: dict[str, Any], results: Any) -> FrameRow:
        """Store a frame. File and row would survive a power cut when this returns.

        Args:
            frame: as received.
            measures: see `server.frames.Processed`. Width and height are counted.
            results: the task's answer. Results and metrics that are not JSON are stored as {"error": text}.

        Raises:
            Duplicate: a stored frame has the same camera, sequence and capture time. A frame without a sequence is
                never a duplicate. If the stored frame's file was lost, it is written again.
            InputError: the camera's name, the sequence, a time or the measures are not valid.
            KeyMissingError: a file that it needs (`frame.bases`) was deleted.
            StorageError: the disk is full, or file or database can't be written. If the database did not answer, the
                frame may be stored all the same. Sent again, it is then a duplicate.
        """
        return self._adder.add(frame, measures, results, self.now().astimezone(datetime.UTC))

    def restore(self, rows: dict[str, dict[str, Any]], choose: Callable[[sa.Connection], list[str]]) -> set[str]:
        """Make rows of files that have none; see `restore_frames`. Raises StorageError."""
        return restore_frames(self.database, rows, choose)

    @property
    def uncertain(self) -> deque[str]:
        """See the class. Whoever looks for these frames takes their keys off."""
        return self._adder.uncertain

    def find(self, camera: str, sequence: int, capture_time: datetime.datetime) -> FrameRow | None:
        """Return the frame with this sequence and capture time, None if there is none. Raises StorageError."""
        return queries.find_frame(self.database, camera, sequence, capture_time)

    def find_equal(self, frame: ReceivedFrame) -> FrameRow | None:
        """Return the stored frame with this one's camera, sequence and capture time, None if there is none.

        If its file was lost, it is written again, so that the frame may be acknowledged. Raises StorageError.
        """
        if frame.sequence is None:
            return None
        row = self.find(frame.camera, frame.sequence, frame.capture_time)
        if row is not None:
            mend_file(self.database, self.files, row, frame.jpeg, self.now().astimezone(datetime.UTC))
        return row

    def frame(self, camera: str, frame_id: int) -> FrameRow | None:
        """Return a frame by id, None if there is none or it is another camera's. Raises StorageError."""
        return queries.read_frame(self.database, camera, frame_id)

    def latest(self, camera: str) -> FrameRow | None:
        """Return the frame that was stored last, None if there is none. Raises StorageError."""
        return queries.read_latest(self.database, camera)

    def frames(
        self,
        camera: str,
        *,
        before_id: int | None = None,
        since: datetime.datetime | None = None,
        until: datetime.datetime | None = None,
        limit: int = 100,
    ) -> list[FrameRow]:
        """Return a page of a camera's frames, newest first: by capture time, and frames of equal time by id.

        Args:
            camera: the camera. An unknown one has no frames.
            before_id: only frames after this one in the order. It is the last frame of the page before.
            since: only frames that were captured then or later.
            until: only frames that were captured earlier.
            limit: greatest number of frames.

        Raises:
            InputError: the limit is negative.
            StorageError: the database can't be read.
        """
        return queries.read_page(self.database, camera, before_id=before_id, since=since, until=until, limit=limit)

    def frame_times(
        self, camera: str, since: datetime.datetime, until: datetime.datetime, limit: int
    ) -> list[tuple[int, datetime.datetime]]:
        """Return id and capture time of frames, oldest first; see `read_frame_times`. Raises StorageError."""
        return queries.read_frame_times(self.database, camera, since, until, limit)

    def cameras(self) -> list[CameraSummary]:
        """Return all cameras that ever sent a frame, by name. Raises StorageError."""
        return queries.read_summaries(self.database)

    def camera(self, name: str) -> CameraSummary | None:
        """Return a camera, None if it never sent a frame. Raises StorageError."""
        return next(iter(queries.read_summaries(self.database, name=name)), None)

    def camera_names(self) -> list[str]:
        """Return the names of all cameras that ever sent a frame, sorted. Raises StorageError."""
        return queries.read_camera_names(self.database)

    def timeline(self, camera: str, since: datetime.datetime, until: datetime.datetime, bins: int) -> list[TimelineBin]:
        """Count a camera's frames over time; see `read_timeline`. Raises InputError, StorageError."""
        return read_timeline(self.database, camera, since, until, bins)

    def total_bytes(self) -> int:
        """Return the size of the files of all stored frames together. Raises StorageError."""
        return queries.read_total_bytes(self.database)

    def jpeg(self, row: FrameRow) -> bytes:
        """Return the file as it was received. Raises GoneError if the frame was deleted since, StorageError."""
        return read_file(self.database, self.files, row)

    def bases(self, camera: str, base_id: str, capture_time: datetime.datetime) -> tuple[BaseFile, ...]:
        """Return the stored files that a new follower needs: the key, then the patch if it refers to one.

        Args:
            camera: whose follower it is.
            base_id: what the follower calls its base, 6 hexadecimal digits.
            capture_time: of the follower. Of several files with this id, the newest up to then is taken.

        Raises:
            KeyMissingError: there is no such file of this camera.
            StorageError: the database or a file can't be read.
        """
        return self._bases.of_received(camera, base_id, to_microseconds(capture_time))

    def bases_of(self, row: FrameRow) -> tuple[BaseFile, ...]:
        """Return the files that a stored frame can't be decoded without: the key, then the patch; () if it needs none.

        Raises:
            GoneError: the frame was deleted with what it needs.
            StorageError: the database or a file can't be read.
        """
        return self._bases.of_stored(row)

    def delete_older_than(self, when: datetime.datetime) -> int:
        """Delete the oldest frames, see `deletion.delete_older_than`; return their number. Raises StorageError."""
        return deletion.delete_older_than(self.database, self.files, when, self.now())

    def shrink_to(self, size: int) -> int:
        """Delete the oldest frames until `size` bytes are left; return their number. Raises StorageError."""
        return deletion.delete_until_size(self.database, self.files, size)

    def remove_camera(self, camera: str) -> int | None:
        """Remove a camera with its frames, see `removal.remove_camera`; return their number. Raises StorageError."""
        return remove_camera(self.database, self.files, camera)

    def sweep(self, keep: datetime.timedelta | None = KEEP_QUARANTINE) -> int:
        """Set aside files that have no row, see `sweep_files`; return their number. Raises StorageError."""
        deletion.empty_trash(self.database, self.files)
        moved = sweep_files(self.database, self.files, self.now(), keep)
        self.count_quarantine()
        return moved

    def swept(self) -> datetime.datetime | None:
        """Return the time up to which files were swept, None if they never were. Raises StorageError."""
        return swept_until(self.database)

    def count_quarantine(self) -> None:
        """Count the files that are set aside, for `quarantined`. Raises StorageError."""
        self.quarantined = count_quarantine(self.files)

    def ping(self) -> None:
        """Raise StorageError if no frame could be added now."""
        self._adder.check()
        self.database.ping()
        self.database.check_room()
        self.files.ping()

    def close(self) -> None:
        """Take no more frames, store those that are being added, and close the database."""
        self._adder.close()
        self.database.close()
