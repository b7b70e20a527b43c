"""`encoding.coding_size`: what other viewers see of a camera's files."""

import cv2
import numpy as np
import pytest

import rjpeg
from device import config
from device.cameras import Cameras
from device.capture import apply_flags, build_parser
from device.config import EncodingConfig, StreamConfig
from device.delivery.sender import FolderSender
from device.encoding import FrameEncoder
from device.importance import CameraMap
from device.report import Report
from device.sources.sample import SampleSource
from device.stream import CameraStream
from device.zones import Zones
from rjpeg._codec import planes_from_frame

SIZE = (640, 480)


@pytest.fixture(scope="module")
def frames():
    source = SampleSource("yard", SIZE, 5.0)
    return [source.read(float(number)).pixels for number in range(3)]


@pytest.fixture(scope="module")
def encoder():
    return rjpeg.Encoder()


def shown(jpeg):
    """Return (width, height) of a file in a viewer that knows nothing."""
    height, width = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape[:2]
    return width, height


def files_of(encoder, frames, stream=None, **settings):
    camera = FrameEncoder(encoder, EncodingConfig(**settings), None, FolderSender("."), stream)
    found = []
    for number, frame in enumerate(frames):
        coded = camera.encode(frame, float(number), 0)
        if stream is not None:
            stream._encoder.acknowledged(coded)
        found.append(coded)
    return found


@pytest.mark.parametrize("goal", [{"quality": 10}, {"target_bytes": 7000}])
def test_full_files_have_the_frame_s_size_where_automatic_ones_have_less(encoder, frames, goal):
    for frame in (frames[0], planes_from_frame(frames[0], "4:2:0")):
        [full] = files_of(encoder, [frame], coding_size="full", **goal)
        [reduced] = files_of(encoder, [frame], **goal)
        assert shown(full.jpeg) == SIZE
        assert shown(reduced.jpeg) < SIZE
        assert len(full.jpeg) <= goal.get("target_bytes", len(full.jpeg))
        assert rjpeg.Decoder().decode(full.jpeg).shape == rjpeg.Decoder().decode(reduced.jpeg).shape == (480, 640, 3)


def test_a_size_that_is_no_multiple_of_a_region_stays_what_it_is(encoder, frames):
    frame = frames[0][:431, :577]
    [full] = files_of(encoder, [frame], coding_size="full", quality=10)
    assert shown(full.jpeg) == (577, 431)


def test_soft_followers_have_the_frame_s_size_too(encoder, frames):
    stream = CameraStream(rjpeg.StreamEncoder(encoder, plain_view="soft", acknowledge="explicit"))
    files = files_of(encoder, frames, stream, coding_size="full", quality=20)
    assert [coded.kind for coded in files][:2] == ["key", "follower"]
    assert {shown(coded.jpeg) for coded in files} == {SIZE}


def test_flags_say_it_too_and_a_bitrate_has_a_unit_there(capsys):
    settings = config.load(config.DEFAULT_PATH)
    apply_flags(settings, build_parser().parse_args(["--coding-size", "full", "--bitrate", "100kbit"]))
    config.check(settings)
    assert (settings.encoding.coding_size, settings.encoding.bitrate, settings.encoding.quality) == ("full", 1e5, None)
    with pytest.raises(SystemExit):
        build_parser().parse_args(["--bitrate", "fast"])
    assert "bitrate 'fast', expected bits a second such as 100000, 100k, 100kbit or 0.1M" in capsys.readouterr().err


def test_viewers_see_whole_frames_of_followers_of_full_size_unless_it_says_otherwise(encoder, frames):
    for settings, whole in (
        (EncodingConfig(quality=50), False),
        (EncodingConfig(quality=50, coding_size="full"), True),
        (EncodingConfig(quality=50, coding_size="full", stream=StreamConfig(plain_view="tiles")), False),
    ):
        cameras = Cameras(config.Config(encoding=settings), None, Report(), None)
        stream = cameras._stream(encoder, CameraMap("yard", "nowhere"), Zones(config.ZonesConfig()))
        _, follower = files_of(encoder, frames[:2], stream, coding_size=settings.coding_size, quality=50)
        assert follower.kind != "key"
        assert (shown(follower.jpeg) == SIZE) == whole
