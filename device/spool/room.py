"""Room for the spool's files: what they may take of the disk, and what to do when the disk is full before that."""

import logging
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from device.frames import OutgoingFrame
from device.spool.database import Database
from device.spool.errors import DISK_FULL, SpoolError, is_full
from device.spool.folder import size_of
from device.spool.salvage import PAGE

__all__ = ["MIN_BYTES", "Room"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

MIN_BYTES = 1_000_000  # less has no room for the log and the reserve
SMALL_FILES = 64 * 1024  # bytes for sequences.json, numbers and the lock


class Room:
    """Counts pages, and keeps a file in reserve whose room is given up when the disk is full.

    Args:
        folder: The spool's.
        max_bytes: Of all files in it.

    Attributes:
        max_bytes: See above.
        log_pages: Pages that the database's log may have before they are brought into the database.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.log_pages = min(1000, max_bytes // 32 // PAGE)
        self._folder = folder
        self.max_bytes = max_bytes
        self._reserve_bytes = 2 * self.log_pages * PAGE
        self._largest_pages = 0

    def pages_for(self, frame: OutgoingFrame) -> int:
        """Return the pages that a frame may take.

        Raises:
            SpoolError: There is never room for the frame.
        """
        pages = (len(frame.jpeg) + 4 * len(frame.metrics or "")) // (PAGE - 4) + 8
        self._largest_pages = max(self._largest_pages, pages)
        if pages > self._capacity() - 8:
            raise SpoolError(
                f"spool {self._folder}: a frame of {len(frame.jpeg)} bytes is too large "
                f"for {self.max_bytes} bytes in all",
                DISK_FULL,
            )
        return pages

    def free(self, db: Database) -> int:
        """Return how many more pages the database may use."""
        return self._capacity() - db.pages() + db.free_pages()

    def fill_reserve(self, db: Database) -> None:
        """Make the reserve if it is missing. While there is no room for it, the database doesn't grow.

        If the database could grow, the log's pages might no longer get into it, and deleting needs a log that can grow.
        """
        path = self._folder / "reserve"
        if size_of(path) == self._reserve_bytes:
            return
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                os.posix_fallocate(file.fileno(), 0, self._reserve_bytes)
        except OSError as error:
            logger.debug("spool %s: no room for the reserve: %s", self._folder, error)
            path.unlink(missing_ok=True)
            db.limit(size_of(self._folder / "frames.db") // PAGE)
        else:
            db.limit(None)

    def made_for(self, db: Database, work: Callable[[], T], last_resort: Callable[[], T] | None = None) -> T:
        """Do `work`; if the disk is full, do it again with the reserve's room, and then `last_resort` in its place."""
        try:
            return work()
        except (sqlite3.OperationalError, OSError) as error:
            if not is_full(error):
                raise
        # the reserve's room lets the log's pages get into the database
        (self._folder / "reserve").unlink(missing_ok=True)
        db.empty_log()
        db.limit(size_of(self._folder / "frames.db") // PAGE)
        if last_resort is None:
            return work()
        try:
            return work()
        except (sqlite3.OperationalError, OSError) as error:
            if not is_full(error):
                raise
        return last_resort()

    def _capacity(self) -> int:
        """Return the pages that the database may have, so that all files are within `max_bytes` together."""
        log = max(
            size_of(self._folder / "frames.db-wal"),
            (2 * self.log_pages + self._largest_pages + 16) * (PAGE + 24),
        )
        return (self.max_bytes - log - self._reserve_bytes - SMALL_FILES) // PAGE
