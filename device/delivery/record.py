"""The outbox that keeps every frame on disk until the server has acknowledged it."""

import logging
from collections import deque

from device.delivery.doubt import Doubt
from device.delivery.outbox import KEY_MISSING, REJECTED, STOPPED, Dropped, Link, Sent
from device.delivery.sender import BaseMissingError, FaultError, RejectedError
from device.delivery.sending import SendingThread
from device.frames import BASES, OutgoingFrame
from device.spool import Spool, SpoolError
from rjpeg.errors import DeliveryError, StorageError

__all__ = ["RecordOutbox"]

logger = logging.getLogger(__name__)

MAX_DELAY = 10.0  # seconds between two tries
# A frame over which the server fails for so many seconds may be the cause of that.
FAULT_SECONDS = 600.0
# Keys and patches whose fate is remembered.
MAX_BASES = 64


class RecordOutbox(SendingThread):
    """Puts frames into the spool, from which a thread sends them in order until the server has each of them.

    - A frame that the server will never take is counted and removed, so that it doesn't hold up the others.
    - A frame that the disk has no room for is counted. The next one is tried all the same.
    - While the server is away it is asked for ever, after pauses that double up to 10 s. If it refuses all frames, the
      pauses grow up to a minute.
    - If it rejects one frame after another, there are pauses, too. The fault may be the server's, and somebody may mend
      it before the spool is empty.
    - A frame over which it fails for ten minutes is given up if it takes others, see `device.delivery.doubt`.
    - A key that the server has lost is sent again, from memory or from the spool, which keeps the newest also over a
      start. A frame whose key is nowhere any more is counted and removed: nobody could decode it.
    - A frame whose key was given up is not taken, so that the next one is a key.

    A frame may arrive twice. Its number and time tell.

    Args:
        link: The way to the server.
        camera: Id. Other cameras may use the same spool.
        spool: Closed by whoever opened it.
    """

    is_durable = True

    def __init__(self, link: Link, camera: str, spool: Spool) -> None:
        super().__init__(link, f"record outbox {camera}", MAX_DELAY, spool)
        self._camera = camera
        self._spool = spool
        self._disk_failing = False
        # the last frame that the server has; on a failing disk it may still be in the spool
        self._done = -1
        self._doubt = Doubt(link.clock)
        # ids of the last keys and patches that the server has, and of those that it will never have
        self._delivered: deque[str] = deque(maxlen=MAX_BASES)
        self._given_up: deque[str] = deque(maxlen=MAX_BASES)
        # True if nothing was left when the thread last looked
        self._drained = False
        # True if a frame was put since then
        self._news = False
        self._thread.start()

    @property
    def backlog(self) -> int:
        """See `Outbox`."""
        return self._spool.waiting(self._camera)

    @property
    def ready(self) -> bool:
        """True until the outbox is closed or has failed: the spool takes what can't be sent."""
        return not self._stopping.is_set() and self.failure is None

    def put(self, frame: OutgoingFrame) -> int:
        """See `Outbox`. The frame is on disk when this returns, under a number that the spool gives it."""
        base = frame.identity.base_id
        if base is not None and not self._is_of_use(frame.camera, base):
            self.outcomes.put(Dropped(frame.summary, KEY_MISSING, base))
            return -1
        try:
            sequence = self._spool.append(frame.camera, frame.time, frame.jpeg, frame.metrics)
        except StorageError as error:
            if not self._disk_failing:
                self._disk_failing = True
                logger.error("%s; frames are dropped until that changes", error)
            self.outcomes.put(Dropped(frame.summary, error.reason if isinstance(error, SpoolError) else STOPPED))
            return -1
        if self._disk_failing:
            self._disk_failing = False
            logger.info("the spool takes frames again")
        with self._changed:
            self._news, self._drained = True, False
            self._changed.notify_all()
        return sequence

    def _is_of_use(self, camera: str, base: str) -> bool:
        """Return True if the server has a key or patch, or will have it."""
        # in this order: the other thread notes a key that is delivered, and then deletes it
        return base not in self._given_up and (self._spool.has(camera, base) or base in self._delivered)

    def flush(self, timeout: float) -> bool:
        """See `Outbox`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._drained or self.failure is not None, timeout) and self._drained

    def _run(self) -> None:
        while not self._stopping.is_set():
            frame = self._next()
            if frame is None:
                continue
            while not self._stopping.is_set() and (pause := self._link.pause(frame)) > 0:
                self._sleep(pause)
            if self._stopping.is_set():
                return
            self._try(frame)

    def _next(self) -> OutgoingFrame | None:
        """Return the next frame; None after a wait for one, or for the disk."""
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
        """Return a later frame, to see if the server takes that one; None if it is the first one's turn."""
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
        started, pause = self._clock(), 0.0
        try:
            where = self._resender.send(frame, self._stopping)
        except RejectedError as error:
            if self._doubt.is_probe(frame.sequence):
                # it was tried before its turn, so it stays
                self._doubt.fails(frame.sequence)
                self._sleep(self._backoff.failed(error))
                return
            pause = self._give_up(frame, error)
        except DeliveryError as error:
            if self._stopping.is_set():
                return
            if not self._is_given_up(frame, error):
                self._sleep(self._backoff.failed(error))
                return
            pause = self._give_up(frame, error)
        else:
            self._backoff.succeeded()
            self.outcomes.put(Sent(frame.summary, where, self._clock() - started))
            if not self._doubt.is_taken(frame.sequence):
                return
        self._finish(frame)
        if pause:
            self._sleep(pause)

    def _give_up(self, frame: OutgoingFrame, error: DeliveryError) -> float:
        """Count a frame that the server will never have; return the seconds until it may be asked again.

        Once a key is given up, all that refer to it follow at once.
        """
        own = frame.identity.id if frame.identity.kind in BASES else None
        missing = error.id if isinstance(error, BaseMissingError) else None
        is_known = missing in self._given_up
        if own is not None:
            self._given_up.append(own)
        self.outcomes.put(Dropped(frame.summary, KEY_MISSING if missing else REJECTED, missing or own))
        return 0.0 if is_known else self._backoff.rejected(frame, error)

    def _is_given_up(self, frame: OutgoingFrame, error: DeliveryError) -> bool:
        """Return True if a frame that failed, as it has before, is itself to blame for that."""
        if isinstance(error, FaultError):
            return self._doubt.fails(frame.sequence)
        self._doubt.fails_otherwise()
        return False

    def _finish(self, frame: OutgoingFrame) -> None:
        """Forget a frame and those before it."""
        if (identity := frame.identity).kind in BASES and identity.id not in self._given_up:
            self._delivered.append(str(identity.id))
        self._done = frame.sequence
        self._doubt.is_done(frame.sequence)
        try:
            self._spool.delivered(frame.camera, frame.sequence)
        except SpoolError as error:
            # it is deleted together with a later one
            logger.debug("frame %d is delivered and still in the spool: %s", frame.sequence, error)
