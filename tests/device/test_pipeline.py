"""A camera's pipeline on a clock of the test's own."""

import numpy as np

import rjpeg
from device.config import CameraConfig, EncodingConfig, SkipConfig
from device.delivery import WaitOutbox
from device.delivery.outbox import Link
from device.delivery.sender import FolderSender
from device.encoding import FrameEncoder
from device.metrics import Metrics
from device.pipeline import CameraSettings, Observers, Pipeline
from device.report import Report
from tests.device.fakes import Clock, LiveSource, Records
from tests.waiting import until


class StillScene(LiveSource):
    """The same picture again and again, each so many seconds after the one before."""

    def __init__(self, clock, seconds):
        super().__init__(clock)
        self._seconds, self._pixels = list(seconds), np.zeros((16, 16, 3), np.uint8)

    @property
    def ended(self):
        return not self._seconds

    def read(self, timeout):
        return self.captured(self._pixels, self._seconds.pop(0))


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
