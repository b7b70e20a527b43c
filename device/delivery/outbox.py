"""What outboxes have in common: what they promise, their reasons to drop a frame, and the thread that sends."""

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from device.delivery.backoff import Backoff
from device.delivery.sender import Sender
from device.frames import OutgoingFrame
from rjpeg.errors import DeliveryError, RjpegError

__all__ = [
    "CUT_SECONDS",
    "FINISH_SECONDS",
    "OVERTAKEN",
    "REFUSED",
    "REJECTED",
    "SERVER_AWAY",
    "STOPPED",
    "OnDropped",
    "OnSent",
    "Outbox",
    "Pace",
    "SendingThread",
    "Slip",
    "cost",
]

logger = logging.getLogger(__name__)

# that `close` gives the try under way to finish, and then, when it is cut, to end
FINISH_SECONDS, CUT_SECONDS = 1.0, 1.0

# reasons of on_dropped; RecordOutbox has device.spool's DISK_FULL and DISK_ERROR too
OVERTAKEN = "overtaken"  # by a newer frame before it could be sent
SERVER_AWAY = "server away"
REJECTED = "rejected"  # the server will never take this one
REFUSED = "refused"  # the server takes none from here: its token, its address
STOPPED = "stopped"  # the program ended first

OnSent = Callable[[OutgoingFrame, str, float], None]
OnDropped = Callable[[OutgoingFrame, str], None]


class Pace(Protocol):
    """A cap on bytes a second, which several senders may share."""

    def take(self, size: int) -> float:
        """0: `size` bytes may be sent, and count as sent now. Else the seconds after which to ask again."""


class Outbox(Protocol):
    """What the module's own text says."""

    @property
    def ready(self) -> bool:
        """False while a frame could not be sent anyway, so that none is encoded in vain."""

    @property
    def failure(self) -> RjpegError | None:
        """Why no frame will be sent any more: the server was waited for long enough, or something is broken here."""

    @property
    def refusal(self) -> RjpegError | None:
        """What the server said where it refuses all frames and has taken none yet; it is asked again all the same."""

    @property
    def trouble(self) -> str | None:
        """Why frames do not get through at the moment, None while they do."""

    def put(self, frame: OutgoingFrame) -> int:
        """Take a frame; the sequence number under which it goes, -1 if it was dropped at once."""

    @property
    def is_away(self) -> bool:
        """Whether the last try failed, and not of its frame alone."""

    def flush(self, timeout: float) -> bool:
        """Wait until nothing waits any more; False if that took longer than `timeout` seconds."""

    def close(self) -> None:
        """Begin no further try, give the one under way a second to finish, then cut it."""


class Slip:
    """The frame of a try under way, which is reported by whoever takes it: who tries, or who waits no longer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._frame: OutgoingFrame | None = None

    def put(self, frame: OutgoingFrame) -> None:
        with self._lock:
            self._frame = frame

    def take(self) -> OutgoingFrame | None:
        with self._lock:
            frame, self._frame = self._frame, None
            return frame


class SendingThread:
    """A thread that sends, and the condition on which it and the others wait. Subclasses start it when they are ready.

    Attributes:
        failure, refusal: see Outbox.
    """

    def __init__(
        self,
        sender: Sender,
        on_sent: OnSent,
        on_dropped: OnDropped,
        *,
        name: str,
        longest_delay: float,
        pace: Pace | None,
        close_seconds: float,
    ) -> None:
        self.failure: RjpegError | None = None
        self.refusal: RjpegError | None = None
        self._sender = sender
        self._on_sent = on_sent
        self._on_dropped = on_dropped
        self._pace = pace
        self._backoff = Backoff(sender.name, longest_delay)
        self._close_seconds = close_seconds
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        # a daemon: a try that hangs beyond all timeouts doesn't keep the program from ending
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)

    @property
    def trouble(self) -> str | None:
        """See Outbox."""
        return self._backoff.trouble if self.failure is None else str(self.failure)

    @property
    def is_away(self) -> bool:
        """See Outbox."""
        return self._backoff.failing or self.failure is not None

    def close(self) -> None:
        """See Outbox."""
        with self._changed:
            self._stopping.set()
            self._changed.notify_all()
        self._thread.join(self._close_seconds)
        if self._thread.is_alive():
            self._sender.cut()
            self._thread.join(CUT_SECONDS)
        if self._thread.is_alive():
            logger.warning("%s: the last try is left to itself", self._sender.name)
            self._leave()

    def _leave(self) -> None:
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

    def _run(self) -> None:
        raise NotImplementedError

    def _end(self, error: RjpegError) -> None:
        with self._changed:
            self.failure = error
            self._changed.notify_all()

    def _sleep(self, seconds: float) -> None:
        """Wait so long, or until `close`."""
        with self._changed:
            self._changed.wait_for(self._stopping.is_set, seconds)


def cost(sender: Sender, frame: OutgoingFrame) -> int:
    """Bytes upstream that sending a frame takes."""
    extra = len(frame.metrics or "")
    return len(frame.jpeg) + extra + sender.overhead(len(frame.jpeg) + extra)
