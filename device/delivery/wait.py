"""The outbox of files and folders: each frame is delivered before the next one is taken."""

import logging
import threading
from queue import SimpleQueue

from device.delivery.backoff import Backoff
from device.delivery.outbox import CUT_SECONDS, KEY_MISSING, REJECTED, STOPPED, Dropped, Link, Outcome, Sent
from device.delivery.resending import Resender
from device.delivery.sender import BaseMissingError, RefusedError, RejectedError
from device.delivery.sending import FrameUnderWay
from device.frames import OutgoingFrame
from rjpeg.errors import DeliveryError, RjpegError

__all__ = ["WaitOutbox"]

logger = logging.getLogger(__name__)

MAX_DELAY = 10.0  # seconds between two tries


class WaitOutbox:
    """Sends each frame in `put`, and tries again until the server takes it.

    Args:
        link: The way to the server. Its pace is not used.
        retry_seconds: How long a frame is tried.

    Attributes:
        outcomes, is_durable, failure, refusal: See `Outbox`.
    """

    is_durable = False
    backlog = 0
    ready = True  # `put` waits
    is_away = False  # `put` raises when the server is away for too long
    refusal: RjpegError | None = None  # `put` raises it

    def __init__(self, link: Link, retry_seconds: float) -> None:
        self.outcomes: SimpleQueue[Outcome] = SimpleQueue()
        self.failure: RjpegError | None = None
        self._link = link
        self._sender, self._clock = link.sender, link.clock
        self._resender = Resender(link)
        self._retry_seconds = retry_seconds
        self._stop = threading.Event()
        self._idle = threading.Lock()  # held while a frame is sent
        self._under_way = FrameUnderWay()

    @property
    def trouble(self) -> str | None:
        """See `Outbox`."""
        return None if self.failure is None else str(self.failure)

    def put(self, frame: OutgoingFrame) -> int:
        """See `Outbox`; return once the frame is delivered, rejected, or left because of `close`.

        Raises:
            RefusedError: The server takes no frame from here.
            DeliveryError: The server did not take the frame within `retry_seconds`.
            StorageError: The file can't be written.
        """
        with self._idle:
            self._under_way.put(frame)
            try:
                return self._deliver(frame)
            except RejectedError as error:
                if self._under_way.take() is not None:
                    logger.error("frame %d: %s", frame.sequence, error)
                    lost = error.id if isinstance(error, BaseMissingError) else None
                    self.outcomes.put(Dropped(frame.summary, KEY_MISSING if lost else REJECTED, lost))
                return -1
            except RjpegError as error:
                self.failure = error
                raise

    def flush(self, timeout: float) -> bool:
        """See `Outbox`."""
        if not self._idle.acquire(timeout=timeout):
            return False
        self._idle.release()
        return True

    def close(self) -> None:
        """See `Outbox`. Another thread's `put` ends after its try, and the frame counts as dropped."""
        self._stop.set()
        if not self.flush(self._link.close_seconds):
            self._sender.cut()
        if self.flush(CUT_SECONDS):
            self._sender.close()
        elif (frame := self._under_way.take()) is not None:
            logger.warning("%s: the last try is left to itself", self._sender.name)
            self.outcomes.put(Dropped(frame.summary, STOPPED))

    def _deliver(self, frame: OutgoingFrame) -> int:
        backoff = Backoff(self._sender.name, MAX_DELAY, f"for {self._retry_seconds:g} s")
        failing_since = self._clock()
        while not self._stop.is_set():
            started = self._clock()
            try:
                where = self._resender.send(frame, self._stop)
            except (RejectedError, RefusedError):
                raise
            except DeliveryError as error:
                if self._stop.is_set():
                    break
                end = failing_since + self._retry_seconds
                now = self._clock()
                if now >= end:
                    raise DeliveryError(f"{error}; gave up after {now - failing_since:.0f} s") from error
                self._stop.wait(min(backoff.failed(error), end - now))
                continue
            backoff.succeeded()
            if self._under_way.take() is not None:
                self.outcomes.put(Sent(frame.summary, where, self._clock() - started))
            return frame.sequence
        if self._under_way.take() is not None:
            self.outcomes.put(Dropped(frame.summary, STOPPED))
        return -1
