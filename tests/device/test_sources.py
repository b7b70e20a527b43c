"""Cameras that aren't there, videos that lie, folders of all sorts."""

import builtins
import datetime
import enum
import logging
import struct
import sys
import time
import types
from typing import ClassVar

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.config import CameraConfig
from device.sources import CaptureSource, base, frame_size, is_live, masked_source, open_source
from device.sources import sample as sample_module
from device.sources import video as video_module
from device.sources.opencv import as_bgr
from device.sources.picamera import bgr_of, picamera_controls, planes_of
from device.sources.v4l2 import JpegDecoder, gives_jpegs, set_v4l2
from rjpeg._codec import Planes, planes_from_frame
from rjpeg.errors import CameraError, ConfigError, StorageError


def open_file(path, **settings):
    return open_source(CameraConfig(source=str(path), **settings))


def frames(source):
    result = []
    while (frame := source.read(0.0)) is not None:
        result.append(frame)
    source.close()
    return result


def test_pictures_come_in_natural_order_with_their_pixels_names_and_times(pictures):
    before = datetime.datetime.now(datetime.UTC)
    got = frames(open_file(pictures))
    assert [frame.name for frame in got] == ["1.png", "2.png", "10.png"]
    for frame in got:
        np.testing.assert_array_equal(frame.pixels, cv2.imread(str(pictures / frame.name)))
        assert before <= frame.time <= datetime.datetime.now(datetime.UTC)
        assert 0 < frame.monotonic <= time.monotonic()


def test_one_picture_is_a_source_too(pictures):
    [frame] = frames(open_file(pictures / "2.png"))
    assert frame.name == "2.png"


def test_gray_transparent_and_16_bit_pictures_become_bgr(tmp_path, photograph):
    cv2.imwrite(str(tmp_path / "gray.png"), photograph[..., 0])
    cv2.imwrite(str(tmp_path / "deep.png"), photograph.astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / "alpha.png"), cv2.cvtColor(photograph, cv2.COLOR_BGR2BGRA))
    for frame in frames(open_file(tmp_path)):
        assert frame.pixels.shape == photograph.shape
        assert frame.pixels.dtype == np.uint8


def test_a_picture_that_cannot_be_read_is_logged_counted_and_passed_over(pictures, caplog):
    (pictures / "3.png").write_bytes(b"")
    (pictures / "4.jpg").write_bytes(b"no picture")
    (pictures / "5.png").symlink_to("nowhere")
    source = open_file(pictures)
    assert [frame.name for frame in frames(source)] == ["1.png", "2.png", "10.png"]
    assert source.unreadable == 3
    for name in ("3.png", "4.jpg", "5.png"):
        assert name in caplog.text


def test_a_video_gives_all_its_frames(video):
    source = open_file(video)
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
        assert len(frames(open_file(lying))) == 12


def test_a_video_that_is_cut_gives_the_frames_it_has(video, tmp_path):
    cut = tmp_path / "cut.avi"
    cut.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    assert 3 <= len(frames(open_file(cut))) <= 8


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
        open_source(CameraConfig(source=source.format(tmp=tmp_path) if isinstance(source, str) else source))


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"source": 97, "pixel_format": "RGB888"}, ConfigError, "four characters such as MJPG, not RGB888"),
        ({"source": "picamera2", "pixel_format": "MJPG"}, ConfigError, "is RGB888 or YUV420, not MJPG"),
        (
            {"source": "rtsp://a:b@127.0.0.1:1/", "exposure": 5.0},
            ConfigError,
            r"rtsp://\*\*\*@127.0.0.1:1/ has neither",
        ),
        ({"source": "{pictures}", "live": True}, ConfigError, "live is for a video file"),
        ({"source": "{pictures}", "pixel_format": "MJPG"}, ConfigError, "for V4L2 cameras and picamera2"),
        ({"source": "{pictures}/text", "live": True}, CameraError, "neither a picture nor a video that FFmpeg reads"),
    ],
)
def test_a_setting_that_a_source_does_not_have_is_refused(pictures, settings, error, said):
    (pictures / "text").write_text("no video")
    settings["source"] = str(settings["source"]).format(pictures=pictures)
    with pytest.raises(error, match=said):
        open_source(CameraConfig(**settings))


