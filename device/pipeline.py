"""One camera's way from frames to the outbox: take, leave out what shows nothing new, encode within the budget."""

import datetime
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

import rjpeg
from device.config import CameraConfig, Config
from device.delivery import OVERTAKEN, REFUSED, REJECTED, SERVER_AWAY, STOPPED, OnDropped, OnSent, Outbox
from device.frames import OutgoingFrame
from device.metrics import Metrics
from device.rate import Budget, ChangeDetector
from device.reader import Reader
from device.report import Report, frame_record
from device.sources import Frame, Source, parse_size
from device.spool import Spool
from rjpeg.codec import Planes
from rjpeg.errors import InputError, RjpegError, TargetError
from rjpeg.protocol import time_text

__all__ = ["FAILURES", "Pipeline", "resized"]

logger = logging.getLogger(__name__)

UNREADABLE, NOT_ENCODED = "unreadable", "not encoded"
FAILURES = {UNREADABLE, NOT_ENCODED, REJECTED, REFUSED}
# A waiting thread looks so often, in seconds, whether it shall stop.
LOOK = 0.25
# A file under a bitrate is good enough when it fills this part of its bytes: one attempt for most frames.
LEAST_FILL = 0.8
# With more frames than this in the spool new ones get only a part of the bitrate, so that the spool empties.
BACKLOG, PORTION = 5, 0.8
# Records of frames that are on their way; older ones than these are of frames that were given up.
MOST_RECORDS = 1000


