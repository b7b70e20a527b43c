"""The spool's SQLite file: rows with frames, and nothing else that a frame would depend on."""

import contextlib
import datetime
import logging
import os
import re
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from device.frames import OutgoingFrame, identity_of
from device.spool.record import COLUMNS, EPOCH, MICROSECOND, Head, head_of, opened, row_of
from device.spool.salvage import PAGE
from device.spool.sealed import seal, unseal
from rjpeg import FileIdentity
from rjpeg._protocol import CAMERA_ID

__all__ = ["Database", "is_damage"]

logger = logging.getLogger(__name__)

CHECK_SECONDS = 5.0
SHRINK_PAGES = 4096  # free pages in an empty database that are worth giving back
START_BYTES = 4096  # of a file, which its header seldom exceeds
MOVED_AT_ONCE = 50  # rows of an earlier version's in one transaction
DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

TABLES = {
    b"spool": b"CREATE TABLE spool (sealed BLOB)",
    b"frames": b"CREATE TABLE frames (id INTEGER PRIMARY KEY, %b)" % COLUMNS.encode(),
}
# the table of the versions without checksums
FORMER_FRAMES = b"""CREATE TABLE frames (
    id INTEGER PRIMARY KEY,
    camera TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    time INTEGER NOT NULL,
    metrics TEXT,
    jpeg BLOB NOT NULL,
    UNIQUE (camera, sequence)
)"""
FORMER = "SELECT id, camera, sequence, time, metrics, jpeg FROM former WHERE id > ? ORDER BY id LIMIT ?"


class Database:
    """An open database. For one thread at a time.

    All methods raise sqlite3.Error. `is_damage` tells if the reason is damage.

    Args:
        path: Made if need be, for its owner only.
        log_pages: With more pages than this in the log, SQLite brings them into the database.

    Raises:
        sqlite3.Error: It can't be opened.
    """

    def __init__(self, path: Path, log_pages: int) -> None:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "rb") as file:
            _check_header(file.read(100))
        # sqlite3's own transactions are off: this class begins and commits them
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1)
        # a damaged text must not raise; the checksum of its row tells
        self._db.text_factory = bytes
        try:
            self._set_up(log_pages)
        except BaseException:
            self._db.close()
            raise

    @property
    def identity(self) -> str | None:
        """The spool's name as the database has it; None if it has none yet, or a damaged one."""
        row = self._db.execute("SELECT sealed FROM spool").fetchone()
        content = unseal(row[0]) if row and isinstance(row[0], bytes) else None
        name = None if content is None else content.get("spool")
        return name if isinstance(name, str) else None

    def mark(self, identity: str) -> None:
        """Write the spool's name into the database."""
        with self.transaction():
            self._db.execute("DELETE FROM spool")
            self._db.execute("INSERT INTO spool VALUES (?)", (seal({"spool": identity}),))

    def check(self) -> None:
        """Check that the pages fit together, for CHECK_SECONDS at most.

        Raises:
            sqlite3.DatabaseError: They do not.
        """
        timer = threading.Timer(CHECK_SECONDS, self._db.interrupt)
        timer.daemon = True
        timer.start()
        try:
            found = self._db.execute("PRAGMA integrity_check(1)").fetchone()[0]
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                return
            raise
        finally:
            timer.cancel()
            timer.join()
        if found != b"ok":
            raise _damage(found.decode(errors="replace").replace("\n", " "))

    def rows(self) -> Iterator[tuple[int, Head | None, FileIdentity]]:
        """Yield each row's number, what it says of its frame, None if that is damaged, and what the file is."""
        names = f"id, SUBSTR(jpeg, 1, {START_BYTES}), camera, sequence, time, head, LENGTH(jpeg)"
        for row, start, *values in self._db.execute(f"SELECT {names} FROM frames ORDER BY id"):  # noqa: S608
            yield row, head_of(*values), self._identity(row, start)

    def _identity(self, row: int, start: Any) -> FileIdentity:
        """Return what a file is by its first bytes, or by all of them if these do not tell."""
        if not isinstance(start, bytes):
            return identity_of(b"")
        found = identity_of(start)
        if found.id is not None or len(start) < START_BYTES:
            return found
        jpeg = self._db.execute("SELECT jpeg FROM frames WHERE id = ?", (row,)).fetchone()[0]
        return identity_of(jpeg if isinstance(jpeg, bytes) else b"")

    def read(self, row: int) -> OutgoingFrame | None:
        """Return the frame in a row; None if it is not what was written.

        Raises:
            sqlite3.DatabaseError: There is no such row, although there was.
        """
        values = self._db.execute(f"SELECT {COLUMNS} FROM frames WHERE id = ?", (row,)).fetchone()  # noqa: S608
        if values is None:
            raise _damage(f"row {row} is lost")
        return opened(*values)

    def insert(self, frame: OutgoingFrame) -> int:
        """Add a frame; return its row."""
        places = ", ".join("?" * len(COLUMNS.split(",")))
        with self.transaction():
            added = self._db.execute(f"INSERT INTO frames ({COLUMNS}) VALUES ({places})", row_of(frame))  # noqa: S608
        return int(added.lastrowid or 0)

    def delete(self, rows: list[int]) -> None:
        """Delete rows."""
        with self.transaction():
            self._db.executemany("DELETE FROM frames WHERE id = ?", [(row,) for row in rows])

    @contextlib.contextmanager
    def lazily(self) -> Iterator[None]:
        """Commit without waiting for the disk. A power cut may undo what is done in this context."""
        self._db.execute("PRAGMA synchronous = NORMAL")
        try:
            yield
        finally:
            self._db.execute("PRAGMA synchronous = FULL")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Do all or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def pages(self) -> int:
        """Return the size of the database in pages."""
        return self.pragma("page_count")

    def free_pages(self) -> int:
        """Return how many of the pages hold nothing."""
        return self.pragma("freelist_count")

    def limit(self, pages: int | None) -> None:
        """Let the database grow to so many pages; None: without limit."""
        self.pragma(f"max_page_count = {4294967294 if pages is None else max(pages, 1)}")

    def empty_log(self) -> None:
        """Bring the log's pages into the database, as far as the disk has room; the log keeps its length."""
        with contextlib.suppress(sqlite3.OperationalError):
            self._db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()

    def shrink(self) -> None:
        """Give back the pages that an empty database no longer needs, if they are many."""
        if self.free_pages() >= SHRINK_PAGES:
            with contextlib.suppress(sqlite3.OperationalError):
                self._db.execute("VACUUM")
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """Bring the log's pages into the database and close it. If the file was moved, only close it."""
        try:
            self._db.close()
        except sqlite3.Error as error:
            logger.warning("closing the spool's database: %s", error)

    def pragma(self, text: str) -> int:
        """Return what a PRAGMA says."""
        return int(self._db.execute(f"PRAGMA {text}").fetchone()[0])

    def _set_up(self, log_pages: int) -> None:
        db = self._db
        db.execute(f"PRAGMA page_size = {PAGE}")
        # no other process has it open, so it needs no shared memory, which a full disk could take away
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA secure_delete = OFF")
        db.execute(f"PRAGMA wal_autocheckpoint = {log_pages}")
        tables = self._tables()
        if tables.get(b"frames") == FORMER_FRAMES:
            with self.transaction():
                db.execute("ALTER TABLE frames RENAME TO former")
                db.execute("DROP TABLE IF EXISTS counters")
        if not tables or tables.get(b"frames") == FORMER_FRAMES:
            with self.transaction():
                for statement in TABLES.values():
                    db.execute(statement.decode())
        tables = self._tables()
        # a damaged name hides a table, and nobody knows what comes of a damaged type or constraint
        if {name: sql for name, sql in tables.items() if name in TABLES} != TABLES or tables.keys() - TABLES - {
            b"former"
        }:
            raise _damage("its schema is not the spool's")
        if b"former" in tables:
            self._take_over_former()

    def _tables(self) -> dict[bytes, bytes]:
        """Return the statements that made the tables, by name."""
        return dict(self._db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))

    def _take_over_former(self) -> None:
        """Give the frames of a version without checksums theirs; what makes no sense stays where it is."""
        db, last = self._db, -1
        while rows := db.execute(FORMER, (last, MOVED_AT_ONCE)).fetchall():
            with self.transaction():
                for row, *values in rows:
                    last = row
                    if (frame := _former_frame(*values)) is not None:
                        db.execute("DELETE FROM former WHERE id = ?", (row,))
                        places = ", ".join("?" * len(COLUMNS.split(",")))
                        db.execute(f"INSERT INTO frames ({COLUMNS}) VALUES ({places})", row_of(frame))  # noqa: S608
        left = db.execute("SELECT COUNT(*) FROM former").fetchone()[0]
        if left:
            logger.error("%d frames of an earlier version's spool are damaged and stay in its table", left)
        else:
            db.execute("DROP TABLE former")


