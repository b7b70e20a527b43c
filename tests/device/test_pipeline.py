"""A camera's pipeline on a clock of the test's own."""

import datetime

import numpy as np

import rjpeg
from device.config import CameraConfig, EncodingConfig, SkipConfig
from device.delivery import WaitOutbox
from device.delivery.outbox import Link
from device.delivery.sender import FolderSender
from device.encoding import FrameEncoder
from device.metrics import Metrics
from device.pipeline import CameraSettings, Observers, Pipeline
from device.reader import ReaderEvents
from device.report import Report
from device.sources import CapturedFrame
from tests.device.fakes import Clock
from tests.waiting import until


class StillScene:
    """A live camera that gives the same picture again and again, each so many seconds after the one before."""

    name, live, fps, unreadable, is_well = "still", True, None, 0, True

    def __init__(self, clock, seconds):
        self._clock, self._seconds, self._pixels = clock, list(seconds), np.zeros((16, 16, 3), np.uint8)

    @property
    def ended(self):
        return not self._seconds

    def read(self, timeout):
        self._clock.now += self._seconds.pop(0)
        return CapturedFrame(self._pixels, datetime.datetime(2026, 3, 4, tzinfo=datetime.UTC), None, self._clock.now)

    def take_events(self):
        return ReaderEvents()

    def status(self):
        return {}

    def close(self):
        pass


class Records(list):
    emit = list.append


def test_a_still_scene_is_sent_when_its_heartbeat_is_due_by_the_clock_that_is_given(tmp_path):
    clock, records, metrics = Clock(), Records(), Metrics(["cam"])
    sender = FolderSender(tmp_path)
    pipeline = Pipeline(
        CameraSettings(CameraConfig("cam"), SkipConfig(threshold=4, heartbeat_seconds=60)),
        StillScene(clock, [0, 59, 1, 30, 29, 1, 3600]),
        FrameEncoder(rjpeg.Encoder(), EncodingConfig(quality=40), None, sender),
        WaitOutbox(Link(sender, clock=clock), retry_seconds=1),
        Observers(metrics, Report(), records),
        clock=clock,
    )
    pipeline.start()
    until(lambda: not pipeline.running)
    pipeline.close(1)
    pipeline.raise_failure()
    assert len(records) == 4, "the first one, then 60, 60 and 3600 seconds later"
    assert pipeline.last_step == clock.now == 3720
