"""The spool's folder: who has it open, whose it is, and if it is still the one that was opened.

That a file of the right name exists says little. A disk may have been unmounted, and a folder below its mount point
then takes frames that nobody finds again. A file that was removed takes frames for as long as it is open. So the folder
and what is in it are compared by device and inode with what was opened. Another folder is compared by the spool's name,
which is written in `lock`.
"""

import contextlib
import fcntl
import logging
import os
import re
import secrets
import time
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

from device.spool.sealed import seal, unseal
from rjpeg.errors import StorageError

__all__ = ["Folder", "Inode", "Place", "size_of"]

logger = logging.getLogger(__name__)

Inode = tuple[int, int]  # device and number, which say whether two names lead to one file

MAX_LOCK_BYTES = 1000
MAX_DAMAGED = 3  # databases that are kept for whoever wants to look
SUFFIXES = ("", "-wal", "-shm", "-journal")
OURS = ("frames.db", "sequences.json", "numbers", "lock", "reserve")


class Place(Enum):
    """What became of the folder that was opened.

    Attributes:
        SAME: Nothing.
        CHANGED: It is the same spool's, but files in it were removed or replaced, or its disk was mounted anew.
        GONE: The path is missing, or it leads to a folder that isn't this spool's.
    """

    SAME = "same"
    CHANGED = "changed"
    GONE = "gone"


class Folder:
    """A spool's folder, locked against other programs.

    Args:
        path: Made if need be, for its owner only.

    Attributes:
        path: See above.
        identity: The spool's name as the folder has it; None if it has none yet.
        fresh: Nothing of a spool was there.

    Raises:
        StorageError: The folder can't be written, or another program has it open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = [entry.name for entry in os.scandir(path)]
            found = [name for name in found if name.startswith(OURS)]
            self.fresh = not found
            # pictures are private, also if an earlier version let others read them
            for name in found:
                with contextlib.suppress(OSError):
                    (path / name).chmod(0o600)
            self._folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            self._lock = -1
            self.identity: str | None = None
            try:
                self._take_lock()
            except BaseException:
                self.close()
                raise
        except OSError as error:
            raise StorageError(f"can't write spool {path}: {error.strerror or error}") from error

    def mark(self, identity: str | None) -> str:
        """Write the spool's name down, a new one if there is none; return it.

        Raises:
            OSError: The system's reason why it can't be written.
        """
        self.identity = identity or secrets.token_hex(16)
        data = seal({"spool": self.identity})
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, data, 0)
        os.fsync(self._lock)
        return self.identity

    def database_files(self) -> dict[str, Inode]:
        """Return the database's files that are there now, by name."""
        found = {name: _inode(self.path / name) for name in ("frames.db", "frames.db-wal")}
        return {name: inode for name, inode in found.items() if inode is not None}

    def place(self, files: Mapping[str, Inode]) -> Place:
        """Return what became of the folder that was opened. A `lock` that was removed is made again.

        Args:
            files: The open database's, by name, as they were when it was opened; none if no database is open.

        Raises:
            OSError: The system's reason why nobody knows.
            StorageError: Another program has the folder open.
        """
        if not self.is_same():
            return Place.CHANGED if self._has_name() else Place.GONE
        if self._lock == -1 or _inode(self.path / "lock") != _inode(self._lock):
            name = self.identity
            self._take_lock()
            # on a full disk only the database has the name; a later start takes it from there
            with contextlib.suppress(OSError):
                self.mark(name)
        same = all(_inode(self.path / name) == inode for name, inode in files.items())
        return Place.SAME if same else Place.CHANGED

    def is_same(self) -> bool:
        """Return True if the path leads to the folder that was opened."""
        return _inode(self.path) == _inode(self._folder)

    def is_ours(self) -> bool:
        """Return True if the path leads to this spool's folder, be it the one that was opened or another."""
        return self.is_same() or self._has_name()

    def set_aside(self, kind: str, why: str) -> None:
        """Rename the database so that a new one can begin.

        Args:
            kind: "salvage", "damaged" or "foreign", which becomes part of its name.
            why: For the log.

        Raises:
            OSError: The system's reason why it can't be renamed.
        """
        aside = self.path / f"frames.db.{kind}-{time.time_ns() // 1000:020d}"
        for suffix in SUFFIXES:
            with contextlib.suppress(FileNotFoundError):
                (self.path / f"frames.db{suffix}").rename(aside.with_name(aside.name + suffix))
        logger.error("spool %s: its database is set aside as %s: %s", self.path, aside.name, why)

    def aside(self, kind: str) -> list[Path]:
        """Return the databases that were set aside, the oldest first."""
        names = {path.name.removesuffix("-wal") for path in self.path.glob(f"frames.db.{kind}-*")}
        return [self.path / name for name in sorted(names) if re.fullmatch(rf"frames\.db\.{kind}-[0-9]+", name)]

    def end_salvage(self, path: Path) -> None:
        """Rename a database from which everything was saved as one that is damaged."""
        for suffix in SUFFIXES:
            with contextlib.suppress(FileNotFoundError):
                name = path.name + suffix
                path.with_name(name).rename(path.with_name(name.replace("salvage", "damaged")))

    def remove_old_damaged(self, max_bytes: int) -> None:
        """Keep the newest MAX_DAMAGED damaged databases, as far as they take `max_bytes` together."""
        size = 0
        for number, path in enumerate(reversed(self.aside("damaged"))):
            files = [path.with_name(path.name + suffix) for suffix in SUFFIXES]
            size += sum(map(size_of, files))
            if number >= MAX_DAMAGED or size > max_bytes:
                for file in files:
                    file.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the folder and its lock."""
        for descriptor in (self._lock, self._folder):
            if descriptor != -1:
                os.close(descriptor)
        self._lock = self._folder = -1

    def _has_name(self) -> bool:
        return self.identity is not None and _read_mark(self.path / "lock") == self.identity

    def _take_lock(self) -> None:
        if self._lock != -1:
            os.close(self._lock)
            self._lock = -1
        self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StorageError(f"spool {self.path} is in use by another program") from error
        self.identity = _name_in(os.pread(self._lock, MAX_LOCK_BYTES, 0))


def size_of(path: Path) -> int:
    """Return the bytes of a file, 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _inode(where: Path | int) -> Inode | None:
    try:
        found = os.fstat(where) if isinstance(where, int) else where.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def _read_mark(path: Path) -> str | None:
    try:
        return _name_in(path.read_bytes()[:MAX_LOCK_BYTES])
    except OSError:
        return None


def _name_in(data: bytes) -> str | None:
    content = unseal(data)
    name = None if content is None else content.get("spool")
    return name if isinstance(name, str) else None
