"""A live source read by a thread of its own, which keeps the newest frame only and outlives the source's failures.

A camera is unplugged, a stream stalls, a driver's call never returns: the source is opened anew, after pauses that
grow, until it gives frames again. Two threads: one reads; the other watches it and is never blocked itself.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Literal, NamedTuple

import cv2
import numpy as np

from device.sources import Frame, Source, frame_size
from rjpeg._backoff import Backoff
from rjpeg._codec import Planes
from rjpeg.errors import CameraError, StorageError

__all__ = ["Reader", "ReaderState"]

logger = logging.getLogger(__name__)

# for opening and the first frame, besides stall_seconds; more than the 10 s after which a stream gives up by itself
OPEN_SECONDS = 20.0
# for closing a source that failed, before its thread counts as hanging
CLOSE_SECONDS = 5.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0
# a source that gave frames for so long has recovered, and its next failure is a new one
GOOD_SECONDS = 5.0
# threads that hang in the driver, beyond which a new process is the only way out
MAX_HANGING = 3
# and how long one may hang while the source can't be opened anew: most likely it holds the device
HANGING_SECONDS = 60.0

# what the outside world does; anything else in the reading thread is a mistake of ours
OUTSIDE = (CameraError, StorageError, OSError, cv2.error)


class ReaderState(NamedTuple):
    """`starting`: no frame yet; `waiting`: the source failed and is tried again; `failed`: it won't be."""

    name: Literal["starting", "running", "waiting", "failed"]
    reason: str | None = None

    def __str__(self) -> str:
        return self.name if self.reason is None else f"{self.name}: {self.reason}"


class _Session:
    """One opening of the source, and the thread that opens, reads and closes it."""

    def __init__(self) -> None:
        self.thread: threading.Thread
        self.started = time.monotonic()
        self.first: float | None = None
        self.last: float | None = None
        self.error: str | None = None
        self.failed_at = 0.0
        self.over = False