class Pipeline:
    """A camera, from its frames to its outbox, in a thread of its own.

    Args:
        camera: its part of the configuration.
        config: the whole configuration.
        encoder: may be shared with other cameras.
        frames: a Reader of a live source, or a source that waits.
        open_outbox: makes the outbox, given what it calls for a frame that was acknowledged or given up.
        overhead: bytes on the wire besides a file of so many bytes.
        spool: that the outbox uses, if any.
        budget: shared by all cameras; None: no bitrate is set.
        metrics, report: what is counted.
        emit: gets the record of every frame that was delivered.
        show: gets every file as it goes to the outbox.
        limit: of frames that are taken, None for no limit.
    """

    def __init__(
        self,
        camera: CameraConfig,
        config: Config,
        encoder: rjpeg.Encoder,
        frames: Reader | Source,
        open_outbox: Callable[[OnSent, OnDropped], Outbox],
        overhead: Callable[[int], int],
        spool: Spool | None,
        budget: Budget | None,
        metrics: Metrics,
        report: Report,
        emit: Callable[[dict[str, Any]], None],
        show: Callable[[bytes], None],
        limit: int | None,
    ) -> None:
        self.camera = camera.id
        self.failure: BaseException | None = None
        self.last_step = time.monotonic()
        """When the thread last came round, monotonic: a watchdog's food."""
        self._encoding = config.encoding
        self._size = parse_size(camera.size)
        self._encoder, self._frames = encoder, frames
        self._overhead, self._spool, self._budget, self._report = overhead, spool, budget, report
        self._metrics, self._counts = metrics, metrics.camera(camera.id)
        self._emit, self._show, self._limit = emit, show, limit
        self._heartbeat_seconds = config.skip.heartbeat_seconds
        self._change = ChangeDetector(config.skip.threshold if self.live else 0)
        # a video under a cap plays at its own speed: without the flow of time there are no bits a second
        own_fps = None if isinstance(frames, Reader) or budget is None else frames.fps
        fps = camera.fps or own_fps
        self._interval = 1 / fps if fps else 0.0
        self._due = time.monotonic()
        self._taken = self._put = 0
        self._read_seconds = 0.0
        self._last_sent = self._last_heartbeat = -1e9
        # what the server has may be older than what was put last, so the next frame goes whatever it shows
        self._missed = False
        self._odd = False  # whether frames that can't be encoded have been told of
        self._before: rjpeg.EncodedFrame | None = None
        self._hard = False
        self._records: dict[datetime.datetime, dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._outbox = open_outbox(self._sent, self._dropped)
        self._thread = threading.Thread(target=self._main, name=f"pipeline {camera.id}", daemon=True)

    @property
    def live(self) -> bool:
        """Whether frames come whether they are taken or not."""
        return isinstance(self._frames, Reader)

    @property
    def running(self) -> bool:
        """Whether there are frames to come."""
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take no more frames; returns at once."""
        self._stop.set()

    def close(self, seconds: float) -> None:
        """Wait for what is on its way, `seconds` at most, and let go of source and outbox."""
        self.stop()
        deadline = time.monotonic() + seconds
        if self._thread.ident is not None:
            self._thread.join(seconds)
        if self.failure is None:
            self._outbox.flush(max(0.0, deadline - time.monotonic()))
        self._outbox.close()
        self._frames.close()

    @property
    def refusal(self) -> RjpegError | None:
        """What the server said where it refuses this camera and has taken none of its frames."""
        return self._outbox.refusal

    def raise_failure(self) -> None:
        """Raises what ended the thread, or what keeps its outbox from ever delivering, if anything did."""
        failure = self.failure or self._outbox.failure
        if failure is not None:
            raise failure

    def status(self) -> dict[str, Any]:
        """For the local page."""
        trouble = self._outbox.trouble
        found: dict[str, Any] = {"live": self.live, "running": self.running, "delivery": trouble or "works"}
        well = trouble is None and self.failure is None
        if isinstance(self._frames, Reader):
            found |= {"camera": str(self._frames.state), "last_frame_seconds": self._frames.last_frame_age}
            well = well and self.running and self._frames.state.name == "running"
        return found | {"ok": well}

    def _sent(self, frame: OutgoingFrame, where: str, seconds: float) -> None:
        """In a thread of the outbox: a frame was acknowledged; sending took so many seconds."""
        self._counts.sent(len(frame.jpeg), self._wire_bytes(frame.jpeg), seconds)
        with self._lock:
            record = self._records.pop(frame.time, None)
        if record is None:
            # of a program before this one, from the spool
            record = bare_record(frame)
        else:
            record["sequence"] = frame.sequence
            record["ms"]["send"] = round(1000 * seconds, 3)
        record["delivered"] = where
        self._report.add(record)
        self._emit(record)

    def _dropped(self, frame: OutgoingFrame, reason: str) -> None:
        """In a thread of the outbox: a frame was given up."""
        with self._lock:
            record = self._records.pop(frame.time, None)
        if reason == OVERTAKEN and self._budget is not None and record is not None:
            self._budget.give_back(record["wire_bytes"])
        # one that was overtaken or rejected is not worth another that shows the same
        self._missed = self._missed or reason not in (OVERTAKEN, REJECTED, STOPPED)
        if frame.metrics is not None:
            self._last_heartbeat = -1e9
        self._drop(reason)

    def _main(self) -> None:
        try:
            while not self._stop.is_set() and self._taken != self._limit:
                self.last_step = time.monotonic()
                frame = self._next_frame()
                if frame is None:
                    break
                self._taken += 1
                self._process(frame)
        except RjpegError as error:
            self.failure = error
        except Exception as error:
            # the main thread ends the program with it: a camera's thread must not die in silence
            logger.exception("camera %s", self.camera)
            self.failure = error
        finally:
            self._count_unreadable()

    def _next_frame(self) -> Frame | None:
        """The next frame, when it is time for it; None after the last or when stopped."""
        while (early := self._due - time.monotonic()) > 0 and not self._stop.is_set():
            self.last_step = time.monotonic()
            self._stop.wait(min(early, LOOK))
        started = time.monotonic()
        frame = None
        if isinstance(self._frames, Reader):
            while frame is None and not self._stop.is_set():
                self.last_step = time.monotonic()
                frame = self._frames.newest(LOOK)
        elif not self._stop.is_set():
            frame = self._frames.read()
        now = time.monotonic()
        self._read_seconds = now - started
        self._due = max(self._due + self._interval, now)
        if frame is not None:
            self._counts.captured()
            if self._size is not None:
                frame = frame._replace(pixels=resized(frame.pixels, self._size))
        return frame

    def _process(self, frame: Frame) -> None:
        now = time.monotonic()
        new = self._change.is_new(frame.pixels) or self._missed
        if self.live and not new and now - self._last_sent < self._heartbeat_seconds:
            self._counts.skipped()
            return
        if not self._outbox.ready:
            self._drop(SERVER_AWAY)
            return
        try:
            encoded = self._encode(frame.pixels)
        except (InputError, TargetError) as error:
            # one odd picture among many, or a noisy one of a camera, is no reason to end; a camera's first is
            if frame.name is None and self._put == 0:
                raise
            if not self._odd:
                logger.error("skipped %s: %s", frame.name or f"a frame of camera {self.camera}", error)
            self._odd = self.live
            self._drop(NOT_ENCODED)
            return
        if encoded is None:
            if not self._stop.is_set():
                self._drop("bitrate")
            return
        metrics = None
        if now - self._last_heartbeat >= self._heartbeat_seconds:
            metrics, self._last_heartbeat = self._metrics.heartbeat_json(self.camera), now
            if self._budget is not None:
                self._budget.spend_aside(len(metrics))
        self._last_sent = now
        self._missed = self._odd = False
        self._change.keep()
        self._show(encoded.jpeg)
        ms = {"read": 1000 * self._read_seconds} | {name: 1000 * s for name, s in encoded.seconds.items()}
        record = frame_record(frame, encoded, self.camera, 0, None, ms)
        record["wire_bytes"] = self._wire_bytes(encoded.jpeg)
        self._counts.encoded(len(encoded.jpeg), encoded.quality, {"read": self._read_seconds} | encoded.seconds)
        with self._lock:
            # before `put`, which may be done with the frame when it returns
            self._records[frame.time] = record
            while len(self._records) > MOST_RECORDS:
                del self._records[next(iter(self._records))]
        self._outbox.put(OutgoingFrame(self.camera, self._put, frame.time, encoded.jpeg, metrics))
        self._put += 1

    def _encode(self, pixels: npt.NDArray[np.uint8] | Planes) -> rjpeg.EncodedFrame | None:
        encoding = self._encoding
        if self._budget is None:
            return self._encoder.encode_with_details(
                pixels, quality=encoding.quality, target_bytes=encoding.target_bytes
            )
        backlog = 0 if self._spool is None else self._spool.waiting(self.camera)
        self._budget.portion = PORTION if backlog > BACKLOG else 1.0
        while not self._stop.is_set():
            now = time.monotonic()
            everything = self._budget.room(now)
            room = everything if self._hard else self._budget.smooth_room(now)
            room -= self._overhead(max(room, 0))
            try:
                encoded = self._within(pixels, room)
            except TargetError:
                hopeless = everything >= self._budget.capacity
                if hopeless and not (self.live and self._report.frames):
                    raise
                self._hard = True
                if self.live:
                    return None
                self._stop.wait(self._budget.wait(max(2 * everything, 1), time.monotonic()))
            else:
                self._hard = False
                self._budget.spend(self._wire_bytes(encoded.jpeg))
                return encoded
        return None

    def _within(self, pixels: npt.NDArray[np.uint8] | Planes, room: int) -> rjpeg.EncodedFrame:
        """A file of at most `room` bytes that is much like the one before. Raises TargetError."""
        before = self._before
        self._before = None
        self._before = self._encoder.encode_with_details(
            pixels,
            target_bytes=max(room, 1),
            start=None if before is None else before.quality,
            least_fill=LEAST_FILL,
            size_before=None if before is None else before.coding_size,
        )
        return self._before

    def _wire_bytes(self, jpeg: bytes) -> int:
        return len(jpeg) + self._overhead(len(jpeg))

    def _drop(self, reason: str) -> None:
        self._report.drop(reason)
        self._counts.dropped(reason)

    def _count_unreadable(self) -> None:
        if not isinstance(self._frames, Reader):
            for _ in range(self._frames.unreadable):
                self._drop(UNREADABLE)


def bare_record(frame: OutgoingFrame) -> dict[str, Any]:
    """What is known of a frame that an earlier run left in the spool."""
    return {
        "camera": frame.camera,
        "sequence": frame.sequence,
        "capture_time": time_text(frame.time),
        "bytes": len(frame.jpeg),
    }


def resized(pixels: npt.NDArray[np.uint8] | Planes, size: tuple[int, int]) -> npt.NDArray[np.uint8] | Planes:
    """The frame, (H, W, 3) BGR or planes, at `size`, (width, height)."""
    if isinstance(pixels, Planes):
        half = (size[0] + 1) // 2, (size[1] + 1) // 2
        return Planes(_resized(pixels.y, size), _resized(pixels.u, half), _resized(pixels.v, half))
    return _resized(pixels, size)


def _resized(pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return pixels
    smaller = size[0] * size[1] < width * height
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
