"""SQLite's file: checked for damage and replacement, and readable for its owner only.

SQLite keeps writing to a file or log that was removed or replaced, and reports success. So the inodes of file, log and
index are compared before and after each transaction. One connection is always kept open, because SQLite creates no new
log as long as a connection exists.
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

from rjpeg.errors import StorageError
from server.disk import make_folder, make_private, storage_error
from server.store.driver_errors import is_damage
from server.store.errors import ReopenedError

__all__ = ["SqliteFile", "set_up_connection"]

logger = logging.getLogger(__name__)

OPEN_CHECK_SECONDS = 1.0
"""How long the check for damage may take when the file is opened."""
CHECK_SECONDS = 10.0
"""How long each check in the background may take."""
CHECK_EVERY_SECONDS = 15.0
MAX_CHECK_SHARE = 0.02
"""Share of the time that goes into checks."""
STEPS = 100_000
"""Instructions of SQLite's virtual machine between two looks at the clock."""
MAX_LOG_BYTES = 2**26
"""Size to which SQLite cuts its log after a checkpoint."""


class SqliteFile:
    """One database file with its log and index. For any number of threads.

    Args:
        path: of the file, which is created if it does not exist.
        name: for messages.
        busy_seconds: how long a connection waits for another program's transaction.

    Attributes:
        damage: what is wrong with the content; None: no damage was noticed.
        generation: grows by one whenever the file or its log is found replaced.
        on_reopened: is called then. It must close all connections.

    Raises:
        StorageError: the file can't be opened, or is damaged.
    """

    def __init__(self, path: Path, name: str, busy_seconds: float) -> None:
        self.path = path
        # file, log and index, as text, which is faster; SQLite follows links before it names log and index
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
        self._opened_inodes: tuple[int, int, int] = (0, 0, 0)
        make_folder(path.parent)
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise storage_error(f"can't open database file {path}", error) from error
        for part in self._parts:
            make_private(Path(part), 0o600)

    def open(self) -> None:
        """Check the content for OPEN_CHECK_SECONDS at most, and remember the inodes.

        Raises:
            StorageError: the content is damaged or can't be read.
        """
        self.check_content(OPEN_CHECK_SECONDS)
        self.refuse_damage()
        self._hold()

    def connect(self) -> sqlite3.Connection:
        """Return a new connection. Raises StorageError."""
        # mode=rw, as a missing file must not be created again: an empty one would take frames and lose the others
        name = f"file:{urllib.parse.quote(str(self.path))}?mode=rw"
        try:
            return sqlite3.connect(name, uri=True, timeout=self._busy_seconds, check_same_thread=False)
        except sqlite3.Error as error:
            raise StorageError(f"database {self.name}: {error}") from error

    def reopen_if_replaced(self) -> int:
        """Open the file that is there now if it is another one; return the generation. Call it before a transaction.

        Raises:
            StorageError: the file was removed, or can't be opened.
        """
        if self._inodes() == self._opened_inodes:
            return self.generation
        with self._lock:
            found = self._inodes()
            if found == self._opened_inodes:
                return self.generation
            if not found[0]:
                raise StorageError(f"database {self.name} was removed")
            self._reopen(found)
            return self.generation

    def check_not_replaced(self, generation: int) -> None:
        """Raise StorageError if the file is not that of a generation. Call it before a commit.

        Raises:
            ReopenedError: the file was replaced. The same transaction may succeed on the new one.
            StorageError: the file was removed.
        """
        found = self._inodes()
        if found == self._opened_inodes and generation == self.generation:
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
        """Refuse transactions that write until the file is replaced."""
        if self.damage is None:
            self.damage = what
            with contextlib.suppress(StorageError):
                logger.error("database %s, file %s, is damaged: %s", self.name, self.path, what)

    def check_content(self, seconds: float) -> bool:
        """Let SQLite check the structure of the file, and note damage.

        Args:
            seconds: time after which the check is given up.

        Returns:
            Whether the check came to an end.
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
        """Check the content again and again in a thread, until `close`."""
        threading.Thread(target=self._watch, name="sqlite-check", daemon=True).start()

    def close(self) -> None:
        """End the checks, and close the connection that is kept open."""
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
            wait = max(CHECK_EVERY_SECONDS, (time.monotonic() - started) / MAX_CHECK_SHARE)

    def _reopen(self, found: tuple[int, int, int]) -> None:
        """Close the connections to files that were removed or replaced, and open those that are there now."""
        if found[0] == self._opened_inodes[0]:
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
        """Copy into the file what was committed to a log that was removed. Raises StorageError."""
        if self._holder is None or _inode(self._parts[1]):
            return
        try:
            busy, _, _ = self._holder.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            raise StorageError(f"database {self.name}: its log was removed: {error}") from error
        if busy:
            raise StorageError(f"database {self.name}: its log was removed; what it held is being saved")

    def _hold(self) -> None:
        """Open the connection that is kept open, and remember the inodes. Raises StorageError."""
        connection = self.connect()
        try:
            set_up_connection(connection, self._busy_seconds)
            # a query opens the log
            connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        except sqlite3.Error as error:
            connection.close()
            if is_damage(error):
                self.note_damage(str(error))
            raise StorageError(f"database {self.name}: {error}") from error
        self._holder = connection
        self._opened_inodes = self._inodes()

    def _inodes(self) -> tuple[int, int, int]:
        file, log, index = self._parts
        return _inode(file), _inode(log), _inode(index)


def set_up_connection(connection: sqlite3.Connection, busy_seconds: float) -> None:
    """Set up a connection so that its commits are durable and several programs can share the file.

    Args:
        connection: a new one.
        busy_seconds: how long to wait while another program changes the journal mode.

    Raises:
        sqlite3.Error: the file can't be read, or stays locked.
    """
    # the driver must not begin transactions: it would do so too late
    connection.isolation_level = None
    # a damaged text must not keep other rows from being read
    connection.text_factory = _decode
    deadline = time.monotonic() + busy_seconds
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        # if two programs change the mode at once, SQLite does not wait by itself
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.execute(f"PRAGMA journal_size_limit = {MAX_LOG_BYTES}")


def _decode(text: bytes) -> str:
    """Return a text. Replacement characters take the place of what is not UTF-8."""
    return text.decode(errors="replace")


def _inode(path: str) -> int:
    """Return a file's inode, 0 if it does not exist."""
    try:
        return os.stat(path).st_ino  # noqa: PTH116  faster than Path.stat, and done with each transaction
    except OSError:
        return 0
