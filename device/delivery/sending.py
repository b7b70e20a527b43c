"""The thread that sends the frames of an outbox."""

import logging
import threading
from abc import ABC, abstractmethod
from queue import SimpleQueue

from device.delivery.backoff import Backoff
from device.delivery.outbox import CUT_SECONDS, Link, Outcome
from device.delivery.resending import Resender
from device.frames import OutgoingFrame
from device.spool import Spool
from rjpeg.errors import DeliveryError, RjpegError

__all__ = ["FrameUnderWay", "SendingThread"]

logger = logging.getLogger(__name__)


class FrameUnderWay:
    """The frame that is being sent. Whoever takes it reports its outcome, so that it is reported once.

    A try may hang. Then the thread that closes the outbox takes the frame, and the hanging thread finds none.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._frame: OutgoingFrame | None = None

    def put(self, frame: OutgoingFrame) -> None:
        """Note that a frame is being sent."""
        with self._lock:
            self._frame = frame

    def take(self) -> OutgoingFrame | None:
        """Return the frame if nobody has reported it yet."""
        with self._lock:
            frame, self._frame = self._frame, None
            return frame


class SendingThread(ABC):
    """An outbox that sends in a thread of its own. Subclasses start it when they are ready.

    Args:
        link: The way to the server.
        name: Of the thread.
        max_delay: Seconds between two tries, at most.
        spool: Where keys and patches may still be; None if there is none.

    Attributes:
        outcomes, failure, refusal: See `Outbox`.
    """

    def __init__(self, link: Link, name: str, max_delay: float, spool: Spool | None = None) -> None:
        self.outcomes: SimpleQueue[Outcome] = SimpleQueue()
        self.failure: RjpegError | None = None
        self.refusal: RjpegError | None = None
        self._link = link
        self._sender, self._clock = link.sender, link.clock
        self._resender = Resender(link, spool)
        self._backoff = Backoff(link.sender.name, max_delay)
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        # a daemon: a try that hangs beyond all timeouts doesn't keep the program from ending
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)

    @property
    def trouble(self) -> str | None:
        """See `Outbox`."""
        return self._backoff.trouble if self.failure is None else str(self.failure)

    @property
    def is_away(self) -> bool:
        """See `Outbox`."""
        return self._backoff.failing or self.failure is not None

    def close(self) -> None:
        """See `Outbox`."""
        with self._changed:
            self._stopping.set()
            self._changed.notify_all()
        self._thread.join(self._link.close_seconds)
        if self._thread.is_alive():
            self._sender.cut()
            self._thread.join(CUT_SECONDS)
        if self._thread.is_alive():
            logger.warning("%s: the last try is left to itself", self._sender.name)
            self._leave()

    @abstractmethod
    def _run(self) -> None:
        """Send frames until `_stopping` is set."""

    def _leave(self) -> None:  # noqa: B027 - most have nothing to report
        """Report what the thread, which hangs, may never report."""

    def _main(self) -> None:
        try:
            self._run()
        except RjpegError as error:
            self._end(error)
        except Exception as error:
            logger.exception("%s: sending failed", self._sender.name)
            self._end(DeliveryError(f"{self._sender.name}: sending failed: {error!r}"))
        finally:
            self._sender.close()

    def _end(self, error: RjpegError) -> None:
        with self._changed:
            self.failure = error
            self._changed.notify_all()

    def _sleep(self, seconds: float) -> None:
        """Wait so long, or until `close`."""
        with self._changed:
            self._changed.wait_for(self._stopping.is_set, seconds)