@pytest.mark.parametrize(
    ("source", "live"),
    [
        (0, True),
        ("12", True),
        ("/dev/v4l/by-id/usb-camera", True),
        ("picamera2", True),
        ("picamera2:1", True),
        ("sample", True),
        ("sample.avi", False),
        ("rtsp://192.168.1.9/stream", True),
        ("gstreamer:videotestsrc ! appsink", True),
        ("pictures/", False),
        ("12.avi", False),
        ("picamera2.mp4", False),
    ],
)
def test_what_is_live_is_known_before_it_is_opened(source, live):
    assert is_live(CameraConfig(source=source)) is live
    assert is_live(CameraConfig(source=source, live=True))


def test_passwords_are_left_out_of_addresses_and_pipelines():
    assert masked_source("rtsp://me:secret@host/Streaming/Channels/101") == "rtsp://***@host/Streaming/Channels/101"
    assert masked_source("rtsps://10.0.0.2:7441/xR4bT9kLm2QpZ7wV?enableSrtp") == "rtsps://10.0.0.2:7441/***?enableSrtp"
    pipeline = 'gstreamer:rtspsrc location=rtsp://me:secret@host user-pw="a secret" ! appsink'
    assert masked_source(pipeline) == "gstreamer:rtspsrc location=rtsp://***@host user-pw=*** ! appsink"


@pytest.mark.parametrize(
    "source",
    [
        "rtsp://me:geheim@127.0.0.1:9/stream",
        "rtsp://me:gehe/im#ge?he im@127.0.0.1:9/stream",
        "http://127.0.0.1:9/video.cgi?user=me&pwd=geheim&fps=5",
        "rtsp://127.0.0.1:9/user=me_password=geheim_channel=1_stream=0.sdp",
        "nosuch://me:geheim@127.0.0.1/stream",
        "me:geheim@127.0.0.1/stream",
        "gstreamer:rtspsrc location=rtsp://me:geheim@127.0.0.1:9/stream ! appsink",
    ],
)
def test_no_message_about_a_source_has_its_password(source):
    with pytest.raises((CameraError, ConfigError, StorageError)) as failed:
        open_source(CameraConfig(source=source))
    assert "127.0.0.1" in str(failed.value)
    assert "geheim" not in str(failed.value)
    assert "gehe" not in str(failed.value)
    assert "im@" not in str(failed.value)


GSTREAMER = cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER)


@pytest.mark.skipif(GSTREAMER, reason="OpenCV has GStreamer")
def test_a_pipeline_without_gstreamer_says_where_to_get_it():
    said = r"gstreamer:rtspsrc .*built without GStreamer.*apt install python3-opencv, and remove opencv-python-headless"
    with pytest.raises(CameraError, match=said):
        open_source(CameraConfig(source="gstreamer:rtspsrc location=rtsp://me:secret@host ! appsink"))


@pytest.mark.skipif(not GSTREAMER, reason="OpenCV was built without GStreamer")
def test_a_pipeline_gives_its_frames():
    source = open_source(CameraConfig(source="gstreamer:videotestsrc num-buffers=3 ! videoconvert ! appsink"))
    assert source.read().pixels.shape == (240, 320, 3)
    source.close()


class FakeCapture:
    """What `cv2.VideoCapture` does: frames, each of its number's brightness, until there is none."""

    def __init__(self, count=1, kind=lambda number: np.full((4, 6, 3), number, np.uint8), refuses=()):
        self.count, self.kind, self.number, self.released = count, kind, -1, False
        self.refuses = refuses
        self.asked = []
        self.has = {
            cv2.CAP_PROP_FPS: 90000.0,
            cv2.CAP_PROP_FRAME_WIDTH: 6.0,
            cv2.CAP_PROP_FRAME_HEIGHT: 4.0,
            cv2.CAP_PROP_FOURCC: float(cv2.VideoWriter.fourcc(*"YUYV")),
        }

    def isOpened(self):
        return True

    def get(self, what):
        return self.has.get(what, 0.0)

    def set(self, what, value):
        self.asked.append((what, value))
        return (what, value) not in self.refuses

    def grab(self):
        self.number += 1
        return self.number < self.count

    def retrieve(self):
        pixels = self.kind(self.number)
        return pixels is not None, pixels

    def release(self):
        self.released = True


