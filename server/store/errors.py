"""Errors of the store that are more special than StorageError."""

from rjpeg._protocol import time_text
from rjpeg.errors import StorageError
from server.store.rows import FrameRow

__all__ = ["Duplicate", "GoneError", "ReopenedError", "TooLateError"]


class Duplicate(Exception):  # noqa: N818  not a failure: the frame is stored
    """The frame is stored already.

    Attributes:
        row: its row.
    """

    def __init__(self, row: FrameRow) -> None:
        super().__init__(f"frame {row.sequence} of {row.camera}, {time_text(row.capture_time)}, is stored already")
        self.row = row


class GoneError(StorageError):
    """The frame was deleted in the meantime, so its file can't be read."""


class ReopenedError(StorageError):
    """SQLite's file was replaced during a transaction. The same transaction may succeed on the new file."""


class TooLateError(StorageError):
    """A row came so long after its file was written that a sweep may have moved the file."""
