"""Stores a frame: first its file, then its row. Both would survive a power cut when `add_frame` returns."""

import datetime
import logging
from collections import deque
from typing import Any

from rjpeg.errors import KeyMissingError, StorageError
from server.frames import ReceivedFrame
from server.store.database import Database
from server.store.errors import Duplicate
from server.store.files import Files
from server.store.insertion import MissingBase
from server.store.mending import mend_file
from server.store.rows import FrameRow, frame_row, frame_values
from server.store.writer import Existing, Inserted, Outcome, Refused, Writer

__all__ = ["ADD_SECONDS", "FrameAdder"]

logger = logging.getLogger(__name__)

ADD_SECONDS = 60
"""How long `add` waits for the commit of its row."""
MAX_UNCERTAIN = 1024


class FrameAdder:
    """Stores frames. For any number of threads.

    Args:
        database: which takes the rows.
        files: which takes the files.
        program: this program's id in the rows, 16 characters.

    Attributes:
        uncertain: keys of the newest frames whose `add` failed although the database may have, or may get, their rows.
    """

    def __init__(self, database: Database, files: Files, program: str) -> None:
        self._database = database
        self._files = files
        self._program = program
        self._writer = Writer(database)
        self.uncertain: deque[str] = deque(maxlen=MAX_UNCERTAIN)

    def add(
        self, frame: ReceivedFrame, measures: dict[str, Any], results: Any, stored_time: datetime.datetime
    ) -> FrameRow:
        """Store a frame, see `Store.add`. Raises Duplicate, InputError, KeyMissingError, StorageError."""
        values = frame_values(frame, measures, results, stored_time=stored_time, writer=self._program)
        key: str = values["key"]
        self._database.check_room()
        release = self._files.write(key, frame.jpeg)
        try:
            future = self._writer.submit(frame.camera, values)
        except StorageError:
            self._discard(key)
            release()
            raise
        try:
            outcome = future.result(ADD_SECONDS)
        except TimeoutError:
            # the row may still be committed, and until then a sweep must leave the file alone
            future.add_done_callback(lambda _: release())
            self.uncertain.append(key)
            message = f"database {self._database.name} did not take a frame within {ADD_SECONDS} s"
            raise StorageError(message) from None
        self._settle_file(key, outcome)
        release()
        match outcome:
            case Inserted(id=number):
                return frame_row(frame.camera, values | {"id": number})
            case Existing(row=row):
                mend_file(self._database, self._files, row, frame.jpeg, stored_time)
                raise Duplicate(row)
            case MissingBase(frame_id=number):
                name = next((base.file_id for base in frame.bases if base.frame_id == number), "")
                raise KeyMissingError(name)
            case Refused(error=error):
                raise error

    def check(self) -> None:
        """Raise StorageError if no frame could be added."""
        self._writer.check()

    def close(self) -> None:
        """Take no more frames, and wait until those that wait for their commit are stored."""
        self._writer.close(ADD_SECONDS)

    def _settle_file(self, key: str, outcome: Outcome) -> None:
        """Remove the file of a frame that has no row."""
        match outcome:
            case Existing(row=row) if row.key != key:
                # equal keys: `rebuild` has made the row of this very file
                self._discard(key)
            case Refused(may_be_stored=True):
                self.uncertain.append(key)
            case Refused() | MissingBase():
                self._discard(key)

    def _discard(self, key: str) -> None:
        try:
            self._files.remove([key])
        except StorageError as error:
            # the next sweep sets it aside
            logger.warning("%s", error)