def test_a_camera_gives_frame_after_frame_and_is_released():
    capture = FakeCapture(3)
    source = CaptureSource(capture, "camera", advice="")
    assert source.fps is None, "a clock rate is no frame rate"
    assert [int(source.read().pixels[0, 0, 0]) for _ in range(3)] == [0, 1, 2]
    source.close()
    assert capture.released


def test_a_camera_that_stops_or_never_starts_is_an_error():
    source = CaptureSource(FakeCapture(2), "camera 5", advice="look at the cable")
    source.read()
    source.read()
    with pytest.raises(CameraError, match="camera 5 gives no more frames after 2: look at the cable"):
        source.read()
    with pytest.raises(CameraError, match="opens but gives no frame"):
        CaptureSource(FakeCapture(0), "camera 5", advice="").read()


def test_a_damaged_frame_is_passed_over_and_many_are_an_error():
    damaged = FakeCapture(1000, lambda number: None if number < 5 else np.full((4, 6, 3), number, np.uint8))
    assert CaptureSource(damaged, "camera 5", advice="").read().pixels[0, 0, 0] == 5
    hopeless = FakeCapture(1000, lambda number: None)
    with pytest.raises(CameraError, match="camera 5: 30 frames in a row can't be decoded: look"):
        CaptureSource(hopeless, "camera 5", advice="look").read()


def test_frames_that_are_no_pictures_are_an_error_of_the_camera():
    odd = FakeCapture(9, lambda number: np.zeros((4, 6, 4), np.complex64))
    with pytest.raises(CameraError, match=r"complex64 frames of shape \(4, 6, 4\)"):
        CaptureSource(odd, "camera 5", advice="").read()


def test_infrared_and_depth_frames_become_bgr():
    assert as_bgr(np.full((2, 3), 7, np.uint8)).tolist() == np.full((2, 3, 3), 7).tolist()
    assert as_bgr(np.full((2, 3), 0x1234, np.uint16)).tolist() == np.full((2, 3, 3), 0x12).tolist()
    assert as_bgr(np.full((2, 3, 4), 7, np.uint8)).shape == (2, 3, 3)


def numbers_of(source):
    """Brightness of every frame until the source fails, and why it failed."""
    numbers = []
    try:
        while True:
            numbers.append(int(source.read().pixels[0, 0, 0]))
    except CameraError as error:
        return numbers, str(error)


class Stamped(FakeCapture):
    """A camera whose driver gives each buffer a time, in milliseconds."""

    def __init__(self, stamps):
        super().__init__(len(stamps))
        self.stamps = stamps

    def get(self, what):
        return self.stamps[self.number] if what == cv2.CAP_PROP_POS_MSEC else super().get(what)


@pytest.mark.parametrize(
    ("stamps", "new"),
    [
        ([40.0, 80.0, 80.0, 80.0, 120.0], [0, 1, 4]),
        ([0.0, 0.0, 0.0], [0, 1, 2]),
        ([7.0, 7.0, 7.0], [0, 1, 2]),
        ([90.0, 120.0, 10.0, 40.0], [0, 1, 2, 3]),
    ],
    ids=["a buffer again", "no stamps", "stamps that never move", "a clock set back"],
)
def test_a_buffer_that_a_driver_gives_again_is_no_new_frame(stamps, new):
    numbers, why = numbers_of(CaptureSource(Stamped(stamps), "camera 5", advice="", stamped=True))
    assert numbers == new
    assert "no more frames" in why
    everything, _ = numbers_of(CaptureSource(Stamped(stamps), "camera 5", advice=""))
    assert everything == list(range(len(stamps))), "a pipeline's position says nothing"


@pytest.mark.slow
def test_a_driver_that_gives_one_buffer_for_ever_counts_as_stalled():
    stamps = [40.0, 80.0] + 10**7 * [80.0]
    source = CaptureSource(Stamped(stamps), "camera 5", advice="look", stamped=True, stall_seconds=0.2)
    numbers, why = numbers_of(source)
    assert numbers == [0, 1]
    assert why == "camera 5 gave no new picture for 0.18 s, only the same one: look"


