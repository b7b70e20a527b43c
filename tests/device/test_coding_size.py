"""`encoding.coding_size`: what other viewers see of a camera's files."""

import cv2
import numpy as np
import pytest

import rjpeg
from device.config import EncodingConfig
from device.delivery.sender import FolderSender
from device.encoding import FrameEncoder
from device.sources.sample import SampleSource
from device.stream import CameraStream
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
