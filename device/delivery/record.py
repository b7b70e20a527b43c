"""The outbox that keeps every frame on disk until the server has acknowledged it."""

import logging
import time

from device.delivery.doubt import Doubt
from device.delivery.outbox import FINISH_SECONDS, REJECTED, STOPPED, OnDropped, OnSent, Pace, SendingThread, cost
from device.delivery.sender import FaultError, RejectedError, Sender
from device.frames import OutgoingFrame
from device.spool import Spool, SpoolError
from rjpeg.errors import DeliveryError, StorageError

__all__ = ["RecordOutbox"]

logger = logging.getLogger(__name__)

MAX_DELAY = 10.0  # seconds between two tries
# a frame over which the server fails for so long may be the cause of it
FAULT_SECONDS = 600.0


class RecordOutbox(SendingThread):
    """Puts frames into the spool, from which a thread sends them in order until the server has each of them.

    A frame that the server will never take is counted and removed, so that it doesn't hold up the others; one that
    the disk has no room for is counted, and the next one tried all the same. While the server is away it is asked
    again after pauses that double up to 10 s, for ever; where it refuses all frames, up to a minute. There are such
    pauses too where it rejects one frame after another: what is wrong may be the server, and be mended before the spool
    is empty. A frame over which it fails for ten minutes is given up if it takes others, see
    `device.delivery.doubt`. A frame
    may arrive twice: its number and time tell.

    Args:
        sender: the way to the server.
        camera: id; others may use the same spool.
        spool: closed by who opened it.
        pace: waited for before every try, and told of its bytes.
        close_seconds: that `close` waits for a try under way.
    """

    def __init__(
        self,
        sender: Sender,
        camera: str,
        spool: Spool,
        on_sent: OnSent,
        on_dropped: OnDropped,
        *,
        pace: Pace | None = None,
        close_seconds: float = FINISH_SECONDS,
    ) -> None:
        super().__init__(
            sender,
            on_sent,
            on_dropped,
            name=f"record outbox {camera}",
            longest_delay=MAX_DELAY,
            pace=pace,
            close_seconds=close_seconds,
        )
        self._camera = camera
        self._spool = spool
        self._disk_failing = False
        # the last one that the server has; on a failing disk it may still be in the spool
        self._done = -1
        self._doubt = Doubt()
        # whether all was sent when it was last looked, and whether anything was put since then
        self._drained = False
        self._news = False
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Always, until it is closed or has failed: there is the spool."""
        return not self._stopping.is_set() and self.failure is None

    def put(self, frame: OutgoingFrame) -> int:
        """See Outbox: the frame is on disk when this returns. Its own number is not used, the spool gives it one."""
        try:
            sequence = self._spool.append(frame.camera, frame.time, frame.jpeg, frame.metrics)
        except StorageError as error:
            if not self._disk_failing:
                self._disk_failing = True
                logger.error("%s; frames are dropped until that changes", error)
            self._on_dropped(frame, error.reason if isinstance(error, SpoolError) else STOPPED)
            return -1
        if self._disk_failing:
            self._disk_failing = False
            logger.info("the spool takes frames again")
        with self._changed:
            self._news, self._drained = True, False
            self._changed.notify_all()
        return sequence

    def flush(self, timeout: float) -> bool:
        """See Outbox."""
        with self._changed:
            return self._changed.wait_for(lambda: self._drained or self.failure is not None, timeout) and self._drained

    def _run(self) -> None:
        while not self._stopping.is_set():
            frame = self._next()
            if frame is None:
                continue
            if self._pace is not None:
                size = cost(self._sender, frame)
                while not self._stopping.is_set() and (pause := self._pace.take(size)) > 0:
                    self._sleep(pause)
            if self._stopping.is_set():
                return
            self._try(frame)

    def _next(self) -> OutgoingFrame | None:
        """The next frame; None after a wait for one, or for the disk."""
        with self._changed:
            self._news = False
        try:
            frame = self._probe() or self._spool.oldest(self._camera, self._done)
        except SpoolError as error:
            self._sleep(self._backoff.failed(error))
            return None
        if frame is None:
            with self._changed:
                if not self._news:
                    self._drained = True
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._stopping.is_set() or self._news)
        return frame

    def _probe(self) -> OutgoingFrame | None:
        """A later frame, to see whether the server takes that; None: it is the first one's turn."""
        after = self._doubt.probe_after(FAULT_SECONDS)
        if after is None:
            return None
        frame = self._spool.oldest(self._camera, after)
        while frame is not None and self._doubt.went_ahead(frame.sequence):
            frame = self._spool.oldest(self._camera, frame.sequence)
        self._doubt.probes(None if frame is None else frame.sequence)
        return frame

    def _try(self, frame: OutgoingFrame) -> None:
        if self._doubt.went_ahead(frame.sequence):
            self._finish(frame)
            return
        started, pause = time.monotonic(), 0.0
        try:
            where = self._sender.send(frame)
        except RejectedError as error:
            if self._doubt.is_probe(frame.sequence):
                # not its turn yet
                self._doubt.fails(frame.sequence)
                self._sleep(self._backoff.failed(error))
                return
            pause = self._backoff.rejected(frame, error)
            self._on_dropped(frame, REJECTED)
        except DeliveryError as error:
            if self._stopping.is_set():
                return
            if not self._is_given_up(frame, error):
                self._sleep(self._backoff.failed(error))
                return
            pause = self._backoff.rejected(frame, error)
            self._on_dropped(frame, REJECTED)
        else:
            self._backoff.succeeded()
            self._on_sent(frame, where, time.monotonic() - started)
            if not self._doubt.is_taken(frame.sequence):
                return
        self._finish(frame)
        if pause:
            self._sleep(pause)

    def _is_given_up(self, frame: OutgoingFrame, error: DeliveryError) -> bool:
        """Whether a frame that failed, as it has before, is to blame for that itself."""
        if isinstance(error, FaultError):
            return self._doubt.fails(frame.sequence)
        self._doubt.fails_otherwise()
        return False

    def _finish(self, frame: OutgoingFrame) -> None:
        """Done with a frame, and with those before it."""
        self._done = frame.sequence
        self._doubt.is_done(frame.sequence)
        try:
            self._spool.delivered(frame.camera, frame.sequence)
        except SpoolError as error:
            # it goes with a later one
            logger.debug("frame %d is delivered and still in the spool: %s", frame.sequence, error)