def test_a_camera_of_jpegs_gives_its_files_and_damaged_ones_are_passed_over(photograph):
    """OpenCV would decode each into the memory of the last one, and not tell when that fails."""
    jpegs = [cv2.imencode(".jpg", np.roll(photograph, 9 * number, axis=1))[1].ravel() for number in range(8)]
    pictures = [cv2.imdecode(jpeg, cv2.IMREAD_COLOR) for jpeg in jpegs]
    hurt = {2: jpegs[2][: len(jpegs[2]) // 2], 3: np.zeros(500, np.uint8), 6: jpegs[6][:-2]}
    padded = np.append(jpegs[5], np.zeros(300, np.uint8))
    sent = {**dict(enumerate(jpegs)), **hurt, 5: padded}
    capture = FakeCapture(8, lambda number: sent[number][None])
    capture.has[cv2.CAP_PROP_FOURCC] = float(cv2.VideoWriter.fourcc(*"MJPG"))
    assert gives_jpegs(capture)
    assert capture.asked == [(cv2.CAP_PROP_CONVERT_RGB, 0)]
    source = CaptureSource(capture, "camera 5", advice="", decode=JpegDecoder())
    for number in (0, 1, 4, 5, 7):
        np.testing.assert_array_equal(source.read().pixels, pictures[number])


def test_a_camera_whose_jpegs_all_lack_their_end_works(photograph):
    jpeg = cv2.imencode(".jpg", photograph)[1].ravel()
    decode = JpegDecoder()
    for _ in range(3):
        np.testing.assert_array_equal(decode(jpeg[None, :-2]), cv2.imdecode(jpeg, cv2.IMREAD_COLOR))
    assert decode(np.zeros((1, 400), np.uint8)) is None


def test_a_camera_of_another_format_or_a_backend_that_decodes_all_the_same_is_left_alone(photograph):
    assert not gives_jpegs(FakeCapture())
    capture = FakeCapture(refuses=[(cv2.CAP_PROP_CONVERT_RGB, 0)])
    capture.has[cv2.CAP_PROP_FOURCC] = float(cv2.VideoWriter.fourcc(*"MJPG"))
    assert not gives_jpegs(capture)
    assert JpegDecoder()(photograph) is photograph


def test_a_v4l2_camera_is_asked_for_its_format_before_its_size_and_rate():
    capture = FakeCapture()
    camera = CameraConfig(pixel_format="mjpg", size="640x480", fps=15.0, exposure=2.5)
    assert set_v4l2(capture, camera) == []
    assert capture.asked == [
        (cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG")),
        (cv2.CAP_PROP_FRAME_WIDTH, 640),
        (cv2.CAP_PROP_FRAME_HEIGHT, 480),
        (cv2.CAP_PROP_FPS, 15.0),
        (cv2.CAP_PROP_AUTO_EXPOSURE, 1),
        (cv2.CAP_PROP_EXPOSURE, 25),
    ]


def test_what_was_not_set_is_not_asked_of_a_v4l2_camera():
    capture = FakeCapture()
    assert set_v4l2(capture, CameraConfig()) == []
    assert capture.asked == []


def test_a_v4l2_camera_is_asked_for_a_frame_a_second_where_fewer_are_wanted():
    capture = FakeCapture()
    capture.has[cv2.CAP_PROP_FPS] = 1.0
    camera = CameraConfig(fps=0.1)
    set_v4l2(capture, camera)
    assert capture.asked == [(cv2.CAP_PROP_FPS, 1.0)]
    assert CaptureSource(capture, "camera", advice="", asked=camera).description == "6x4, 1 fps, YUYV"


def test_automatic_exposure_is_tried_both_ways_and_a_refusal_is_said():
    priority, automatic, manual = ((cv2.CAP_PROP_AUTO_EXPOSURE, value) for value in (3, 0, 1))
    capture = FakeCapture(refuses=[priority])
    assert set_v4l2(capture, CameraConfig(exposure="auto")) == []
    assert capture.asked == [priority, automatic]
    refusing = FakeCapture(refuses=[priority, automatic, manual])
    assert set_v4l2(refusing, CameraConfig(exposure="auto")) == ["automatic exposure is not to be had"]
    assert set_v4l2(refusing, CameraConfig(exposure=4.0)) == ["an exposure of 4 ms is not to be had"]


def test_what_a_camera_gives_is_described_with_what_was_asked_where_it_differs():
    def description(**asked):
        return CaptureSource(capture, "camera", advice="", asked=CameraConfig(**asked)).description

    capture = FakeCapture()
    assert description() == "6x4, YUYV"
    capture.has[cv2.CAP_PROP_FPS] = 30.0
    assert description(size="6x4", fps=30.0, pixel_format="yuyv") == "6x4, 30 fps, YUYV"
    assert (
        description(size="640x480", fps=60.0, pixel_format="MJPG")
        == "6x4, 30 fps, YUYV (asked for: 640x480, 60 fps, MJPG)"
    )
    capture.has |= {cv2.CAP_PROP_FRAME_WIDTH: -1.0, cv2.CAP_PROP_FOURCC: float("nan"), cv2.CAP_PROP_FPS: float("nan")}
    assert description() == "size unknown"


class Clock:
    """Time that passes only where the code sleeps, or the test says."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in (base, sample_module, video_module):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def repeated(video, clock):
    """The video played as a camera, and a function that tells the number of a frame of it."""
    known = [frame.pixels.tobytes() for frame in frames(open_file(video))]
    source = open_file(video, live=True)
    yield source, lambda frame: known.index(frame.pixels.tobytes())
    source.close()


def test_a_video_played_as_a_camera_keeps_its_own_speed_and_starts_again_at_its_end(repeated, clock):
    source, number = repeated
    assert source.live
    assert source.fps == 25
    assert source.description == "160x120, 25 fps, mjpeg; repeated"
    for index in range(30):
        assert number(source.read()) == index % 12
        assert clock.now == pytest.approx(1000 + index / 25)


def test_frames_that_are_late_are_left_out(repeated, clock):
    source, number = repeated
    assert number(source.read()) == 0
    clock.now += 0.21
    assert number(source.read()) == 5
    clock.now += 0.6
    frame = source.read()
    assert number(frame) == 20 % 12
    assert frame.monotonic == clock.now


def test_a_video_goes_on_where_it_was_after_a_long_pause(repeated, clock):
    source, number = repeated
    source.read()
    clock.now += 3600
    assert number(source.read()) == 1
    assert number(source.read()) == 2
    assert clock.now == pytest.approx(4600 + 1 / 25)


def test_a_video_that_is_gone_when_it_starts_again_is_an_error(video, tmp_path, clock):
    path = tmp_path / "video.avi"
    path.write_bytes(video.read_bytes())
    source = open_file(path, live=True)
    path.unlink()
    for _ in range(12):
        source.read()
    with pytest.raises(CameraError, match="can't be opened"):
        source.read()
    source.close()


def sample(**settings):
    return open_source(CameraConfig(source="sample", **settings))


def test_the_sample_needs_no_camera_and_keeps_its_own_speed(clock):
    source = sample()
    assert source.live
    assert source.fps == 5
    assert source.description.startswith("640x360, 5 fps; ")
    for index in range(25):
        frame = source.read()
        assert frame.pixels.shape == (360, 640, 3)
        assert frame.pixels.dtype == np.uint8
        assert frame.name == f"sample {index}"
        assert clock.now == pytest.approx(1000 + index / 5)
    source.close()


def test_the_sample_is_the_same_in_every_run_and_another_for_every_camera(clock):
    def some(**settings):
        source = sample(size="161x90", **settings)
        return [source.read().pixels for _ in range(12)]

    first = some(id="a")
    np.testing.assert_array_equal(first, some(id="a"))
    assert not np.array_equal(first[0], some(id="b")[0])


def test_the_sample_is_a_fixed_camera_that_somebody_walks_past():
    source = sample(size="160x90", fps=2.0)
    frames = np.array([source.frame(index) for index in range(33)])
    # the wall beside the table stays in view; a man in black comes and goes before it
    assert frames[:, 5:40, 30:60].min() > 150
    black = (frames[:, :, 70:110].max(axis=3) < 80).mean(axis=(1, 2))
    assert 8 < (black > 0.2).sum() < 25
    assert 8 < (black < 0.08).sum() < 25


def test_frames_of_the_sample_differ_by_the_noise_of_a_sensor_when_nothing_moves():
    source = sample(id="doorway")
    wall = [source.frame(index)[10:60, 250:350].astype(np.float32) for index in range(2)]
    assert 1.5 < (wall[1] - wall[0]).std() / np.sqrt(2) < 2.5


def test_the_sample_begins_again_after_its_end():
    source = sample(size="64x36", fps=10.0)
    first, last, again = source.frame(3), source.frame(164), source.frame(165 + 3)
    assert cv2.PSNR(first, again) > 35 > cv2.PSNR(first, source.frame(40))
    np.testing.assert_array_equal(source.frame(164), last)
    np.testing.assert_array_equal(source.frame(3), first)


def test_a_sample_whose_clip_is_gone_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(sample_module, "SAMPLE", tmp_path / "sample.mp4")
    with pytest.raises(CameraError, match=r"sample can't be opened: .*sample\.mp4 is damaged or gone"):
        sample()


def test_late_frames_of_the_sample_are_left_out(clock):
    source, punctual = sample(size="64x48"), sample(size="64x48")
    source.read()
    clock.now += 1.46
    late = source.read().pixels
    clock.now = 1000.0
    for _ in range(7 + 1):
        expected = punctual.read().pixels
    np.testing.assert_array_equal(late, expected)


@pytest.mark.parametrize("size", ["1x1", "3x200", "200x3", "641x479", "1920x1080", "1281x961"])
def test_the_sample_comes_in_any_size(size):
    width, height = map(int, size.split("x"))
    source = sample(size=size, fps=1000.0)
    for _ in range(3):
        assert source.read().pixels.shape == (height, width, 3)


def test_a_sample_that_is_hardly_read_does_not_count_as_stalled():
    assert sample(fps=0.01).fps == 1


def test_a_sample_of_a_size_or_with_a_setting_that_it_does_not_have_is_refused():
    with pytest.raises(ConfigError, match="camera camera: size 40000x10; a sample's sides are 32766 at most"):
        sample(size="40000x10")
    with pytest.raises(ConfigError, match="sample has neither"):
        sample(exposure="auto")


class Range(enum.Enum):
    """libcamera.ColorSpace.Range"""

    Full = 0
    Limited = 1


class Encoding(enum.Enum):
    """libcamera.ColorSpace.YcbcrEncoding"""

    Rec601 = 1
    Rec709 = 2


class FakePicamera2:
    """The part of picamera2 that is used, as its source text says it behaves.

    Sizes must be even, rows are padded to 64 bytes, chroma's to 32; a request that isn't given back is missing.
    """

    models: ClassVar = [{"Model": "imx219"}, {"Model": "imx708"}]
    made: ClassVar = []
    # set by tests
    buffers: ClassVar = {}
    space = (Range.Full, Encoding.Rec601)
    format = None
    busy = False
    silent = False
    lags = False  # a frame comes once it is exposed: the call ends then, or with its time limit

    @staticmethod
    def global_camera_info():
        return FakePicamera2.models

    def __init__(self, camera_num=0):
        if self.busy:
            raise RuntimeError("Camera __init__ sequence did not complete.")
        self.number, self.calls, self.free = camera_num, [], 0
        FakePicamera2.made.append(self)

    def create_video_configuration(self, main, colour_space, buffer_count, controls):
        self.colour_space, self.free, self.controls = colour_space, buffer_count, controls
        return {"main": {"format": "XBGR8888", "size": (1280, 720)} | main, "colour_space": colour_space}

    def configure(self, config):
        width, height = config["main"]["size"]
        if width % 2 or height % 2:
            raise RuntimeError("width and height should be even")
        self.config = config
        if self.format:
            config["main"]["format"] = self.format
        bytes_per_pixel = {"RGB888": 3, "YUV420": 1, "YUYV": 2}[config["main"]["format"]]
        config["main"]["stride"] = -(-width * bytes_per_pixel // 64) * 64
        config["colour_space"] = types.SimpleNamespace(range=self.space[0], ycbcrEncoding=self.space[1])

    def camera_configuration(self):
        return self.config

    def start(self):
        self.calls.append("start")

    def capture_request(self, wait):
        assert "start" in self.calls
        duration = self.controls.get("FrameDurationLimits", (33_333, 33_333))[0] / 1e6 if self.lags else 0.0
        if self.silent or self.free == 0 or duration > wait:
            raise TimeoutError(f"timed out after {wait}")
        self.free -= 1
        return types.SimpleNamespace(
            make_buffer=lambda name: {"main": self.buffers[self.config["main"]["format"]]}[name].copy(),
            get_metadata=lambda: {"FrameDuration": 66_667, "ExposureTime": 5000},
            release=self.release,
        )

    def release(self):
        self.free += 1

    def cancel_all_and_flush(self):
        self.calls.append("cancel")

    def stop(self):
        self.calls.append("stop")

    def close(self):
        self.calls.append("close")


@pytest.fixture
def picamera2(monkeypatch, photograph):
    """The stub in picamera2's place; its camera gives the photograph at 150x112."""
    picture = np.ascontiguousarray(photograph[:112, :150])
    planes = planes_from_frame(picture, "4:2:0")
    rng = np.random.default_rng(5)

    def padded(plane, stride):
        rows = rng.integers(0, 256, (len(plane), stride), np.uint8)
        rows[:, : plane.shape[1]] = plane
        return rows.ravel()

    buffers = {
        "YUV420": np.concatenate([padded(plane, stride) for plane, stride in zip(planes, (192, 96, 96), strict=True)]),
        "RGB888": padded(picture.reshape(112, 450), 512),
    }
    stub = type("Picamera2", (FakePicamera2,), {"buffers": buffers})
    FakePicamera2.made = []
    space = types.SimpleNamespace(Sycc=lambda: "sYCC", Range=Range, YcbcrEncoding=Encoding)
    monkeypatch.setitem(sys.modules, "libcamera", types.SimpleNamespace(ColorSpace=space))
    monkeypatch.setitem(sys.modules, "picamera2", types.SimpleNamespace(Picamera2=stub))
    stub.picture, stub.planes = picture, planes
    return stub


def test_picamera2_gives_planes_without_their_padding_and_without_conversion(picamera2):
    source = open_source(CameraConfig(source="picamera2", pixel_format="YUV420", size="150x112"))
    for _ in range(20):
        frame = source.read()
    assert isinstance(frame.pixels, Planes)
    for plane, made in zip(frame.pixels, picamera2.planes, strict=True):
        np.testing.assert_array_equal(plane, made)
        assert plane.flags.c_contiguous
    [camera] = picamera2.made
    assert camera.colour_space == "sYCC", "JPEG's full range"
    assert camera.free == 4, "every request was given back"
    source.close()
    assert camera.calls == ["start", "cancel", "stop", "close"]


@pytest.mark.parametrize("pixel_format", ["RGB888", None])
def test_picamera2_gives_blue_first(picamera2, pixel_format):
    source = open_source(CameraConfig(source="picamera2:1", pixel_format=pixel_format, size="150x112"))
    np.testing.assert_array_equal(source.read().pixels, picamera2.picture)
    assert picamera2.made[0].number == 1
    assert source.name == "camera picamera2:1"


def test_picamera2_is_asked_for_even_sides_and_says_what_it_gives(picamera2):
    source = open_source(CameraConfig(source="picamera2", size="151x113", fps=30.0))
    assert source.fps is None
    source.read()
    assert source.fps == pytest.approx(15, abs=0.01)
    assert source.description == "150x112, 15 fps, RGB888 (asked for: 151x113, 30 fps)"


@pytest.mark.parametrize("fps", [0.01, 0.1, 0.5])
def test_picamera2_gives_a_frame_within_its_time_where_few_are_wanted(picamera2, fps):
    picamera2.lags = True
    source = open_source(CameraConfig(source="picamera2", size="150x112", fps=fps))
    assert source.read().pixels.shape == (112, 150, 3)
    assert picamera2.made[0].controls == {"FrameDurationLimits": (1_000_000, 1_000_000)}


@pytest.mark.parametrize("error", [ImportError("No module named 'libcamera'"), ValueError("numpy.dtype size changed")])
def test_picamera2_that_is_not_installed_or_does_not_fit_says_how_to_install_it(monkeypatch, error):
    def fails(name, *arguments):
        if name == "libcamera":
            raise error
        return imported(name, *arguments)

    imported = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", fails)
    with pytest.raises(CameraError, match=rf"picamera2:0 needs picamera2 \({error}\): sudo apt install python3-picam"):
        open_source(CameraConfig(source="picamera2"))


@pytest.mark.parametrize(
    ("fps", "exposure", "controls"),
    [
        (None, None, {}),
        (None, "auto", {"AeEnable": True}),
        (25.0, None, {"FrameDurationLimits": (40_000, 40_000)}),
        (None, 8.0, {"AeEnable": False, "ExposureTime": 8000}),
        (
            10.0,
            8.0,
            {"AeEnable": False, "ExposureTime": 8000, "FrameDurationLimits": (100_000, 100_000)},
        ),
        (
            None,
            250.0,
            {"AeEnable": False, "ExposureTime": 250_000, "FrameDurationLimits": (33_333, 250_000)},
        ),
    ],
)
def test_rate_and_exposure_become_microseconds_and_a_long_exposure_gets_its_time(fps, exposure, controls):
    assert picamera_controls(fps, exposure) == controls


def test_picamera2_that_gives_another_range_or_format_is_refused_and_freed(picamera2):
    camera = CameraConfig(source="picamera2", pixel_format="YUV420", size="150x112")
    picamera2.space = (Range.Limited, Encoding.Rec709)
    with pytest.raises(CameraError, match="not sYCC as JPEG has it: set pixel_format RGB888"):
        open_source(camera)
    picamera2.format = "YUYV"
    with pytest.raises(CameraError, match="gives YUYV, not YUV420"):
        open_source(camera)
    assert [made.calls[-1] for made in picamera2.made] == ["close", "close"]


def test_picamera2_that_is_missing_busy_or_silent_is_named(picamera2):
    with pytest.raises(CameraError, match=r"picamera2:2 is missing \(cameras present: imx219, imx708\)"):
        open_source(CameraConfig(source="picamera2:2"))
    picamera2.silent = True
    source = open_source(CameraConfig(source="picamera2", stall_seconds=2.0))
    with pytest.raises(CameraError, match=r"picamera2:0 gave no frame for 1.8 s; check its ribbon cable"):
        source.read()
    source.close()
    picamera2.busy = True
    with pytest.raises(CameraError, match="can't be opened: Camera __init__ sequence did not complete"):
        open_source(CameraConfig(source="picamera2"))


@given(st.integers(1, 70), st.integers(1, 40), st.integers(0, 20), st.integers(0, 50), st.randoms())
def test_planes_come_out_of_a_buffer_whatever_its_padding(width, height, padding, rest, random):
    stride = width + width % 2 + 2 * padding
    rows, columns = (height + 1) // 2, (width + 1) // 2
    sizes = ((height, width, stride), (rows, columns, stride // 2), (rows, columns, stride // 2))
    rng = np.random.default_rng(random.getrandbits(32))
    made, parts = [], []
    for plane_height, plane_width, plane_stride in sizes:
        part = rng.integers(0, 256, (plane_height, plane_stride), np.uint8)
        parts.append(part.ravel())
        made.append(part[:, :plane_width])
    buffer = np.concatenate([*parts, np.zeros(rest, np.uint8)])
    for plane, expected in zip(planes_of(buffer, (width, height), stride), made, strict=True):
        np.testing.assert_array_equal(plane, expected)
    with pytest.raises(CameraError, match=f"none of {width}x{height}"):
        planes_of(buffer[: buffer.size - rest - 1], (width, height), stride)


@given(st.integers(1, 40), st.integers(1, 20), st.integers(0, 50))
def test_pixels_come_out_of_a_buffer_whatever_its_padding(width, height, padding):
    stride = 3 * width + padding
    buffer = np.arange(height * stride, dtype=np.uint32).astype(np.uint8)
    expected = buffer.reshape(height, stride)[:, : 3 * width].reshape(height, width, 3)
    np.testing.assert_array_equal(bgr_of(buffer, (width, height), stride), expected)
    with pytest.raises(CameraError, match=f"none of {width}x{height}"):
        bgr_of(buffer[:-1], (width, height), stride)


@pytest.mark.hardware
@pytest.mark.parametrize("source", ["0", "picamera2"])
def test_a_real_camera_gives_frames(source):
    opened = open_source(CameraConfig(source=source))
    try:
        assert frame_size(opened.read().pixels)[0] >= 16
    finally:
        opened.close()
