"""Readers: what a pipeline takes frames from, whatever the source.

A live source is read by a thread of its own, which keeps the newest frame only and outlives the source's failures. A
camera is unplugged, a stream stalls, a driver's call never returns: the source is opened anew, after pauses that grow,
until it gives frames again. There are two threads: one reads, the other watches it and is never blocked itself.

A source that waits, such as a video file or a folder of pictures, is read by whoever asks.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import cv2
import numpy as np

from device.sources import CapturedFrame, Source, frame_size
from rjpeg._backoff import Backoff
from rjpeg._codec import Planes
from rjpeg.errors import CameraError, StorageError

__all__ = ["DirectReader", "FrameReader", "Reader", "ReaderEvents", "ReaderState"]

logger = logging.getLogger(__name__)

# What opening and the first frame may take besides stall_seconds. A stream gives up by itself after 10 s.
OPEN_SECONDS = 20.0
# What closing a failed source may take before its thread counts as hanging.
CLOSE_SECONDS = 5.0
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.5, 30.0
# A source that gave frames for so long has recovered, and its next failure is a new one.
GOOD_SECONDS = 5.0
# With more threads than these hanging in the driver, only a new process helps.
MAX_HANGING = 3
# If the source can't be opened anew, a thread that hangs for so long most likely holds the device.
HANGING_SECONDS = 60.0
# `Reader.close` waits for its threads no longer.
END_SECONDS = 0.8

# What the outside world does. Anything else in the reading thread is a mistake of ours.
OUTSIDE = (CameraError, StorageError, OSError, cv2.error)


class ReaderEvents(NamedTuple):
    """What happened to a reader since somebody last asked.

    Attributes:
        overtaken: Frames that a newer one replaced before they were handed out.
        restarts: Why a source that gave frames failed and was opened anew, once for each time.
    """

    overtaken: int = 0
    restarts: tuple[str, ...] = ()


class FrameReader(Protocol):
    """Hands out frames to one thread.

    Attributes:
        name: What messages call the source.
        live: Frames come whether they are read or not.
    """

    name: str
    live: bool

    @property
    def fps(self) -> float | None:
        """Frames a second that the source says it gives; None if it says nothing, or gave no frame yet."""

    @property
    def ended(self) -> bool:
        """True if there are no more frames."""

    @property
    def unreadable(self) -> int:
        """Pictures that were passed over because they can't be read."""

    @property
    def is_well(self) -> bool:
        """False while a source that should give frames gives none."""

    def read(self, timeout: float) -> CapturedFrame | None:
        """Return the next frame; None if there is none within some seconds, or if there are no more."""

    def take_events(self) -> ReaderEvents:
        """Return what happened since the last call."""

    def status(self) -> dict[str, Any]:
        """Return what the local page shows of the source."""

    def close(self) -> None:
        """Let go of the source."""


class DirectReader:
    """Reads a source that waits for its reader.

    Args:
        source: Open, and closed with the reader.
    """

    live = False
    is_well = True

    def __init__(self, source: Source) -> None:
        self.name = source.name
        self.ended = False
        self._source = source

    @property
    def fps(self) -> float | None:
        """See `FrameReader`."""
        return self._source.fps

    @property
    def unreadable(self) -> int:
        """See `FrameReader`."""
        return self._source.unreadable

    def read(self, timeout: float) -> CapturedFrame | None:  # noqa: ARG002 - files are there at once
        """See `FrameReader`.

        Raises:
            RjpegError: What the source raises.
        """
        frame = self._source.read()
        self.ended = frame is None
        return frame

    def take_events(self) -> ReaderEvents:
        """See `FrameReader`. Nothing happens to a file."""
        return ReaderEvents()

    def status(self) -> dict[str, Any]:
        """See `FrameReader`."""
        return {}

    def close(self) -> None:
        """See `FrameReader`."""
        self._source.close()


class ReaderState(NamedTuple):
    """What a reader of a live source is doing, and why.

    Attributes:
        name: "starting" before the first frame, "waiting" when the source failed and is tried again, "failed" when it
            won't be.
        reason: What the source failed of.
    """

    name: Literal["starting", "running", "waiting", "failed"]
    reason: str | None = None

    def __str__(self) -> str:
        return self.name if self.reason is None else f"{self.name}: {self.reason}"


class _Session:
    """One opening of the source, and the thread that opens, reads and closes it. Times are the clock's seconds."""

    def __init__(self, started: float) -> None:
        self.thread: threading.Thread
        self.started = started
        self.first: float | None = None
        self.last: float | None = None
        self.error: str | None = None
        self.failed_at = 0.0
        self.over = False