class Reader:
    """Reads a live source; see the module.

    Args:
        opener: opens the source; called again and again, from other threads, one at a time but for calls that hang.
        name: what messages call it.
        stall_seconds: without a frame for so long the source counts as stalled.
        on_drop: called for each frame that a newer one replaced before it was handed out.
        on_restart: called with the reason each time that a source which gave frames failed, and is opened anew.

    The callbacks are called from other threads and have to be quick.
    """

    def __init__(
        self,
        opener: Callable[[], Source],
        name: str,
        *,
        stall_seconds: float,
        on_drop: Callable[[], None] | None = None,
        on_restart: Callable[[str], None] | None = None,
    ) -> None:
        self.name = name
        self._opener = opener
        self._stall_seconds = stall_seconds
        self._on_drop = on_drop
        self._on_restart = on_restart
        lock = threading.Lock()
        # `_arrived`: a frame to hand out, or the end; `_changed`: something that the watching thread has to look at
        self._arrived, self._changed = threading.Condition(lock), threading.Condition(lock)
        self._frame: Frame | None = None
        self._last: float | None = None
        self._size: tuple[int, int] | None = None
        self._fps: float | None = None
        self._state = ReaderState("starting")
        self._failure: BaseException | None = None
        self._closed = False
        self._session: _Session | None = None
        self._hanging: list[tuple[threading.Thread, float]] = []
        self._watcher = threading.Thread(target=self._watch, name=f"{name} watcher", daemon=True)
        self._watcher.start()

    def newest(self, timeout: float) -> Frame | None:
        """The newest frame, which has not been handed out before; waits for one.

        Args:
            timeout: seconds to wait at most.

        Returns:
            None: there was none in that time, or the reader is closed.

        Raises:
            CameraError: the driver hangs again and again; only a new process helps.
            Exception: whatever else the reading thread failed with, which is a mistake in the program or its settings.
        """
        with self._arrived:
            self._arrived.wait_for(lambda: self._frame or self._failure or self._closed, timeout)
            if self._failure is not None:
                raise self._failure
            frame, self._frame = self._frame, None
            return frame

    @property
    def state(self) -> ReaderState:
        """What it is doing, and why it waits."""
        return self._state

    @property
    def last_frame_age(self) -> float | None:
        """Seconds since the source gave its last frame, handed out or not; None: it never did."""
        last = self._last
        return None if last is None else time.monotonic() - last

    @property
    def fps(self) -> float | None:
        """Frames a second that the source says it gives; None: it says nothing, or gave no frame yet."""
        return self._fps

    def close(self) -> None:
        """End, within a second; a thread that hangs in the driver is left behind, and closes the source if it wakes."""
        deadline = time.monotonic() + 0.8
        with self._changed:
            session, self._session = self._session, None
            self._closed, self._frame = True, None
            self._arrived.notify_all()
            self._changed.notify_all()
        for thread in (self._watcher, session.thread if session else None):
            if thread is not None:
                thread.join(max(0.0, deadline - time.monotonic()))

    def _watch(self) -> None:
        """The watching thread: open, wait for the failure, pause, and so on."""
        try:
            backoff = Backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
            while True:
                session = self._start()
                reason = self._wait_for_failure(session)
                if reason is None:
                    return
                good = session.first is not None and (session.last or 0.0) - session.first >= GOOD_SECONDS
                if good:
                    backoff.reset()
                self._waits(session, reason)
                self._give_up_if_hopeless(session, reason)
                with self._changed:
                    if self._changed.wait_for(lambda: self._closed or self._failure is not None, backoff.next()):
                        return
        except BaseException as error:  # noqa: BLE001 - `newest` raises it
            self._fail(error)

    def _start(self) -> _Session:
        session = _Session()
        session.thread = threading.Thread(target=self._run, args=(session,), name=self.name, daemon=True)
        with self._changed:
            if not self._closed:
                self._session = session
                session.thread.start()
        return session

    def _wait_for_failure(self, session: _Session) -> str | None:
        """Why the session is over; None: the reader is."""
        with self._changed:
            while not self._closed and self._failure is None:
                if session.over:
                    return session.error
                if session.error is not None:
                    deadline, reason = session.failed_at + CLOSE_SECONDS, session.error
                elif session.last is None:
                    deadline = session.started + self._stall_seconds + OPEN_SECONDS
                    reason = f"{self.name} did not open and give a frame for {deadline - session.started:g} s"
                else:
                    deadline = session.last + self._stall_seconds
                    reason = f"{self.name} gave no frame for {self._stall_seconds:g} s"
                now = time.monotonic()
                if now >= deadline:
                    # from now on what it gives is not taken
                    self._session = None
                    self._hanging.append((session.thread, now))
                    return reason
                self._changed.wait(deadline - now)
        return None

    def _waits(self, session: _Session, reason: str) -> None:
        known = self._state.name == "waiting"
        self._state = ReaderState("waiting", reason)
        if known:
            logger.debug("%s", reason)
        else:
            logger.warning("%s; it is opened anew until it gives frames", reason)
        if session.first is not None and self._on_restart is not None:
            self._on_restart(reason)

    def _give_up_if_hopeless(self, session: _Session, reason: str) -> None:
        now = time.monotonic()
        self._hanging = [(thread, since) for thread, since in self._hanging if thread.is_alive()]
        blocked = session.first is None and any(now - since > HANGING_SECONDS for _, since in self._hanging)
        if len(self._hanging) > MAX_HANGING or blocked:
            raise CameraError(
                f"{reason}; {len(self._hanging)} earlier attempts still hang in its driver: "
                "start the program anew, as its service does by itself"
            )

    def _run(self, session: _Session) -> None:
        """The reading thread."""
        try:
            self._read(session)
        except BaseException as error:  # noqa: BLE001 - `newest` raises it
            self._fail(error)
        finally:
            with self._changed:
                session.over = True
                self._changed.notify_all()

    def _read(self, session: _Session) -> None:
        source = None
        try:
            source = self._opener()
            while self._session is session:
                frame = source.read()
                if frame is None:
                    raise CameraError(f"{self.name} has ended")
                self._keep(session, source, frame)
        except OUTSIDE as error:
            with self._changed:
                # one line, whatever OpenCV says
                session.error = " ".join(str(error).split()) or type(error).__name__
                session.failed_at = time.monotonic()
                self._changed.notify_all()
        finally:
            if source is not None:
                try:
                    source.close()
                except OUTSIDE as error:
                    logger.debug("closing %s: %s", self.name, error)

    def _keep(self, session: _Session, source: Source, frame: Frame) -> None:
        size = _checked_size(self.name, frame)
        with self._arrived:
            if self._session is not session:
                return
            dropped = self._frame is not None
            before, self._size = self._size, size
            self._frame = frame
            self._last = session.last = time.monotonic()
            first = session.first is None
            if first:
                session.first = session.last
                self._fps = source.fps
                self._state = ReaderState("running")
                self._changed.notify_all()
            self._arrived.notify()
        if first:
            logger.info("%s runs: %s", self.name, source.description)
        if before is not None and before != size:
            logger.info("%s: frames are %dx%d now, were %dx%d", self.name, *size, *before)
        if dropped and self._on_drop is not None:
            self._on_drop()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            if self._failure is None:
                self._failure = error
                self._state = ReaderState("failed", str(error) or type(error).__name__)
            self._arrived.notify_all()
            self._changed.notify_all()


def _checked_size(name: str, frame: Frame) -> tuple[int, int]:
    """(width, height). Raises CameraError: the pixels are not what `Frame` says."""
    pixels = frame.pixels
    if isinstance(pixels, Planes):
        good = all(plane.dtype == np.uint8 and plane.ndim == 2 and plane.size for plane in pixels)
    else:
        good = pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size > 0
    if not good:
        parts = pixels if isinstance(pixels, Planes) else (pixels,)
        shapes = ", ".join(f"{part.dtype} {part.shape}" for part in parts)
        raise CameraError(f"{name} gives frames that are no pictures: {shapes}")
    return frame_size(pixels)
