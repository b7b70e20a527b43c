"""Why a frame can't be kept, or can't be sent any more."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from rjpeg._files import is_disk_full
from rjpeg.errors import StorageError

__all__ = ["DAMAGED", "DISK_ERROR", "DISK_FULL", "THINNED", "SpoolError", "as_spool_errors", "is_full"]

DISK_FULL, DISK_ERROR = "disk full", "disk error"
# Why frames that were in the spool can't be sent any more.
DAMAGED, THINNED = "damaged on disk", "thinned"


class SpoolError(StorageError):
    """A frame can't be kept. `reason` is DISK_FULL or DISK_ERROR."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@contextlib.contextmanager
def as_spool_errors(folder: Path) -> Iterator[None]:
    """Turn what SQLite and the system raise into SpoolError."""
    try:
        yield
    except sqlite3.Error as error:
        reason = DISK_FULL if is_full(error) else DISK_ERROR
        raise SpoolError(f"can't write spool {folder}: {reason} ({error})", reason) from error
    except OSError as error:
        reason = DISK_FULL if is_full(error) else DISK_ERROR
        raise SpoolError(f"can't write spool {folder}: {error.strerror or error}", reason) from error


def is_full(error: sqlite3.Error | OSError) -> bool:
    """Return True if an error says that the disk is full."""
    if isinstance(error, OSError):
        return is_disk_full(error)
    # a quota or a limit on a file's size is reported as a failed write
    code = int(getattr(error, "sqlite_errorcode", 0))
    return code & 0xFF == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_WRITE