class Reader:
    """Reads a live source, see the module. For any number of threads that ask.

    Args:
        opener: Opens the source. It is called again and again from other threads, one at a time but for calls that
            hang.
        name: What messages call the source.
        stall_seconds: A source without a frame for so long counts as stalled.
        clock: Returns seconds of a monotonic clock.
    """

    live = True
    unreadable = 0

    def __init__(
        self,
        opener: Callable[[], Source],
        name: str,
        *,
        stall_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._opener = opener
        self._stall_seconds = stall_seconds
        self._clock = clock
        lock = threading.Lock()
        # `_arrived`: a frame to hand out, or the end; `_changed`: something that the watching thread has to look at
        self._arrived, self._changed = threading.Condition(lock), threading.Condition(lock)
        self._frame: CapturedFrame | None = None
        self._last: float | None = None
        self._size: tuple[int, int] | None = None
        self._fps: float | None = None
        self._state = ReaderState("starting")
        self._events = ReaderEvents()
        self._failure: BaseException | None = None
        self._closed = False
        self._session: _Session | None = None
        self._hanging: list[tuple[threading.Thread, float]] = []
        self._watcher = threading.Thread(target=self._watch, name=f"{name} watcher", daemon=True)
        self._watcher.start()

    def read(self, timeout: float) -> CapturedFrame | None:
        """Return the newest frame, which has not been handed out before; wait for one.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            None if there was none in that time, or if the reader is closed.

        Raises:
            CameraError: The driver hangs again and again; only a new process helps.
            Exception: Whatever else the reading thread failed with, which is a mistake in the program or its settings.
        """
        with self._arrived:
            self._arrived.wait_for(lambda: self._frame or self._failure or self._closed, timeout)
            if self._failure is not None:
                raise self._failure
            frame, self._frame = self._frame, None
            return frame

    def take_events(self) -> ReaderEvents:
        """See `FrameReader`."""
        with self._changed:
            events, self._events = self._events, ReaderEvents()
            return events

    @property
    def state(self) -> ReaderState:
        """What it is doing, and why it waits."""
        return self._state

    @property
    def is_well(self) -> bool:
        """See `FrameReader`."""
        return self._state.name == "running"

    @property
    def ended(self) -> bool:
        """See `FrameReader`. A live source never comes to an end by itself."""
        return self._closed

    @property
    def last_frame_age(self) -> float | None:
        """Seconds since the source gave its last frame, handed out or not; None if it never did."""
        last = self._last
        return None if last is None else self._clock() - last

    @property
    def fps(self) -> float | None:
        """See `FrameReader`."""
        return self._fps

    def status(self) -> dict[str, Any]:
        """See `FrameReader`."""
        return {"camera": str(self._state), "last_frame_seconds": self.last_frame_age}

    def close(self) -> None:
        """End within a second. A thread that hangs in the driver is left behind, and closes the source if it wakes."""
        deadline = time.monotonic() + END_SECONDS
        with self._changed:
            session, self._session = self._session, None
            self._closed, self._frame = True, None
            self._arrived.notify_all()
            self._changed.notify_all()
        for thread in (self._watcher, session.thread if session else None):
            if thread is not None:
                thread.join(max(0.0, deadline - time.monotonic()))

    def _watch(self) -> None:
        """Open the source, wait for its failure, pause, and so on; this is the watching thread."""
        try:
            backoff = Backoff(FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
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
        except BaseException as error:  # noqa: BLE001 - `read` raises it
            self._fail(error)

    def _start(self) -> _Session:
        session = _Session(self._clock())
        session.thread = threading.Thread(target=self._run, args=(session,), name=self.name, daemon=True)
        with self._changed:
            if not self._closed:
                self._session = session
                session.thread.start()
        return session

    def _wait_for_failure(self, session: _Session) -> str | None:
        """Return why the session is over; None if the reader is."""
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
                now = self._clock()
                if now >= deadline:
                    # what the source gives from now on is not taken
                    self._session = None
                    self._hanging.append((session.thread, now))
                    return reason
                self._changed.wait(deadline - now)
        return None

    def _waits(self, session: _Session, reason: str) -> None:
        with self._changed:
            known = self._state.name == "waiting"
            self._state = ReaderState("waiting", reason)
            if session.first is not None:
                self._events = self._events._replace(restarts=(*self._events.restarts, reason))
        if known:
            logger.debug("%s", reason)
        else:
            logger.warning("%s; it is opened anew until it gives frames", reason)

    def _give_up_if_hopeless(self, session: _Session, reason: str) -> None:
        now = self._clock()
        self._hanging = [(thread, since) for thread, since in self._hanging if thread.is_alive()]
        blocked = session.first is None and any(now - since > HANGING_SECONDS for _, since in self._hanging)
        if len(self._hanging) > MAX_HANGING or blocked:
            raise CameraError(
                f"{reason}; {len(self._hanging)} earlier attempts still hang in its driver: "
                "start the program anew, as its service does by itself"
            )

    def _run(self, session: _Session) -> None:
        """Read until the source fails or the session is over; this is the reading thread."""
        try:
            self._read(session)
        except BaseException as error:  # noqa: BLE001 - `read` raises it
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
                # OpenCV's messages have several lines
                session.error = " ".join(str(error).split()) or type(error).__name__
                session.failed_at = self._clock()
                self._changed.notify_all()
        finally:
            if source is not None:
                try:
                    source.close()
                except OUTSIDE as error:
                    logger.debug("closing %s: %s", self.name, error)

    def _keep(self, session: _Session, source: Source, frame: CapturedFrame) -> None:
        size = _checked_size(self.name, frame)
        with self._arrived:
            if self._session is not session:
                return
            if self._frame is not None:
                self._events = self._events._replace(overtaken=self._events.overtaken + 1)
            before, self._size = self._size, size
            self._frame = frame
            self._last = session.last = self._clock()
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

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            if self._failure is None:
                self._failure = error
                self._state = ReaderState("failed", str(error) or type(error).__name__)
            self._arrived.notify_all()
            self._changed.notify_all()


def _checked_size(name: str, frame: CapturedFrame) -> tuple[int, int]:
    """Return (width, height) in pixels.

    Raises:
        CameraError: The pixels are not what `CapturedFrame` says.
    """
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