def is_damage(error: BaseException) -> bool:
    """Return True if an error says that a database is damaged."""
    # Python can't read a message of SQLite's that quotes a damaged name
    if isinstance(error, UnicodeDecodeError):
        return True
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGE


def _check_header(header: bytes) -> None:
    """Check the header of a database file (SQLite's file format, 1.3) for what no spool's has.

    SQLite would take some of that for a newer version's, and then never write.

    Raises:
        sqlite3.DatabaseError: The header is damaged.
    """
    if not header:
        return
    right = (
        header[:16] == b"SQLite format 3\0"
        and int.from_bytes(header[16:18], "big") == PAGE
        and header[18:20] in (b"\1\1", b"\2\2")
        and header[20:24] == b"\0\x40\x20\x20"
        and int.from_bytes(header[44:48], "big") <= 4
        and int.from_bytes(header[56:60], "big") <= 1
    )
    if not right:
        raise _damage("its header is damaged")


def _damage(message: str) -> sqlite3.DatabaseError:
    """Return an error as SQLite raises for damage."""
    error = sqlite3.DatabaseError(message)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _former_frame(camera: Any, sequence: Any, time: Any, metrics: Any, jpeg: Any) -> OutgoingFrame | None:
    try:
        name, text = camera.decode(), None if metrics is None else metrics.decode()
        when: datetime.datetime = EPOCH + time * MICROSECOND
    except (AttributeError, TypeError, ValueError, OverflowError):
        return None
    if not (re.fullmatch(CAMERA_ID, name) and type(sequence) is int and sequence >= 0 and isinstance(jpeg, bytes)):
        return None
    return OutgoingFrame(name, sequence, when, jpeg, text)
