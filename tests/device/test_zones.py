"""Zones of a picture: what is private leaves nowhere, what is ignored costs nothing, what is watched is sent."""

import json

import cv2
import numpy as np
import pytest

import rjpeg
from device import config
from device.change import ChangeDetector
from device.config import CameraConfig, EncodingConfig, SkipConfig, ZonesConfig
from device.delivery import WaitOutbox
from device.delivery.outbox import Link
from device.delivery.sender import FolderSender
from device.encoding import FrameEncoder
from device.metrics import Metrics
from device.pipeline import CameraSettings, Observers, Pipeline
from device.report import Report
from device.sources.sample import SampleSource
from device.stream import CameraStream
from device.zones import GRAY, MAX_TOLD, Zones, told
from rjpeg._codec import Planes, planes_from_frame
from rjpeg.errors import ConfigError
from tests.device.fakes import Clock
from tests.device.test_pipeline import Records, StillScene
from tests.waiting import until

LEFT = [[(0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)]]
TRIANGLE = [[(0.1, 0.1), (0.9, 0.2), (0.3, 0.8)]]


@pytest.fixture(scope="module")
def frame():
    return np.random.default_rng(0).integers(0, 100, (97, 131, 3)).astype(np.uint8)


@pytest.mark.parametrize("size", [(97, 131), (96, 128), (240, 320)])
def test_private_pixels_are_gray_in_bgr_and_planes_at_any_size_and_others_stay(size):
    frame = np.random.default_rng(1).integers(0, 100, (*size, 3)).astype(np.uint8)
    zones = Zones(ZonesConfig(private=TRIANGLE))
    hidden = zones.hide(frame)
    rows, cols = np.mgrid[: size[0], : size[1]]
    corners = np.array(TRIANGLE[0]) * (size[1], size[0])
    outline = corners.astype(np.float32)[None]
    inside = np.array(
        [
            [cv2.pointPolygonTest(outline, (float(x) + 0.5, float(y) + 0.5), False) >= 0 for x in cols[0]]
            for y in rows[:, 0]
        ]
    )
    assert (hidden[inside] == GRAY).all()
    away = cv2.dilate(inside.astype(np.uint8), np.ones((15, 15), np.uint8)) == 0
    assert (hidden[away] == frame[away]).all()
    assert away.any()
    assert inside.any()
    y, u, v = planes_from_frame(frame, "4:2:0")
    half = -(-size[0] // 2), -(-size[1] // 2)
    parts = ((y, size), (u, half), (v, half))
    planes = Planes(*(np.ascontiguousarray(plane[:rows, :cols]) for plane, (rows, cols) in parts))
    hidden = zones.hide(planes)
    assert (hidden.y[inside] == GRAY).all()
    assert (hidden.u.repeat(2, 0).repeat(2, 1)[: size[0], : size[1]][inside] == GRAY).all()
    assert (hidden.v.repeat(2, 0).repeat(2, 1)[: size[0], : size[1]][inside] == GRAY).all()
    assert not (planes.y == GRAY).all()


def test_the_camera_s_own_frame_is_not_changed_and_without_zones_is_not_copied(frame):
    before = frame.copy()
    Zones(ZonesConfig(private=LEFT)).hide(frame)
    assert (frame == before).all()
    assert Zones(ZonesConfig()).hide(frame) is frame
    assert Zones(ZonesConfig()).octaves(None) is None
    assert Zones(ZonesConfig()).ignored_in((6, 8)) is None


def test_nothing_private_is_in_any_file_whatever_the_coding_size(tmp_path):
    """Two scenes that differ in what is private alone give the same files."""

    class Scene(StillScene):
        def __init__(self, clock, value):
            super().__init__(clock, [0, 1, 1])
            self._pixels = np.full((160, 208, 3), 90, np.uint8)
            self._pixels[:, :104] = np.random.default_rng(value).integers(0, 256, (160, 104, 3))
            self._pixels[40:80, 150:190] = (20, 200, 60)

    files, metrics = [], Metrics(["cam"])
    for value in (1, 2):
        folder, clock, records = tmp_path / str(value), Clock(), Records()
        sender = FolderSender(folder)
        camera = CameraConfig("cam", zones=ZonesConfig(private=LEFT))
        encoder = rjpeg.Encoder()
        stream = CameraStream(rjpeg.StreamEncoder(encoder, acknowledge="assume"), None, Zones(camera.zones))
        pipeline = Pipeline(
            CameraSettings(camera, SkipConfig()),
            Scene(clock, value),
            FrameEncoder(encoder, EncodingConfig(quality=40), None, sender, stream),
            WaitOutbox(Link(sender, clock=clock), retry_seconds=1),
            Observers(metrics, Report(), records),
            clock=clock,
        )
        pipeline.start()
        until(lambda pipeline=pipeline: not pipeline.running)
        pipeline.close(1)
        pipeline.raise_failure()
        files.append([path.read_bytes() for path in sorted(folder.glob("*.jpg"))])
    assert files[0] == files[1]
    assert len(files[0]) == 3
    shown = rjpeg.Decoder().decode(files[0][0])
    assert np.abs(shown[:, :96].astype(int) - GRAY).max() <= 4
    assert shown[60, 170, 1] > 150
    # where the zone is, the server may know
    assert json.loads(metrics.heartbeat_json("cam"))["own_zones"] == {"private": ["0,0 500,0 500,1000 0,1000"]}


def test_the_server_is_told_of_the_configuration_s_zones_as_far_as_they_are_small():
    assert told(ZonesConfig()) == {}
    found = told(ZonesConfig(private=TRIANGLE, ignored=LEFT))
    assert found == {"own_zones": {"private": ["100,100 900,200 300,800"], "ignored": ["0,0 500,0 500,1000 0,1000"]}}
    large = [(0.123, 0.456)] * 100
    found = told(ZonesConfig(private=[large, large, *TRIANGLE], watched=[large], ignored=TRIANGLE))
    assert [len(texts) for texts in found["own_zones"].values()] == [2, 1]
    assert found["own_zones_left_out"] == 2
    assert len(json.dumps(found)) < MAX_TOLD + 100
    assert list(told(ZonesConfig(private=[large] * 3))) == ["own_zones", "own_zones_left_out"]


@pytest.mark.parametrize("zones", [{}, {"ignored": LEFT}, {"ignored": LEFT, "watched": LEFT}])
def test_change_in_an_ignored_zone_is_not_sent_unless_it_is_watched_too(zones):
    source = SampleSource("yard", (320, 192), 5.0)
    background = source.read(0.0).pixels
    stream = CameraStream(rjpeg.StreamEncoder(rjpeg.Encoder()), None, Zones(ZonesConfig(**zones)))
    stream.encode(background, 0.0, key_may_come=True, quality=50)
    changed = background.copy()
    changed[48:112, 32:96] = 255 - changed[48:112, 32:96]
    coded = stream.encode(changed, 1.0, key_may_come=True, quality=50)
    assert coded.kind != "key"
    sent = ~coded.kept[3:7, 2:6] if coded.kept.shape == (12, 20) else ~coded.kept[:, : coded.kept.shape[1] // 3]
    assert sent.any() == (zones.keys() != {"ignored"})


def test_change_in_an_ignored_zone_is_no_reason_for_a_frame():
    still = np.full((64, 96, 3), 100, np.uint8)
    left, right = still.copy(), still.copy()
    left[16:48, 8:40] = right[16:48, 56:88] = 180
    change = ChangeDetector(4, Zones(ZonesConfig(ignored=LEFT)).ignored_in)
    assert change.is_new(still)
    change.keep()
    assert not change.is_new(left)
    assert change.is_new(right)
    watched = Zones(ZonesConfig(ignored=LEFT, watched=LEFT))
    change = ChangeDetector(4, watched.ignored_in)
    change.is_new(still)
    change.keep()
    assert change.is_new(left)


def test_zones_hold_beside_the_map_that_the_server_made():
    octaves = np.full((12, 20), 2.0, np.float32)
    found = Zones(ZonesConfig(ignored=LEFT, watched=[[(0.6, 0.1), (0.9, 0.1), (0.9, 0.9)]])).octaves(octaves)
    rows, cols = found.shape
    assert found[rows // 2, cols // 4] == -32
    assert found[rows // 4, int(0.85 * cols)] == 4
    assert found[int(0.9 * rows), int(0.6 * cols)] == pytest.approx(2)
    # what the map values more than that stays
    assert Zones(ZonesConfig(watched=LEFT)).octaves(octaves + 5).max() == 7


@pytest.mark.parametrize(
    "zones",
    [
        "private: [[[0, 0], [1, 1]]]",
        "private: [[[0, 0], [1, 0], [1.5, 1]]]",
        "private: [[[0, 0], [1, 0], [0, -1]]]",
        "private: [[0, 0], [1, 0], [1, 1]]",
        "privat: [[[0, 0], [1, 0], [1, 1]]]",
        "private: [[[0, 0], [1, 0], [.nan, 1]]]",
    ],
)
def test_what_is_no_polygon_is_refused(tmp_path, zones):
    path = tmp_path / "c.yaml"
    path.write_text(f"cameras: [{{zones: {{{zones}}}}}]")
    with pytest.raises(ConfigError, match="zones"):
        config.load(path)


def test_polygons_are_read_from_a_configuration(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("cameras: [{zones: {private: [[[0, 0], [1, 0], [1, 0.5]]]}}]")
    loaded = config.load(path)
    config.check(loaded)
    assert loaded.cameras[0].zones.private == [[(0.0, 0.0), (1.0, 0.0), (1.0, 0.5)]]
