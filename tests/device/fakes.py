"""A clock that stands still, a live source on it, and a camera whose cable can be pulled and whose driver can hang."""

import datetime
import threading
import time

import numpy as np

from device.reader import ReaderEvents
from device.sources import CapturedFrame
from rjpeg.errors import CameraError

START = datetime.datetime(2026, 3, 4, tzinfo=datetime.UTC)


class Clock:
    """Seconds, which pass when a test says so."""

    now = 0.0

    def __call__(self):
        return self.now


class LiveSource:
    """What a pipeline asks a live source. Frames bear the time of the clock. Subclasses have `read` and `ended`."""

    name, live, fps, unreadable, is_well = "scene", True, None, 0, True

    def __init__(self, clock):
        self._clock = clock

    def captured(self, pixels, seconds):
        """A frame that comes so many seconds after the one before."""
        self._clock.now += seconds
        return CapturedFrame(pixels, START + datetime.timedelta(seconds=self._clock.now), None, self._clock.now)

    def take_events(self):
        return ReaderEvents()

    def status(self):
        return {}

    def close(self):
        pass


class Records(list):
    """Takes what a program prints."""

    emit = list.append


class FakeCamera:
    """The device; `open` opens it as `open_source` does.

    Attributes to set at any time:
        plugged: whether it can be opened and gives frames.
        stalled: its driver's calls don't return while it is set.
        size: (width, height).
        pixels: what it gives instead of its frames.
        fps: frames a second.
        error: what `read` raises instead.
        last: number of the frame after which each opened source fails.
    Attributes to read: opened, closed (how often), given (frames).
    """

    def __init__(self, fps=200.0):
        self.plugged, self.fps, self.size, self.pixels, self.error, self.last = True, fps, (8, 6), None, None, None
        self._moves = threading.Event()
        self._moves.set()
        self.opened = self.closed = self.given = 0

    @property
    def stalled(self):
        return not self._moves.is_set()

    @stalled.setter
    def stalled(self, value):
        (self._moves.clear if value else self._moves.set)()

    def open(self):
        if not self.plugged:
            raise CameraError("camera 7 is missing: there is no /dev/video7")
        self.opened += 1
        return FakeSource(self)


class FakeSource:
    name, live, unreadable, description = "camera 7", True, 0, "8x6, 200 fps"

    def __init__(self, camera):
        self.camera, self.frames = camera, 0
        self.fps = camera.fps

    def read(self, due=0.0):
        camera = self.camera
        time.sleep(1 / camera.fps)
        camera._moves.wait()
        if camera.error is not None:
            raise camera.error
        if not camera.plugged or (camera.last is not None and self.frames >= camera.last):
            raise CameraError(f"camera 7 gives no more frames after {self.frames}")
        self.frames += 1
        camera.given += 1
        width, height = camera.size
        pixels = np.full((height, width, 3), camera.given % 256, np.uint8) if camera.pixels is None else camera.pixels
        return CapturedFrame(pixels, datetime.datetime.now(datetime.UTC), None, time.monotonic())

    def close(self):
        self.camera.closed += 1


def wait_until(condition, seconds=20.0):
    """Poll until the condition holds; fails after some seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.002)
