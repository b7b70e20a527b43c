"""One camera's way from frames to the outbox: take, leave out what shows nothing new, encode within the budget."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty
from typing import Any, Protocol

import rjpeg
from device.change import ChangeDetector
from device.config import CameraConfig, SkipConfig
from device.delivery.outbox import OVERTAKEN, REFUSED, REJECTED, SERVER_AWAY, STOPPED, UNHEARD, Dropped, Outbox, Sent
from device.encoding import FrameEncoder, NoRoom, Pixels, resized
from device.frames import OutgoingFrame
from device.metrics import Metrics
from device.reader import FrameReader
from device.report import FrameRecords, Report, bare_record, frame_record
from device.sources import CapturedFrame, parse_size
from device.view import View
from device.zones import Zones
from rjpeg.errors import InputError, RjpegError, TargetError

__all__ = ["FAILURES", "LOOK_SECONDS", "CameraSettings", "Observers", "Pipeline", "RecordOutput"]

logger = logging.getLogger(__name__)

NEWER_CAME, UNREADABLE, NOT_ENCODED, NO_ROOM = "newer frame came", "unreadable", "not encoded", "bitrate"
# A key is being sent, and a frame that could not refer to it would be as large.
KEY_UNDER_WAY = "key on its way"
FAILURES = {UNREADABLE, NOT_ENCODED, REJECTED, REFUSED}
# A waiting thread looks so often if it has to stop, and what became of earlier frames.
LOOK_SECONDS = 0.25
# What `close` gives the thread to end.
CLOSE_SECONDS = 1.0
# Before a frame that lacked very little room is tried again.
MIN_PAUSE_SECONDS = 0.001
LONG_AGO = float("-inf")


class RecordOutput(Protocol):
    """Where the records of delivered frames go."""

    def emit(self, record: dict[str, Any]) -> None:
        """Take a record; from any thread."""


@dataclass(frozen=True)
class CameraSettings:
    """What a pipeline has to know.

    Attributes:
        camera: The camera's part of the configuration.
        skip: Which frames are left out.
        max_frames: Frames that are taken; None for no limit.
        zones: Of the picture; None: those of `camera` alone.
    """

    camera: CameraConfig
    skip: SkipConfig
    max_frames: int | None = None
    zones: Zones | None = None


@dataclass(frozen=True)
class Observers:
    """Who is told of frames. All cameras share them.

    Attributes:
        metrics: Counts by camera.
        report: Counts over the whole run.
        output: Gets the record of every frame that was delivered.
        view: Shows every file as it goes to the outbox; None if there is no local page.
    """

    metrics: Metrics
    report: Report
    output: RecordOutput
    view: View | None = None


class Pipeline:
    """A camera, from its frames to its outbox, in a thread of its own.

    The same thread counts what became of the frames. It goes on with that after the last frame, until `close`.

    Args:
        settings: Of the camera.
        reader: Its frames.
        encoder: Makes files of them.
        outbox: Delivers the files.
        observers: Are told of frames.
        clock: Returns seconds of a monotonic clock.

    Attributes:
        camera: Id.
        live: Frames come whether they are taken or not.
        failure: What ended the thread early, if anything did.
        last_step: When the thread last came round, in seconds of the clock; for a watchdog.
    """

    def __init__(
        self,
        settings: CameraSettings,
        reader: FrameReader,
        encoder: FrameEncoder,
        outbox: Outbox,
        observers: Observers,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        camera = settings.camera
        self.camera, self.live = camera.id, reader.live
        self.failure: BaseException | None = None
        self._clock = clock
        self.last_step = self._clock()
        self._settings, self._reader, self._encoder, self._outbox = settings, reader, encoder, outbox
        self._stream = encoder.stream
        self._observers, self._counts = observers, observers.metrics.camera(camera.id)
        self._size = parse_size(camera.size)
        self._zones = settings.zones or Zones(camera.zones)
        self._change = ChangeDetector(settings.skip.threshold if self.live else 0, self._zones.ignored_in)
        # bits a second need the flow of time, so a video under a cap plays at its own speed
        own_fps = reader.fps if encoder.is_capped and not self.live else None
        fps = camera.fps or own_fps
        self._interval = 1 / fps if fps else 0.0
        self._due = self._clock()
        self._taken = self._put = 0
        self._read_seconds = 0.0
        self._last_sent = self._last_heartbeat = LONG_AGO
        # True if the server may not have what was put last, so that the next frame is sent whatever it shows
        self._missed = False
        # True if the log has told of frames that can't be encoded
        self._told_of_failure = False
        self._records = FrameRecords()
        self._stop, self._ended, self._closing = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._main, name=f"pipeline {camera.id}", daemon=True)

    @property
    def running(self) -> bool:
        """True while there are frames to come."""
        return self._thread.is_alive() and not self._ended.is_set()

    def start(self) -> None:
        """Start to take frames."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more frames; return at once."""
        self._stop.set()

    def close(self, seconds: float) -> None:
        """Let go of source and outbox.

        A spool keeps its frames for the next run. It is emptied only if the source came to its end, and only while the
        server takes what there is.

        Args:
            seconds: What is on its way gets so long at most.
        """
        came_to_its_end = not self._stop.is_set()
        self.stop()
        deadline = self._clock() + seconds
        started = self._thread.ident is not None
        if started:
            self._ended.wait(seconds)
        if self.failure is None and (came_to_its_end or not self._outbox.is_durable):
            self._flush(deadline)
        self._outbox.close()
        self._closing.set()
        if started:
            # a thread that waited in `put` ends now
            self._thread.join(CLOSE_SECONDS)
        # finds nothing unless the thread hangs or was never started
        self._settle()
        self._reader.close()

    def _flush(self, deadline: float) -> None:
        while (left := deadline - self._clock()) > 0 and not self._outbox.flush(min(LOOK_SECONDS, left)):
            if self._outbox.is_durable and self._outbox.is_away:
                return

    @property
    def refusal(self) -> RjpegError | None:
        """What a server said that refuses this camera and has taken none of its frames."""
        return self._outbox.refusal

    def raise_failure(self) -> None:
        """Raise what ended the thread, or what keeps its outbox from ever delivering, if anything did."""
        failure = self.failure or self._outbox.failure
        if failure is not None:
            raise failure

    def status(self) -> dict[str, Any]:
        """Return what the local page shows of the camera."""
        trouble = self._outbox.trouble
        found: dict[str, Any] = {"live": self.live, "running": self.running, "delivery": trouble or "works"}
        well = trouble is None and self.failure is None and self._reader.is_well and (self.running or not self.live)
        return found | self._reader.status() | {"ok": well}

    # --- the thread ------------------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            self._take_frames()
        except RjpegError as error:
            self.failure = error
        except Exception as error:
            # the main thread ends the program with it: a camera's thread must not die in silence
            logger.exception("camera %s", self.camera)
            self.failure = error
        finally:
            for _ in range(self._reader.unreadable):
                self._drop(UNREADABLE)
            self._ended.set()
        while not self._closing.wait(LOOK_SECONDS):
            self._settle()
        self._settle()

    def _take_frames(self) -> None:
        while not self._stop.is_set() and self._taken != self._settings.max_frames:
            frame = self._next_frame()
            if frame is None:
                return
            self._taken += 1
            self._process(frame)

    def _next_frame(self) -> CapturedFrame | None:
        """Return the next frame when it is time for it; None after the last or when stopped."""
        self._settle()
        while (early := self._due - self._clock()) > 0 and not self._stop.is_set():
            self._pause(early)
        started = self._clock()
        frame = None
        while frame is None and not self._stop.is_set() and not self._reader.ended:
            frame = self._reader.read(LOOK_SECONDS)
            if frame is None:
                self._settle()
        now = self._clock()
        self._read_seconds = now - started
        self._due = max(self._due + self._interval, now)
        if frame is not None:
            self._counts.captured()
            if self._size is not None:
                frame = frame._replace(pixels=resized(frame.pixels, self._size))
            # nothing behind this line has seen what is private
            frame = frame._replace(pixels=self._zones.hide(frame.pixels))
            if self._counts.holds_zones(self._zones.version):
                # whoever drew them waits to see that they hold
                self._missed, self._last_heartbeat = True, LONG_AGO
        return frame

    def _pause(self, seconds: float) -> None:
        """Wait for at most LOOK_SECONDS, or until `stop`."""
        self._stop.wait(min(seconds, LOOK_SECONDS))
        self._settle()

    def _process(self, frame: CapturedFrame) -> None:
        self._settle()
        now = self._clock()
        new = self._change.is_new(frame.pixels) or self._missed
        if self.live and not new and now - self._last_sent < self._settings.skip.heartbeat_seconds:
            self._counts.skipped()
            return
        if not self._outbox.ready:
            self._drop(SERVER_AWAY)
            return
        if self._stream is not None and self._stream.waits_for_key:
            self._drop(KEY_UNDER_WAY)
            return
        try:
            encoded = self._encode(frame.pixels)
        except (InputError, TargetError) as error:
            # one odd picture among many is no reason to end, but the first one of a camera is
            if (self.live or frame.name is None) and self._put == 0:
                raise
            if not self._told_of_failure:
                logger.error("skipped %s: %s", frame.name or f"a frame of camera {self.camera}", error)
            self._told_of_failure = self.live
            self._drop(NOT_ENCODED)
            return
        if encoded is None:
            if not self._stop.is_set():
                self._drop(NO_ROOM)
            return
        metrics = self._heartbeat(now)
        self._last_sent = now
        self._missed = self._told_of_failure = False
        self._change.keep()
        self._hand_on(frame, encoded, metrics)

    def _encode(self, pixels: Pixels) -> rjpeg.EncodedFrame | None:
        """Return the file; None if there is no room for a live frame, or when stopped."""
        while not self._stop.is_set():
            outbox = self._outbox
            is_probe = outbox.is_away and not outbox.is_durable
            found = self._encoder.encode(pixels, self._clock(), outbox.backlog, is_probe=is_probe)
            if not isinstance(found, NoRoom):
                return found
            if found.is_hopeless and not (self.live and self._observers.report.frames):
                raise found.error
            # from now on the share saves up for such a frame
            seconds = self._encoder.save_up(found, self._clock())
            if self.live:
                return None
            due = self._clock() + max(seconds, MIN_PAUSE_SECONDS)
            while (early := due - self._clock()) > 0 and not self._stop.is_set():
                self._pause(early)
        return None

    def _heartbeat(self, now: float) -> str | None:
        """Return the metrics that go with a frame, if it is time for them."""
        if now - self._last_heartbeat < self._settings.skip.heartbeat_seconds:
            return None
        self._last_heartbeat = now
        metrics = self._observers.metrics.heartbeat_json(self.camera)
        self._encoder.spend_aside(len(metrics))
        return metrics

    def _hand_on(self, frame: CapturedFrame, encoded: rjpeg.EncodedFrame, metrics: str | None) -> None:
        """Give a file to the local page and to the outbox."""
        if self._observers.view is not None:
            self._observers.view.show(self.camera, encoded.jpeg)
        seconds = {"read": self._read_seconds} | encoded.seconds
        record = frame_record(frame, encoded, self.camera, seconds)
        record["wire_bytes"] = self._encoder.wire_bytes(len(encoded.jpeg), encoded.kind)
        self._counts.encoded(len(encoded.jpeg), encoded.quality, seconds)
        outgoing = OutgoingFrame(self.camera, self._put, frame.time, encoded.jpeg, metrics)
        summary = outgoing.summary
        self._records.add(summary, record)
        if self._stream is not None:
            self._stream.put(summary, encoded)
        taken = self._outbox.put(outgoing) >= 0
        if self._stream is not None and taken and self._outbox.is_durable:
            # what is in the spool reaches the server before all that comes later
            self._stream.arrived(summary)
        self._put += 1

    # --- what became of frames -------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Count what happened since the last call, and act on it."""
        self.last_step = self._clock()
        events = self._reader.take_events()
        if events.overtaken:
            self._counts.dropped(NEWER_CAME, events.overtaken)
        for _ in events.restarts:
            self._counts.restarted()
        while True:
            try:
                outcome = self._outbox.outcomes.get_nowait()
            except Empty:
                return
            if isinstance(outcome, Sent):
                self._note_sent(outcome)
            else:
                self._note_dropped(outcome)

    def _note_sent(self, outcome: Sent) -> None:
        frame = outcome.frame
        if self._stream is not None:
            self._stream.arrived(frame)
        wire_bytes = self._encoder.wire_bytes(frame.size, frame.kind)
        self._counts.sent(frame.size, wire_bytes, outcome.seconds, kind=frame.kind)
        record = self._records.pop(frame)
        if record is None:
            # an earlier run put it into the spool
            record = bare_record(frame)
        else:
            record["sequence"] = frame.sequence
            record["ms"]["send"] = round(1000 * outcome.seconds, 3)
        record["delivered"] = outcome.where
        self._observers.report.add(record)
        self._observers.output.emit(record)

    def _note_dropped(self, outcome: Dropped) -> None:
        frame, reason = outcome.frame, outcome.reason
        record = self._records.pop(frame)
        if self._stream is not None and outcome.is_kept:
            self._stream.arrived(frame)
        elif self._stream is not None:
            self._stream.dropped(frame, outcome.lost, rejected=reason == REJECTED)
        if reason == OVERTAKEN and record is not None:
            self._encoder.give_back(record["wire_bytes"] + len(frame.metrics or ""))
        # a frame that was overtaken or rejected, or that nobody wants, needs no other one that shows the same
        self._missed = self._missed or reason not in (OVERTAKEN, REJECTED, STOPPED, UNHEARD)
        if frame.metrics is not None:
            self._last_heartbeat = LONG_AGO
        self._drop(reason)

    def _drop(self, reason: str) -> None:
        self._observers.report.drop(reason)
        self._counts.dropped(reason)
