"""Commits the rows of new frames. Frames of many threads share a transaction.

A commit waits for the disk, so one for several frames is much cheaper than one for each.
"""

import logging
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from rjpeg.errors import StorageError
from server.disk import NoRoomError
from server.store.database import Database
from server.store.driver_errors import MAX_ATTEMPTS, is_about_rows, is_transient
from server.store.errors import TooLateError
from server.store.insertion import MissingBase, NewFrame, insert_frames
from server.store.rows import FrameRow

__all__ = ["MAX_COMMIT_SECONDS", "Existing", "Inserted", "Outcome", "Refused", "Writer"]

logger = logging.getLogger(__name__)

MAX_BATCH = 256
"""Rows of one transaction."""
MAX_COMMIT_SECONDS = 600
"""From the writing of a file to the commit of its row. A sweep of object storage spares files of six times that age."""


@dataclass(frozen=True)
class Inserted:
    """The frame has a row now.

    Attributes:
        id: of the row.
    """

    id: int


@dataclass(frozen=True)
class Existing:
    """An equal frame was stored before.

    Attributes:
        row: its row.
    """

    row: FrameRow


@dataclass(frozen=True)
class Refused:
    """The frame's row could not be committed.

    Attributes:
        error: why.
        may_be_stored: whether the database may have the row all the same, as its answer to the commit was lost.
    """

    error: StorageError
    may_be_stored: bool


Outcome = Inserted | Existing | Refused | MissingBase


@dataclass(eq=False)
class _Pending:
    """A frame whose file is written and whose row is not committed yet. Only the writer's thread changes it."""

    frame: NewFrame
    written: float
    outcome: "Future[Outcome]" = field(default_factory=Future)
    may_be_stored: bool = False


class Writer:
    """A thread that commits rows, and the queue of frames that wait for it. For any number of threads.

    Args:
        database: which takes the rows.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queue: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    def submit(self, camera: str, values: dict[str, Any]) -> "Future[Outcome]":
        """Queue a frame whose file has just been written.

        Args:
            camera: the camera's name.
            values: of the row, see `frame_values`.

        Returns:
            What becomes of the frame. The future has a result always, and an exception never.

        Raises:
            StorageError: the writer is closed, or its thread has ended.
        """
        pending = _Pending(NewFrame(camera, values), _uptime())
        with self._closing:
            self.check()
            self._queue.put(pending)
        return pending.outcome

    def check(self) -> None:
        """Raise StorageError if no frame could be committed: the writer is closed, or its thread has ended."""
        if self._closed:
            raise StorageError("the store is closed")
        if not self._thread.is_alive():
            raise StorageError(f"the thread that writes to database {self._database.name} has ended")

    def close(self, seconds: float) -> None:
        """Take no more frames, and wait at most some seconds until those in the queue are committed."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        """Commit all waiting frames together, until None comes."""
        ended = False
        while not ended:
            waiting = [self._queue.get()]
            while len(waiting) < MAX_BATCH:
                try:
                    waiting.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            ended = None in waiting
            if batch := [pending for pending in waiting if pending is not None]:
                try:
                    self._commit(batch)
                except Exception as error:
                    # a defect of this program, which must not keep later frames from being stored
                    logger.exception("store: %d frames can't be written", len(batch))
                    _give_up(batch, error)

    def _commit(self, batch: Sequence[_Pending]) -> None:
        """Give every frame its outcome."""
        try:
            outcomes = self._insert(batch)
        except Exception as error:
            if len(batch) > 1 and is_about_rows(error):
                # one by one, so that the row at fault does not fail the others
                for pending in batch:
                    self._commit([pending])
                return
            if not isinstance(error, StorageError):
                logger.exception("store: a row can't be written")
                error = StorageError(f"database {self._database.name}: {error}")
            for pending in batch:
                pending.outcome.set_result(Refused(error, pending.may_be_stored))
            return
        for pending in batch:
            pending.outcome.set_result(_outcome_of(outcomes[pending.frame.key]))

    def _insert(self, batch: Sequence[_Pending]) -> dict[str, int | FrameRow | MissingBase]:
        """Make the rows in one transaction, see `insert_frames`; try again if the error is transient."""
        for attempt in range(1, MAX_ATTEMPTS + 1):
            committing = False
            try:
                maybe_stored = frozenset(pending.frame.key for pending in batch if pending.may_be_stored)
                with self._database.writing() as connection:
                    outcomes = insert_frames(connection, [pending.frame for pending in batch], maybe_stored)
                    self._check_age(batch)
                    committing = True
            except StorageError as error:
                # the commit's answer was lost, unless the error says that nothing was written
                may_be_stored = committing and not isinstance(error, NoRoomError)
                for pending in batch:
                    pending.may_be_stored |= may_be_stored
                if attempt == MAX_ATTEMPTS or not is_transient(error):
                    raise
                logger.info("store: again, as %s", error)
            else:
                return outcomes
        raise AssertionError

    def _check_age(self, batch: Sequence[_Pending]) -> None:
        """Raise TooLateError if a file is so old that a sweep may take it for the leftover of a crash."""
        if any(_uptime() - pending.written > MAX_COMMIT_SECONDS for pending in batch):
            raise TooLateError(f"database {self._database.name} took more than {MAX_COMMIT_SECONDS} s")


def _outcome_of(found: int | FrameRow | MissingBase) -> Outcome:
    match found:
        case FrameRow():
            return Existing(found)
        case MissingBase():
            return found
        case _:
            return Inserted(found)


def _give_up(batch: Sequence[_Pending], error: Exception) -> None:
    """Refuse those frames that have no outcome yet."""
    for pending in batch:
        if not pending.outcome.done():
            refusal = StorageError(f"a row can't be written: {error}")
            pending.outcome.set_result(Refused(refusal, may_be_stored=True))


def _uptime() -> float:
    """Return seconds since the machine's start, including those that it slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
