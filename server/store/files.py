"""What the store needs of the place where its files are, whether a local folder or object storage.

A file is written once and never changed. `server.store.keys` names it. The place carries a mark: a small file that says
which store it belongs to. The mark is read again before and after each write, and whenever else something depends on
it. So a disk that is not mounted, or that is another one, is noticed.
"""

import contextlib
import datetime
from collections.abc import Callable, Iterable
from typing import Protocol

from rjpeg.errors import StorageError

__all__ = ["MARK", "Files", "foreign_mark_error"]

MARK = "rjpeg-store.json"


class Files(Protocol):
    """A place for files. Any thread may call its methods. All of them raise StorageError.

    Keys name the files. `quarantine_key` gives the names of files that were set aside.
    """

    name: str
    """For messages."""

    grace: datetime.timedelta
    """Age from which a file without a row may be taken for the leftover of a crash."""

    locks: bool
    """Whether a file is locked as long as its frame is being added."""

    mark: bytes | None
    """What the mark must hold. None: the store's identity is not known yet, and the mark is not checked."""

    def write(self, key: str, data: bytes) -> Callable[[], None]:
        """Write the file durably. Call the returned function once its row is committed or given up.

        Until then `hold` and `move_idle` leave the file alone.
        """

    def read(self, key: str) -> bytes:
        """Return a file's content."""

    def size(self, key: str) -> int | None:
        """Return a file's size in bytes, None if it does not exist."""

    def remove(self, keys: Iterable[str]) -> None:
        """Remove files. A missing file is no error."""

    def names(self, *folders: str) -> list[str]:
        """Return what is in a folder below the root, given as the parts of its path. A missing folder is empty."""

    def count(self, folder: str) -> tuple[int, int]:
        """Return the number of files in a folder and its subfolders, and their bytes."""

    def hold(self, key: str) -> contextlib.AbstractContextManager[bool]:
        """Keep a file from being moved. Yields False if it does not exist, or if its frame is being added."""

    def move(self, key: str, target: str) -> None:
        """Rename a file."""

    def move_idle(self, key: str, target: str, is_owned: Callable[[], bool]) -> bool:
        """Rename a file whose frame is not being added and that, asked then, has no row; return whether it was."""

    def read_mark(self) -> bytes | None:
        """Return the mark, None if there is none."""

    def write_mark(self, data: bytes) -> None:
        """Write the mark durably, unless there is one."""

    def check(self) -> None:
        """Raise StorageError if the mark is not what it must be."""

    def ping(self) -> None:
        """Raise StorageError if no file could be read."""


def foreign_mark_error(name: str, found: bytes | None) -> StorageError:
    """Return the error for files whose mark is missing or another store's."""
    what = "lack their mark" if found is None else "carry another mark"
    return StorageError(f"files {name} {what} ({MARK}) and are not what was opened; is the right disk mounted?")
