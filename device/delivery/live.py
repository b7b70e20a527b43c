"""The outbox of a live camera: the newest frame goes first, and what can't be sent is dropped."""

import logging

from device.delivery.outbox import (
    KEY_MISSING,
    OVERTAKEN,
    REFUSED,
    REJECTED,
    SERVER_AWAY,
    STOPPED,
    UNHEARD,
    Dropped,
    Link,
    Sent,
)
from device.delivery.sender import (
    BaseForgottenError,
    BaseMissingError,
    RefusedError,
    RejectedError,
    UnheardError,
    UnreachableError,
)
from device.delivery.sending import FrameUnderWay, SendingThread
from device.frames import OutgoingFrame
from rjpeg.errors import DeliveryError

__all__ = ["LiveOutbox"]

logger = logging.getLogger(__name__)

MAX_DELAY = 1.0  # seconds between two tries
REACH_SECONDS = 1.0  # between two connections that are begun while there is no way to the server


class LiveOutbox(SendingThread):
    """Holds one frame. A frame that is put replaces the one that waits.

    A frame whose sending fails is dropped. The next try is with the newest frame that there is then, after a pause of
    0.25 s. The pause doubles up to 1 s, or up to a minute if the server asks for that or refuses all. So it goes on for
    ever. If there is no way to the server, that is tried once a second without a frame, so that the first one to arrive
    is new. A frame whose key the server has lost is sent after that key. If the key is here no more, it is dropped. A
    frame that a broker has nobody to give to is dropped, too; the next one goes without a pause.

    Args:
        link: The way to the server.
    """

    is_durable = False
    backlog = 0

    def __init__(self, link: Link) -> None:
        super().__init__(link, "live outbox", MAX_DELAY)
        self._slot: OutgoingFrame | None = None
        self._under_way = FrameUnderWay()
        self._sending = self._taken_any = self._unreachable = self._unheard = False
        self._next_try = self._clock()
        self._thread.start()

    @property
    def ready(self) -> bool:
        """See `Outbox`. While the server is away, one frame is wanted for each try, at the time of the try."""
        with self._changed:
            if self._stopping.is_set() or self.failure is not None:
                return False
            if not self._backoff.failing:
                return True
            waits = self._sending or self._unreachable or self._slot is not None
            return not waits and self._clock() >= self._next_try

    def put(self, frame: OutgoingFrame) -> int:
        """See `Outbox`."""
        with self._changed:
            dead = self._stopping.is_set() or self.failure is not None
            dropped = frame if dead else self._slot
            if not dead:
                self._slot = frame
                self._changed.notify_all()
        if dropped is not None:
            self.outcomes.put(Dropped(dropped.summary, STOPPED if dead else OVERTAKEN))
        return -1 if dead else frame.sequence

    def flush(self, timeout: float) -> bool:
        """See `Outbox`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._slot is None and not self._sending, timeout)

    def _run(self) -> None:
        try:
            while (frame := self._take()) is not None:
                self._try(frame)
                with self._changed:
                    self._sending = False
                    self._changed.notify_all()
                self._reach()
        finally:
            with self._changed:
                # nothing is put any more once this or `failure` is set
                self._stopping.set()
                left, self._slot, self._sending = self._slot, None, False
                self._changed.notify_all()
            # a frame is under way only if something unexpected failed
            self._drop_under_way(STOPPED)
            if left is not None:
                self.outcomes.put(Dropped(left.summary, STOPPED))

    def _take(self) -> OutgoingFrame | None:
        """Return the newest frame once it may be sent; None when it is time to end."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._stopping.is_set() or self._slot is not None)
                if self._stopping.is_set() or self._slot is None:
                    return None
                pause = self._next_try - self._clock()
                if pause <= 0:
                    pause = self._link.pause(self._slot)
                if pause <= 0:
                    frame, self._slot, self._sending = self._slot, None, True
                    self._under_way.put(frame)
                    return frame
                self._changed.wait_for(self._stopping.is_set, pause)

    def _reach(self) -> None:
        """Wait until there is a way to the server, if there was none. What waits then is no longer new."""
        while self._unreachable and not self._stopping.is_set():
            if self._sender.reach(REACH_SECONDS):
                self._unreachable = False
                return
            with self._changed:
                left, self._slot = self._slot, None
                self._changed.notify_all()
            if left is not None:
                self.outcomes.put(Dropped(left.summary, SERVER_AWAY))

    def _try(self, frame: OutgoingFrame) -> None:
        started = self._clock()
        try:
            where = self._resender.send(frame, self._stopping)
        except (BaseMissingError, BaseForgottenError) as error:
            # the next frame refers to something else
            self._backoff.rejected(frame, error)
            self._drop_under_way(KEY_MISSING, error.id)
        except RejectedError as error:
            self._backoff.rejected(frame, error)
            self._drop_under_way(REJECTED)
        except UnheardError as error:
            self._note_heard(str(error))
            self._drop_under_way(UNHEARD, is_kept=error.is_kept)
        except DeliveryError as error:
            if self._stopping.is_set():
                self._drop_under_way(STOPPED)
                return
            self._next_try = self._clock() + self._backoff.failed(error)
            refused, self._unreachable = isinstance(error, RefusedError), isinstance(error, UnreachableError)
            self.refusal = error if refused and not self._taken_any else None
            self._drop_under_way(REFUSED if refused else SERVER_AWAY)
        else:
            self._note_heard(None)
            if self._under_way.take() is not None:
                self.outcomes.put(Sent(frame.summary, where, self._clock() - started))

    def _note_heard(self, trouble: str | None) -> None:
        """Note that the server took a file. trouble: why nobody sees it; None if somebody does."""
        self._taken_any, self.refusal = True, None
        self._backoff.succeeded()
        if trouble is not None and not self._unheard:
            logger.warning("%s", trouble)
        elif trouble is None and self._unheard:
            logger.info("%s: somebody has subscribed", self._sender.name)
        self._unheard = trouble is not None

    def _drop_under_way(self, reason: str, lost: str | None = None, *, is_kept: bool = False) -> None:
        frame = self._under_way.take()
        if frame is not None:
            self.outcomes.put(Dropped(frame.summary, reason, lost, is_kept))

    def _leave(self) -> None:
        with self._changed:
            left, self._slot = self._slot, None
        self._drop_under_way(STOPPED)
        if left is not None:
            self.outcomes.put(Dropped(left.summary, STOPPED))
