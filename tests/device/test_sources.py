"""Cameras that aren't there, videos that lie, folders of all sorts."""

import datetime
import logging
import struct
import time

import cv2
import numpy as np
import pytest

from device.sources import VideoSource, as_bgr, open_source
from rjpeg.errors import CameraError, StorageError


def frames(source):
    result = []
    while (frame := source.read(0.0)) is not None:
        result.append(frame)
    source.close()
    return result


def test_pictures_come_in_natural_order_with_their_pixels_names_and_times(pictures):
    before = datetime.datetime.now(datetime.UTC)
    got = frames(open_source(str(pictures)))
    assert [frame.name for frame in got] == ["1.png", "2.png", "10.png"]
    for frame in got:
        np.testing.assert_array_equal(frame.pixels, cv2.imread(str(pictures / frame.name)))
        assert before <= frame.time <= datetime.datetime.now(datetime.UTC)


def test_one_picture_is_a_source_too(pictures):
    [frame] = frames(open_source(str(pictures / "2.png")))
    assert frame.name == "2.png"


def test_gray_transparent_and_16_bit_pictures_become_bgr(tmp_path, photograph):
    cv2.imwrite(str(tmp_path / "gray.png"), photograph[..., 0])
    cv2.imwrite(str(tmp_path / "deep.png"), photograph.astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / "alpha.png"), cv2.cvtColor(photograph, cv2.COLOR_BGR2BGRA))
    for frame in frames(open_source(str(tmp_path))):
        assert frame.pixels.shape == photograph.shape
        assert frame.pixels.dtype == np.uint8


def test_a_picture_that_cannot_be_read_is_logged_counted_and_passed_over(pictures, caplog):
    (pictures / "3.png").write_bytes(b"")
    (pictures / "4.jpg").write_bytes(b"no picture")
    (pictures / "5.png").symlink_to("nowhere")
    source = open_source(str(pictures))
    assert [frame.name for frame in frames(source)] == ["1.png", "2.png", "10.png"]
    assert source.unreadable == 3
    for name in ("3.png", "4.jpg", "5.png"):
        assert name in caplog.text


def test_a_video_gives_all_its_frames(video):
    source = open_source(str(video))
    assert source.fps == 25
    assert not source.live
    got = frames(source)
    assert len(got) == 12
    assert {frame.pixels.shape for frame in got} == {(120, 160, 3)}


def test_a_video_whose_header_promises_another_number_of_frames_ends_where_it_ends(video, tmp_path, caplog):
    content = bytearray(video.read_bytes())
    for at in (content.index(b"avih") + 8 + 16, content.index(b"strh") + 8 + 32):
        assert struct.unpack_from("<I", content, at)[0] == 12
        struct.pack_into("<I", content, at, 50)
    lying = tmp_path / "lying.avi"
    lying.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert len(frames(open_source(str(lying)))) == 12


def test_a_video_that_is_cut_gives_the_frames_it_has(video, tmp_path):
    cut = tmp_path / "cut.avi"
    cut.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    assert 3 <= len(frames(open_source(str(cut)))) <= 8


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        ("97", CameraError, "camera 97 is missing: there is no /dev/video97"),
        (97, CameraError, "check that the camera is plugged in"),
        ("/dev/video98", CameraError, "/dev/video98"),
        ("/dev/null", CameraError, "camera /dev/null can't be opened"),
        ("rtsp://user:secret@127.0.0.1:1/x", CameraError, r"stream rtsp://\*\*\*@127.0.0.1:1/x can't be opened"),
        ("http://127.0.0.1:1/x", CameraError, "can't be opened"),
        ("{tmp}/nowhere", StorageError, "nowhere"),
        ("{tmp}/empty", StorageError, "holds no picture"),
        ("{tmp}/text.avi", CameraError, "text.avi can't be opened"),
        ("{tmp}/text", CameraError, "neither a picture nor a video"),
    ],
)
def test_what_cannot_be_opened_is_named_with_what_to_check(tmp_path, source, error, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.avi").write_text("no video")
    (tmp_path / "text").write_text("no video")
    with pytest.raises(error, match=said):
        open_source(source.format(tmp=tmp_path) if isinstance(source, str) else source)


class FakeCamera:
    """What `cv2.VideoCapture` does: a frame every 20 ms, each of its number's brightness, until there is none."""

    def __init__(self, count, kind=lambda number: np.full((4, 6, 3), number, np.uint8)):
        self.count, self.kind, self.number, self.released = count, kind, -1, False

    def isOpened(self):
        return True

    def get(self, what):
        return 90000.0 if what == cv2.CAP_PROP_FPS else 0.0

    def grab(self):
        time.sleep(0.02)
        self.number += 1
        return self.number < self.count

    def retrieve(self):
        return True, self.kind(self.number)

    def release(self):
        self.released = True


def test_a_camera_drops_what_came_before_the_time_for_a_frame():
    camera = FakeCamera(1000)
    source = VideoSource(camera, "camera", live=True, advice="")
    assert source.fps is None, "a clock rate is no frame rate"
    assert source.read(time.monotonic() + 0.2).pixels[0, 0, 0] >= 5
    number = camera.number
    assert source.read(0.0).pixels[0, 0, 0] == number + 1, "when it is late the next frame is taken"
    source.close()
    assert camera.released


def test_a_camera_that_stops_or_never_starts_is_an_error():
    source = VideoSource(FakeCamera(2), "camera 5", live=True, advice="look at the cable")
    source.read(0.0)
    source.read(0.0)
    with pytest.raises(CameraError, match="camera 5 gives no more frames after 2: look at the cable"):
        source.read(0.0)
    with pytest.raises(CameraError, match="opens but gives no frame"):
        VideoSource(FakeCamera(0), "camera 5", live=True, advice="").read(0.0)


def test_infrared_and_depth_frames_become_bgr():
    assert as_bgr(np.full((2, 3), 7, np.uint8)).tolist() == np.full((2, 3, 3), 7).tolist()
    assert as_bgr(np.full((2, 3), 0x1234, np.uint16)).tolist() == np.full((2, 3, 3), 0x12).tolist()
    assert as_bgr(np.full((2, 3, 4), 7, np.uint8)).shape == (2, 3, 3)
