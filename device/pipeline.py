"""One camera's way from frames to the outbox: take, leave out what shows nothing new, encode within the budget."""

import datetime
import logging
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

import rjpeg
from device.budget import Share
from device.change import ChangeDetector
from device.config import CameraConfig, Config
from device.delivery.outboxes import OVERTAKEN, REFUSED, REJECTED, SERVER_AWAY, STOPPED, OnDropped, OnSent, Outbox
from device.frames import OutgoingFrame
from device.metrics import Metrics
from device.reader import Reader
from device.report import Report, frame_record
from device.sources import Frame, Source, parse_size
from device.spool import Spool
from rjpeg._codec import Planes
from rjpeg._protocol import time_text
from rjpeg.errors import InputError, RjpegError, TargetError

__all__ = ["FAILURES", "Pipeline", "resized"]

logger = logging.getLogger(__name__)

UNREADABLE, NOT_ENCODED = "unreadable", "not encoded"
FAILURES = {UNREADABLE, NOT_ENCODED, REJECTED, REFUSED}
# A waiting thread looks so often, in seconds, whether it shall stop.
LOOK = 0.25
# For its thread to end, in seconds.
CLOSE_SECONDS = 1.0
# A file under a bitrate is good enough when it fills this part of its bytes: one attempt for most frames.
LEAST_FILL = 0.8
# One that fits no less gets so many times the bytes of its smallest file, so that one attempt finds it.
SMALLEST_MARGIN = 1.25
# With more frames than this in the spool new ones get only a part of the bitrate, so that the spool empties.
BACKLOG, PORTION = 5, 0.8
# Seconds, for one that there is hardly too little room for.
MIN_PAUSE = 0.001
# Records of frames that are on their way; older ones than these are of frames that were given up.
MAX_RECORDS = 1000


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
        share: of the bitrate; None: none is set.
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
        share: Share | None,
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
        self._overhead, self._spool, self._share, self._report = overhead, spool, share, report
        self._metrics, self._counts = metrics, metrics.camera(camera.id)
        self._emit, self._show, self._limit = emit, show, limit
        self._heartbeat_seconds = config.skip.heartbeat_seconds
        self._change = ChangeDetector(config.skip.threshold if self.live else 0)
        # a video under a cap plays at its own speed: without the flow of time there are no bits a second
        own_fps = None if isinstance(frames, Reader) or share is None else frames.fps
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
        self._records = _Records()
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
        """Let go of source and outbox. What is on its way gets `seconds` at most, and what is in a spool none of them.

        A spool keeps its frames for the next run. It is emptied only if the source came to its end, and only while the
        server takes what there is.
        """
        ended = not self._stop.is_set()
        self.stop()
        deadline = time.monotonic() + seconds
        if self._thread.ident is not None:
            self._thread.join(seconds)
        if self.failure is None and (ended or self._spool is None):
            self._flush(deadline)
        self._outbox.close()
        if self._thread.ident is not None:
            # one that waited in `put` ends now
            self._thread.join(CLOSE_SECONDS)
        self._frames.close()

    def _flush(self, deadline: float) -> None:
        while (left := deadline - time.monotonic()) > 0 and not self._outbox.flush(min(LOOK, left)):
            if self._spool is not None and self._outbox.is_away:
                return

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
        record = self._records.pop(frame)
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
        record = self._records.pop(frame)
        if reason == OVERTAKEN and self._share is not None and record is not None:
            self._share.give_back(record["wire_bytes"] + len(frame.metrics or ""))
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
            if self._share is not None:
                self._share.spend_aside(len(metrics))
        self._last_sent = now
        self._missed = self._odd = False
        self._change.keep()
        self._show(encoded.jpeg)
        ms = {"read": 1000 * self._read_seconds} | {name: 1000 * s for name, s in encoded.seconds.items()}
        record = frame_record(frame, encoded, self.camera, 0, None, ms)
        record["wire_bytes"] = self._wire_bytes(encoded.jpeg)
        self._counts.encoded(len(encoded.jpeg), encoded.quality, {"read": self._read_seconds} | encoded.seconds)
        outgoing = OutgoingFrame(self.camera, self._put, frame.time, encoded.jpeg, metrics)
        # before `put`, which may be done with the frame when it returns
        self._records.add(outgoing, record)
        self._outbox.put(outgoing)
        self._put += 1

    def _encode(self, pixels: npt.NDArray[np.uint8] | Planes) -> rjpeg.EncodedFrame | None:
        encoding = self._encoding
        if self._share is None:
            return self._encoder.encode_with_details(
                pixels, quality=encoding.quality, target_bytes=encoding.target_bytes
            )
        backlog = 0 if self._spool is None else self._spool.waiting(self.camera)
        self._share.portion = PORTION if backlog > BACKLOG else 1.0
        while not self._stop.is_set():
            try:
                encoded = self._fitted(pixels, self._share)
            except TargetError as error:
                needed = self._with_overhead(SMALLEST_MARGIN * error.smallest)
                hopeless = self._with_overhead(error.smallest) > self._share.capacity
                if hopeless and not (self.live and self._report.frames):
                    raise
                # from now on the share saves up for such a frame
                pause = self._share.wait(needed, time.monotonic())
                if self.live:
                    return None
                self._stop.wait(max(pause, MIN_PAUSE))
            else:
                self._share.spend(self._wire_bytes(encoded.jpeg))
                return encoded
        return None

    def _fitted(self, pixels: npt.NDArray[np.uint8] | Planes, share: Share) -> rjpeg.EncodedFrame:
        """A file that fits: smoothly, or if it can't, small and within all the room there is. Raises TargetError."""
        now = time.monotonic()
        room = share.smooth_room(now)
        try:
            return self._within(pixels, room - self._overhead(max(room, 0)))
        except TargetError as error:
            everything = share.room(now)
            most = everything - self._overhead(max(everything, 0))
            if most < error.smallest:
                raise
            return self._within(pixels, min(most, int(SMALLEST_MARGIN * error.smallest)))

    def _with_overhead(self, size: float) -> float:
        return size + self._overhead(int(size))

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


class _Records:
    """What is known of the frames on their way. Safe to use from any thread.

    A spool numbers frames anew, so time and file tell which one it is: two frames may bear the same time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: dict[tuple[datetime.datetime, int], list[dict[str, Any]]] = {}

    def add(self, frame: OutgoingFrame, record: dict[str, Any]) -> None:
        """Keep a frame's record; of too many, the oldest are forgotten."""
        with self._lock:
            self._records.setdefault(self._key(frame), []).append(record)
            while len(self._records) > MAX_RECORDS:
                del self._records[next(iter(self._records))]

    def pop(self, frame: OutgoingFrame) -> dict[str, Any] | None:
        """Return a frame's record and forget it; None: there is none."""
        with self._lock:
            key = self._key(frame)
            found = self._records.get(key)
            if not found:
                return None
            record = found.pop(0)
            if not found:
                del self._records[key]
            return record

    @staticmethod
    def _key(frame: OutgoingFrame) -> tuple[datetime.datetime, int]:
        return frame.time, zlib.crc32(frame.jpeg)


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
