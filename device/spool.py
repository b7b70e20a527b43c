"""Frames on disk until the server has them: one SQLite file for all cameras of a device.

Files in the spool's folder: `frames.db` with its write-ahead log; `sequences.json`, numbers below which every one
may have been used, for the case that `frames.db` is damaged; `reserve`, room that is given up when the disk is
full, as deleting needs some too; `lock`. A damaged database is set aside as `frames.db.damaged-...`.
"""

import builtins
import contextlib
import datetime
import fcntl
import json
import logging
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from device.frames import OutgoingFrame
from rjpeg.errors import StorageError
from rjpeg.files import is_disk_full, sync_folder

__all__ = ["DISK_ERROR", "DISK_FULL", "Spool", "SpoolError"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

DISK_FULL, DISK_ERROR = "disk full", "disk error"
SMALLEST = 1_000_000  # bytes; below there is no room for the log and the reserve
PAGE = 4096
SMALL_FILES = 64 * 1024  # bytes for sequences.json and the lock
STEP = 10_000  # sequence numbers between two writes of sequences.json
LARGEST_BATCH = 100  # frames deleted in one transaction, so that the log stays small
SHRINK_PAGES = 4096  # free pages in an empty database that are worth giving back
DAMAGED_KEPT = 3

EVERY_CAMERA = ""  # key in sequences.json for cameras that it doesn't name

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
MICROSECOND = datetime.timedelta(microseconds=1)

SCHEMA = """
CREATE TABLE IF NOT EXISTS counters (camera TEXT PRIMARY KEY, next INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS frames (
    id INTEGER PRIMARY KEY,
    camera TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    time INTEGER NOT NULL,
    metrics TEXT,
    jpeg BLOB NOT NULL,
    UNIQUE (camera, sequence)
);
"""
# every second one of the oldest half of each camera's, the oldest first
EVERY_SECOND = """
SELECT camera, sequence FROM (
    SELECT camera, sequence,
        ROW_NUMBER() OVER (PARTITION BY camera ORDER BY sequence) AS place,
        COUNT(*) OVER (PARTITION BY camera) AS number
    FROM frames
) WHERE place * 2 <= number + 1 AND place % 2 = 0
ORDER BY place, camera
"""
OLDEST_OF_THE_MOST = """
SELECT camera, MIN(sequence) FROM frames
WHERE camera = (SELECT camera FROM frames GROUP BY camera ORDER BY COUNT(*) DESC, camera LIMIT 1)
GROUP BY camera
"""

DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class SpoolError(StorageError):
    """A frame can't be kept. `reason` is "disk full" or "disk error"."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Spool:
    """A queue on disk for each camera, bounded in bytes for all together. For any number of threads, one process.

    When it is full, every second one of the oldest half of each camera's frames is given up, again and again if need
    be: what an outage leaves gets evenly thinner with its age, and the newest frames are all there.

    A sequence number is given once and never again, also after the frame was delivered and deleted, after a crash,
    and after a damaged database was set aside: the new one goes on above the number in `sequences.json`, which is
    always ahead of those that were given. If that is lost too, numbers go on from the milliseconds since 1970, which
    are beyond any that were counted up from 0. Only a folder that is removed begins with 0 again.

    Args:
        folder: made if need be; on a disk that survives a power cut.
        max_bytes: of all files in it, but for damaged ones set aside; at least 1,000,000.
        on_thinned: called with a camera and the number of its frames given up, from the thread that appends.

    Raises:
        StorageError: the folder can't be written, or another program has it open.
    """

    def __init__(
        self, folder: str | Path, max_bytes: int, *, on_thinned: Callable[[str, int], None] | None = None
    ) -> None:
        if max_bytes < SMALLEST:
            raise StorageError(f"spool {folder}: max_bytes {max_bytes} is too little, expected {SMALLEST} at least")
        self._folder = Path(folder)
        self._path = self._folder / "frames.db"
        self._max_bytes = max_bytes
        self._on_thinned = on_thinned
        self._lock = threading.RLock()
        self._log_pages = min(1000, max_bytes // 32 // PAGE)
        self._reserve_bytes = 2 * self._log_pages * PAGE
        # deleting a frame takes about two pages of the log
        self._batch = max(1, min(LARGEST_BATCH, self._log_pages // 4))
        self._largest_pages = 0
        self._victims: list[tuple[str, int]] = []  # cameras and numbers of the frames to be given up next
        self._count: dict[str, int] = {}
        self._bytes: dict[str, int] = {}
        self._ceilings: dict[str, int] = {}
        self._db: sqlite3.Connection | None = None
        self._closed = False
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock_file = (self._folder / "lock").open("ab")
        except OSError as error:
            raise StorageError(f"can't write spool {folder}: {error.strerror or error}") from error
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock_file.close()
            raise StorageError(f"spool {folder} is in use by another program") from error
        try:
            with self._errors():
                self._guarded(self._open)
        except BaseException:
            self.close()
            raise

    @property
    def count(self) -> int:
        """Frames that wait."""
        with self._lock:
            return sum(self._count.values())

    @property
    def bytes(self) -> int:
        """Bytes of the JPEG files that wait."""
        with self._lock:
            return sum(self._bytes.values())

    @property
    def disk_bytes(self) -> int:
        """Bytes of the spool's files on disk, damaged ones set aside not counted."""
        names = ("frames.db", "frames.db-wal", "sequences.json", "reserve")
        return sum(_size(self._folder / name) for name in names)

    def waiting(self, camera: str) -> int:
        """Frames of one camera that wait."""
        return self._count.get(camera, 0)

    def queue(self, camera: str) -> tuple[int, int]:
        """Frames of one camera that wait, and bytes of their JPEG files."""
        return self._count.get(camera, 0), self._bytes.get(camera, 0)

    def counts(self) -> dict[str, int]:
        """Frames that wait, by camera, where there are any."""
        with self._lock:
            return {camera: frames for camera, frames in self._count.items() if frames}

    def append(self, camera: str, when: datetime.datetime, jpeg: builtins.bytes, metrics: str | None = None) -> int:
        """Keep a frame; its sequence number, once the frame would survive a power cut.

        Raises:
            SpoolError: the disk is full or failing, and giving up older frames didn't help.
        """
        with self._lock, self._errors():
            return self._guarded(lambda: self._append(camera, when, jpeg, metrics))

    def oldest(self, camera: str, after: int = -1) -> OutgoingFrame | None:
        """The frame with the lowest number above `after` of those that wait, None if there is none.

        Raises SpoolError.
        """
        with self._lock, self._errors():
            row = self._guarded(
                lambda: self._connection.execute(
                    "SELECT sequence, time, jpeg, metrics FROM frames WHERE camera = ? AND sequence > ? "
                    "ORDER BY sequence LIMIT 1",
                    (camera, after),
                ).fetchone()
            )
        if row is None:
            return None
        sequence, microseconds, jpeg, metrics = row
        return OutgoingFrame(camera, sequence, EPOCH + microseconds * MICROSECOND, jpeg, metrics)

    def delivered(self, camera: str, sequence: int) -> None:
        """Forget a camera's frames up to this number. After a power cut they may be there again, to be sent twice.

        Raises SpoolError.
        """
        with self._lock, self._errors():
            self._guarded(lambda: self._forget(camera, sequence))

    def close(self) -> None:
        """Let go of the files; what waits stays. Nothing is raised."""
        with self._lock:
            db, self._db = self._db, None
            self._closed = True
            if db is not None:
                try:
                    db.close()
                except sqlite3.Error as error:
                    logger.warning("closing spool %s: %s", self._folder, error)
            self._lock_file.close()

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise StorageError(f"spool {self._folder} is closed")
        return self._db

    def _open(self) -> None:
        # sqlite3's own transactions are off: BEGIN and COMMIT are said here
        db = self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=1)
        db.execute(f"PRAGMA page_size = {PAGE}")
        # no other process has it open, so no shared memory is needed, which a full disk could take away
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA secure_delete = OFF")
        db.execute(f"PRAGMA wal_autocheckpoint = {self._log_pages}")
        with self._transaction():
            for statement in SCHEMA.split(";"):
                db.execute(statement)
        numbers = db.execute("SELECT camera, COUNT(*), SUM(LENGTH(jpeg)) FROM frames GROUP BY camera").fetchall()
        self._count = {camera: count for camera, count, _ in numbers}
        self._bytes = {camera: size for camera, _, size in numbers}
        self._ceilings = self._read_ceilings()
        self._fill_reserve()

    def _append(self, camera: str, when: datetime.datetime, jpeg: builtins.bytes, metrics: str | None) -> int:
        pages = (len(jpeg) + 4 * len(metrics or "")) // (PAGE - 4) + 8
        self._largest_pages = max(self._largest_pages, pages)
        if pages > self._capacity() - 8:
            raise SpoolError(
                f"spool {self._folder}: a frame of {len(jpeg)} bytes is too large for {self._max_bytes} bytes in all",
                DISK_FULL,
            )
        self._fill_reserve()
        while self._room() < pages:
            self._thin()

        def insert() -> int:
            return self._insert(camera, when, jpeg, metrics)

        def thin_and_insert() -> int:
            # where there is room in the database, it is the log that lacks it, and giving up frames wouldn't help
            if self._pragma("freelist_count") < pages:
                self._thin()
            return insert()

        sequence = self._with_room(insert, thin_and_insert)
        self._count[camera] = self._count.get(camera, 0) + 1
        self._bytes[camera] = self._bytes.get(camera, 0) + len(jpeg)
        return sequence

    def _with_room(self, work: Callable[[], T], last_resort: Callable[[], T] | None = None) -> T:
        """Do `work`, where the disk is full before the spool is with what was kept in reserve for that."""
        try:
            return work()
        except (sqlite3.OperationalError, OSError) as error:
            if not _is_full(error):
                raise
        self._free_reserve()
        if last_resort is None:
            return work()
        try:
            return work()
        except (sqlite3.OperationalError, OSError) as error:
            if not _is_full(error):
                raise
        return last_resort()

    def _insert(self, camera: str, when: datetime.datetime, jpeg: builtins.bytes, metrics: str | None) -> int:
        db = self._connection
        with self._transaction():
            row = db.execute("SELECT next FROM counters WHERE camera = ?", (camera,)).fetchone()
            sequence: int = row[0] if row else self._ceilings.get(camera, self._ceilings.get(EVERY_CAMERA, 0))
            if sequence >= self._ceilings.get(camera, 0):
                self._write_ceilings(self._ceilings | {camera: sequence + STEP})
            db.execute("INSERT OR REPLACE INTO counters VALUES (?, ?)", (camera, sequence + 1))
            db.execute(
                "INSERT INTO frames (camera, sequence, time, metrics, jpeg) VALUES (?, ?, ?, ?, ?)",
                (camera, sequence, (when - EPOCH) // MICROSECOND, metrics, jpeg),
            )
        return sequence

    def _forget(self, camera: str, sequence: int) -> None:
        rows = self._connection.execute(
            "SELECT camera, sequence FROM frames WHERE camera = ? AND sequence <= ? LIMIT ?",
            (camera, sequence, self._batch),
        ).fetchall()
        if rows:
            self._with_room(lambda: self._delete(rows))
        self._fill_reserve()
        if not any(self._count.values()) and self._pragma("freelist_count") >= SHRINK_PAGES:
            with contextlib.suppress(sqlite3.OperationalError):
                self._connection.execute("VACUUM")
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _thin(self) -> None:
        """Give up some of every second one of the oldest half of each camera's frames, one frame at least.

        Not all of them at once: of a large spool that would take a slow disk minutes, while no frame is taken.
        """
        given_up: Counter[str] = Counter()
        while not given_up:
            given_up = self._delete(self._next_victims())
        if self._on_thinned is not None:
            for camera, frames in given_up.items():
                self._on_thinned(camera, frames)

    def _next_victims(self) -> list[tuple[str, int]]:
        """Cameras and numbers of the frames to give up next; since they were chosen, some may have been delivered."""
        db = self._connection
        if not self._victims:
            self._victims = db.execute(EVERY_SECOND).fetchall()
            if self._victims:
                logger.warning("spool %s is full: giving up %d of the oldest frames", self._folder, len(self._victims))
            elif oldest := db.execute(OLDEST_OF_THE_MOST).fetchall():
                return oldest
            else:
                raise SpoolError(
                    f"spool {self._folder}: no room for a frame within {self._max_bytes} bytes, none to give up",
                    DISK_FULL,
                )
        batch, self._victims = self._victims[: self._batch], self._victims[self._batch :]
        # never the very oldest, which may be on its way
        first = "SELECT MIN(sequence) FROM frames WHERE camera = ?"
        oldest_of = {camera: db.execute(first, (camera,)).fetchone()[0] for camera in {camera for camera, _ in batch}}
        return [(camera, sequence) for camera, sequence in batch if sequence != oldest_of[camera]]

    def _delete(self, frames: list[tuple[str, int]]) -> Counter[str]:
        """Delete frames, by camera and number, as far as they are there; how many of each camera."""
        db = self._connection
        # a frame that comes back after a power cut is sent twice, and a disk spared a flush
        db.execute("PRAGMA synchronous = NORMAL")
        deleted: list[tuple[str, int]] = []
        try:
            with self._transaction():
                for frame in frames:
                    deleted += db.execute(
                        "DELETE FROM frames WHERE camera = ? AND sequence = ? RETURNING camera, LENGTH(jpeg)", frame
                    ).fetchall()
        finally:
            db.execute("PRAGMA synchronous = FULL")
        for camera, size in deleted:
            self._count[camera] -= 1
            self._bytes[camera] -= size
        return Counter(camera for camera, _ in deleted)

    def _capacity(self) -> int:
        """Pages that the database may have, so that the files are not larger than `max_bytes` together."""
        log = max(
            _size(self._path.with_name("frames.db-wal")),
            (2 * self._log_pages + self._largest_pages + 16) * (PAGE + 24),
        )
        return (self._max_bytes - log - self._reserve_bytes - SMALL_FILES) // PAGE

    def _room(self) -> int:
        """Pages of the capacity that are free."""
        return self._capacity() - self._pragma("page_count") + self._pragma("freelist_count")

    def _pragma(self, name: str) -> int:
        return int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        db = self._connection
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def _guarded(self, work: Callable[[], T]) -> T:
        """Do `work`, a second time if the database turned out damaged, then with a new one."""
        try:
            if self._db is None and not self._closed and work != self._open:
                # setting a damaged one aside, or making a new one, had failed
                self._open()
            return work()
        except sqlite3.DatabaseError as error:
            if _code(error) not in DAMAGED:
                raise
            self._set_aside(error)
            if work == self._open:
                return work()
            self._open()
            return work()

    def _set_aside(self, error: sqlite3.Error) -> None:
        known = self._salvaged_counters()
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()
        stamp = f"{time.time_ns() // 1000:020d}"
        aside = self._folder / f"frames.db.damaged-{stamp}"
        for suffix in ("", "-wal", "-shm", "-journal"):
            with contextlib.suppress(FileNotFoundError):
                self._path.with_name("frames.db" + suffix).rename(aside.with_name(aside.name + suffix))
        ceilings = self._read_ceilings()
        if not ceilings and not known:
            ceilings = {EVERY_CAMERA: time.time_ns() // 1_000_000}
        # what a damaged database says may be behind
        known = {camera: number + STEP for camera, number in known.items()}
        self._write_ceilings({name: max(ceilings.get(name, 0), known.get(name, 0)) for name in ceilings | known})
        logger.error(
            "spool %s is damaged (%s) and set aside as %s; %s frames in it are not delivered",
            self._folder, error, aside.name, sum(self._count.values()) or "the",
        )  # fmt: skip
        lost = sorted(p for p in self._folder.glob("frames.db.damaged-*") if p.name.count("-") == 1)
        for path in lost[:-DAMAGED_KEPT]:
            for suffix in ("", "-wal", "-shm", "-journal"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)

    def _salvaged_counters(self) -> dict[str, int]:
        if self._db is None:
            return {}
        try:
            return dict(self._db.execute("SELECT camera, next FROM counters").fetchall())
        except sqlite3.Error:
            return {}

    def _read_ceilings(self) -> dict[str, int]:
        try:
            values = json.loads((self._folder / "sequences.json").read_bytes())
            return {str(camera): int(value) for camera, value in values.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError, TypeError, RecursionError) as error:
            logger.error("spool %s: sequences.json is damaged: %s", self._folder, error)
            return {}

    def _write_ceilings(self, values: dict[str, int]) -> None:
        path = self._folder / "sequences.json"
        temporary = path.with_name("sequences.json.part")
        try:
            with temporary.open("wb") as file:
                file.write(json.dumps(values).encode())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(self._folder)
        self._ceilings = values

    def _fill_reserve(self) -> None:
        """Keep the reserve; while there is no room for it, the database doesn't grow.

        What is in the log could then not get into the database, and deleting would need a log that can grow.
        """
        path = self._folder / "reserve"
        if _size(path) == self._reserve_bytes:
            return
        try:
            with path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, self._reserve_bytes)
        except OSError as error:
            logger.debug("spool %s: no room for the reserve: %s", self._folder, error)
            path.unlink(missing_ok=True)
            self._pragma(f"max_page_count = {max(_size(self._path) // PAGE, 1)}")
        else:
            self._pragma("max_page_count = 4294967294")

    def _free_reserve(self) -> None:
        """Make room on a full disk, and use it to bring the log's pages into the database."""
        (self._folder / "reserve").unlink(missing_ok=True)
        with contextlib.suppress(sqlite3.OperationalError):
            # not truncated: a log that keeps its length needs no room
            self._connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
        self._pragma(f"max_page_count = {max(_size(self._path) // PAGE, 1)}")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what SQLite and the system raise into SpoolError."""
        try:
            yield
        except sqlite3.Error as error:
            full = _is_full(error)
            reason = DISK_FULL if full else DISK_ERROR
            raise SpoolError(f"can't write spool {self._folder}: {reason} ({error})", reason) from error
        except OSError as error:
            reason = DISK_FULL if _is_full(error) else DISK_ERROR
            raise SpoolError(f"can't write spool {self._folder}: {error.strerror or error}", reason) from error


def _code(error: sqlite3.Error) -> int:
    """The primary result code."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _is_full(error: sqlite3.Error | OSError) -> bool:
    if isinstance(error, OSError):
        return is_disk_full(error)
    # a quota or a limit on a file's size is reported as a failed write
    code = int(getattr(error, "sqlite_errorcode", 0))
    return code & 0xFF == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_WRITE


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
