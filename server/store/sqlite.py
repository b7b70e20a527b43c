"""SQLite's files: durable, for their owner alone, and noticed when they are no longer what was opened.

SQLite goes on writing to a file that was removed or replaced, and to a log that was, and reports success. So the
inodes of file, log and index are compared before and after each transaction. One connection is kept open for that:
while there is one, SQLite itself makes no new log.
"""

import contextlib
import logging
import os
import sqlite3
import threading
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rjpeg.errors import StorageError
from server.disk import make_folder, make_private, storage_error

__all__ = ["ReopenedError", "SqliteFile", "is_damage"]

logger = logging.getLogger(__name__)

DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
STEPS = 100_000  # of SQLite's machine between two looks at the clock
OPEN_CHECK_SECONDS = 1.0
CHECK_SECONDS = 10.0
CHECK_EVERY_SECONDS = 15.0
CHECK_SHARE = 0.02  # of the time, at most


class ReopenedError(StorageError):
    """The file was replaced during a transaction; the same transaction may succeed on the one that is there now."""


class SqliteFile:
    """One database file with its log and index. For any number of threads.

    Args:
        path: of the file, which is made if there is none.
        name: for messages.
        busy_seconds: that connections wait for another program's transaction.

    Attributes:
        damage: what is wrong with the content; None: nothing that was noticed.
        generation: grows whenever the file or its log were replaced.

    Raises:
        StorageError: the file can't be opened, or is damaged.
    """

    def __init__(self, path: Path, name: str, busy_seconds: float) -> None:
        self.path = path
        # file, log and index, as text, which is quicker to look up; SQLite puts those two beside what a link leads to
        real = path.resolve()
        self._parts = (str(path), f"{real}-wal", f"{real}-shm")
        self.name = name
        self.damage: str | None = None
        self.generation = 0
        self.on_reopened: Callable[[], None] = lambda: None
        self._busy_seconds = busy_seconds
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._holder: sqlite3.Connection | None = None
        self._opened: tuple[int, int, int] = (0, 0, 0)
        make_folder(path.parent)
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise storage_error(f"can't open database file {path}", error) from error
        for part in self._parts:
            make_private(Path(part), 0o600)

    def open(self) -> None:
        """Look whether the content is sound, as far as a second allows, and note which files they are.

        Raises:
            StorageError: it is damaged, or not readable.
        """
        self.check_content(OPEN_CHECK_SECONDS)
        self.refuse_damage()
        self._hold()

    def connect(self) -> sqlite3.Connection:
        """Return a connection. Raises StorageError."""
        # never made again: a new one would be empty, and what it has taken gone with it
        name = f"file:{urllib.parse.quote(str(self.path))}?mode=rw"
        try:
            return sqlite3.connect(name, uri=True, timeout=self._busy_seconds, check_same_thread=False)
        except sqlite3.Error as error:
            raise StorageError(f"database {self.name}: {error}") from error

    def settle(self) -> int:
        """Before a transaction: open what is there now, if it is another file; return the generation.

        Raises:
            StorageError: the file was removed, or can't be opened.
        """
        if self._found() == self._opened:
            return self.generation
        with self._lock:
            found = self._found()
            if found == self._opened:
                return self.generation
            if not found[0]:
                raise StorageError(f"database {self.name} was removed")
            self._reopen(found)
            return self.generation

    def check_place(self, generation: int) -> None:
        """Before a commit: raise ReopenedError or StorageError if the files are not those of that generation."""
        found = self._found()
        if found == self._opened and generation == self.generation:
            return
        if not found[0]:
            raise StorageError(f"database {self.name} was removed")
        raise ReopenedError(f"database {self.name} was replaced")

    def refuse_damage(self) -> None:
        """Raise StorageError if the content was found to be damaged."""
        if self.damage is not None:
            raise StorageError(
                f"database {self.name} is damaged ({self.damage}); stop all programs that use it, move {self.path}, "
                "-wal and -shm away, and put a backup there or run `python -m server rebuild`"
            )

    def note_damage(self, what: str) -> None:
        """Take no more frames until the file is replaced."""
        if self.damage is None:
            self.damage = what
            with contextlib.suppress(StorageError):
                logger.error("database %s, file %s, is damaged: %s", self.name, self.path, what)

    def check_content(self, seconds: float) -> bool:
        """Let SQLite check the structure of the whole file; return whether it was done within the time.

        What is wrong becomes `damage`.
        """
        deadline = time.monotonic() + seconds
        try:
            with contextlib.closing(self.connect()) as connection:
                connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS)
                [(answer,)] = connection.execute("PRAGMA quick_check(1)").fetchall()
        except sqlite3.Error as error:
            if is_damage(error):
                self.note_damage(str(error))
            elif getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
                return False
            else:
                logger.warning("database %s can't be checked: %s", self.name, error)
        except StorageError as error:
            logger.warning("%s", error)
        else:
            if answer != "ok":
                self.note_damage(" ".join(str(answer).split()))
        return True

    def watch(self) -> None:
        """Check the content again and again in a thread of its own, until `close`."""
        threading.Thread(target=self._watch, name="sqlite-check", daemon=True).start()

    def close(self) -> None:
        """Let go of the file."""
        self._stopped.set()
        with self._lock:
            if self._holder is not None:
                self._holder.close()
                self._holder = None

    def _watch(self) -> None:
        wait = CHECK_EVERY_SECONDS
        told = False
        while not self._stopped.wait(wait):
            started = time.monotonic()
            if not self.check_content(CHECK_SECONDS) and not told:
                told = True
                logger.info("database %s is too large to be checked whole in %g s", self.name, CHECK_SECONDS)
            wait = max(CHECK_EVERY_SECONDS, (time.monotonic() - started) / CHECK_SHARE)

    def _reopen(self, found: tuple[int, int, int]) -> None:
        """Let go of the connections to files that were removed or replaced, and open those that are there."""
        if found[0] == self._opened[0]:
            self._save_log()
        logger.warning("database %s, or its log, was replaced; it is opened again", self.name)
        if self._holder is not None:
            self._holder.close()
            self._holder = None
        self.damage = None
        self.generation += 1
        self.on_reopened()
        self.check_content(OPEN_CHECK_SECONDS)
        self._hold()

    def _save_log(self) -> None:
        """Bring into the file what was committed to a log whose name is gone. Raises StorageError."""
        if self._holder is None or inode(self._parts[1]):
            return
        try:
            busy, _, _ = self._holder.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            raise StorageError(f"database {self.name}: its log was removed: {error}") from error
        if busy:
            raise StorageError(f"database {self.name}: its log was removed; what it held is being saved")

    def _hold(self) -> None:
        """Keep a connection open, and note which files they are. Raises StorageError."""
        connection = self.connect()
        try:
            set_up(connection, self._busy_seconds)
            # which opens the log
            connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        except sqlite3.Error as error:
            connection.close()
            if is_damage(error):
                self.note_damage(str(error))
            raise StorageError(f"database {self.name}: {error}") from error
        self._holder = connection
        self._opened = self._found()

    def _found(self) -> tuple[int, int, int]:
        file, log, index = self._parts
        return inode(file), inode(log), inode(index)


def set_up(connection: sqlite3.Connection, busy_seconds: float) -> None:
    """Give a connection what it needs so that a commit is durable and several programs may work on one file."""
    connection.isolation_level = None  # who begins says so, and not the driver, which would do so too late
    # a text that was damaged must not hide the rows beside it
    connection.text_factory = decoded
    deadline = time.monotonic() + busy_seconds
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        # two programs that change the mode at once: SQLite doesn't wait there
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.execute(f"PRAGMA journal_size_limit = {2**26}")


def decoded(text: bytes) -> str:
    """Return a text; what is not UTF-8 is marked."""
    return text.decode(errors="replace")


def is_damage(error: Any) -> bool:
    """Return whether a driver's error says that the content of the file is not a sound database."""
    return (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF in DAMAGED


def inode(path: str) -> int:
    """Return a file's inode, 0 if there is no such file."""
    try:
        return os.stat(path).st_ino  # noqa: PTH116  quicker, and done with each transaction
    except OSError:
        return 0
