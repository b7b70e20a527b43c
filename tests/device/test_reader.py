"""Cameras that are unplugged, hang, come back, and change their minds, and a thread that copes with all of it."""

import http.server
import logging
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from device import reader as module
from device.config import CameraConfig
from device.reader import Reader
from device.sources import frame_size, open_source
from rjpeg._codec import Planes
from rjpeg.errors import CameraError, ConfigError, StorageError
from tests.device.fakes import FakeCamera, wait_until


@pytest.fixture
def camera():
    return FakeCamera()


@pytest.fixture
def start(camera):
    """Start a reader of the fake camera, which is closed after the test."""
    readers = []

    def start(opener=None, **options):
        readers.append(Reader(opener or camera.open, "camera 7", **({"stall_seconds": 30.0} | options)))
        return readers[-1]

    yield start
    camera.stalled = False
    for reader in readers:
        reader.close()


@pytest.fixture
def hurry(monkeypatch):
    """Pauses and limits as short as a test wants them."""
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(module, "MAX_PAUSE_SECONDS", 0.005)
    monkeypatch.setattr(module, "OPEN_SECONDS", 0.0)


def number(frame):
    return int(frame.pixels[0, 0, 0])


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def threads():
    return sum(thread.name.startswith("camera 7") for thread in threading.enumerate())


def test_the_newest_frame_is_handed_out_and_the_others_are_counted(camera, start):
    reader = start()
    wait_until(lambda: camera.given >= 20)
    frame = reader.read(10)
    assert number(frame) >= 19
    assert reader.take_events().overtaken >= 18
    assert reader.take_events().overtaken < 18, "each is counted once"
    assert frame.monotonic <= time.monotonic()
    assert reader.state == ("running", None)
    assert reader.last_frame_age < 5
    assert reader.fps == 200


@pytest.mark.slow
def test_no_frame_is_handed_out_twice_even_to_many_who_ask(camera, start):
    reader = start()
    got = []

    def take():
        while (frame := reader.read(10)) is not None and len(got) < 100:
            got.append(number(frame))

    takers = [threading.Thread(target=take) for _ in range(4)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    assert len(got) == len(set(got)) >= 100


@pytest.mark.slow
def test_waiting_for_a_frame_ends_with_its_time_and_uses_none_of_the_processor(camera, start):
    camera.stalled = True
    reader = start()
    before, used = time.monotonic(), time.process_time()
    assert reader.read(0.5) is None
    assert 0.4 < time.monotonic() - before < 5
    assert time.process_time() - used < 0.2
    assert reader.state == ("starting", None)
    assert reader.last_frame_age is None


def test_a_camera_that_vanishes_is_opened_again_when_it_returns(camera, start, hurry, caplog):
    caplog.set_level(logging.INFO)
    reader = start()
    assert reader.read(10)
    camera.plugged = False
    wait_until(lambda: reader.state.name == "waiting" and "missing" in reader.state.reason)
    reader.read(0)
    assert reader.read(0.1) is None
    camera.plugged = True
    assert reader.read(10)
    assert camera.opened == 2
    assert reader.state.name == "running"
    restarts = reader.take_events().restarts
    assert len(restarts) == 1
    assert "no more frames" in restarts[0]
    assert reader.take_events().restarts == ()
    wait_until(lambda: len(caplog.records) >= 3)
    said = [record.message for record in caplog.records if record.levelno >= logging.INFO]
    assert len(said) == 3, "a line for each change of state, none for each attempt"
    assert [said[0], said[2]] == ["camera 7 runs: 8x6, 200 fps"] * 2
    assert "no more frames" in said[1]


def test_a_camera_that_is_missing_at_first_is_waited_for(camera, start, hurry):
    camera.plugged = False
    reader = start()
    wait_until(lambda: reader.state.name == "waiting")
    assert "there is no /dev/video7" in str(reader.state)
    camera.plugged = True
    assert reader.read(10)
    assert reader.take_events().restarts == (), "it never ran before"


@pytest.mark.slow
def test_pauses_between_attempts_grow_and_start_small_again_after_good_seconds(camera, start, monkeypatch):
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.04)
    monkeypatch.setattr(module, "MAX_PAUSE_SECONDS", 0.32)
    monkeypatch.setattr(module, "GOOD_SECONDS", 0.1)
    camera.plugged, attempts = False, []

    def opener():
        attempts.append(time.monotonic())
        return camera.open()

    reader = start(opener)
    wait_until(lambda: len(attempts) >= 7)
    pauses = np.diff(attempts)
    for pause, least in zip(pauses, (0.04, 0.08, 0.16, 0.32, 0.32, 0.32), strict=False):
        assert pause >= least
    camera.plugged = True
    started = reader.read(10).monotonic
    wait_until(lambda: reader.read(10).monotonic > started + 0.2)
    camera.plugged = False
    del attempts[:]
    wait_until(lambda: len(attempts) >= 5)
    # an eighth, but for what a busy machine adds to it
    assert attempts[1] - attempts[0] < 0.5 * (attempts[4] - attempts[3]), "they grow from the start again"


@pytest.mark.slow
def test_a_driver_that_hangs_is_left_behind_and_the_camera_opened_anew(camera, start, hurry):
    reader = start(stall_seconds=0.5)
    assert reader.read(10)
    camera.stalled = True
    wait_until(lambda: reader.state.name == "waiting")
    assert reader.take_events().restarts[0] == "camera 7 gave no frame for 0.5 s"
    camera.stalled = False
    wait_until(lambda: reader.state.name == "running")
    assert reader.read(10)
    # the thread that was left behind wakes up, closes what it had opened, and gives nothing more
    wait_until(lambda: camera.closed == camera.opened - 1 and threads() == 2)


def test_a_driver_that_hangs_again_and_again_is_given_up(camera, start, hurry):
    reader = start(stall_seconds=0.05)
    camera.stalled = True
    wait_until(lambda: reader.state.name == "failed")
    for _ in range(2):
        with pytest.raises(CameraError, match="4 earlier attempts still hang in its driver: start the program anew"):
            reader.read(10)
    camera.stalled = False
    wait_until(lambda: threads() == 0)
    assert camera.closed == camera.opened == 4


@pytest.mark.slow
def test_one_hanging_call_that_holds_the_device_for_long_is_given_up_too(camera, start, hurry, monkeypatch):
    monkeypatch.setattr(module, "HANGING_SECONDS", 0.2)

    def opener():
        if camera.opened:
            raise CameraError("camera 7 is in use")
        return camera.open()

    reader = start(opener, stall_seconds=0.2)
    assert reader.read(10)
    camera.stalled = True
    wait_until(lambda: reader.state.name == "failed")
    with pytest.raises(CameraError, match="hang in its driver"):
        reader.read(10)


def test_a_new_resolution_flows_on_and_is_logged(camera, start, caplog):
    caplog.set_level(logging.INFO)
    reader = start()
    assert reader.read(10)
    camera.size = (32, 24)
    wait_until(lambda: frame_size(reader.read(10).pixels) == (32, 24))
    assert camera.opened == 1
    wait_until(lambda: "frames are 32x24 now, were 8x6" in caplog.text)


@pytest.mark.parametrize(
    "garbage",
    [
        np.zeros((0, 0, 3), np.uint8),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        Planes(np.zeros((4, 4), np.uint8), np.zeros((2, 2), np.float32), np.zeros((2, 2), np.uint8)),
    ],
)
def test_garbage_is_not_handed_out(camera, start, hurry, garbage):
    camera.pixels = garbage
    reader = start()
    wait_until(lambda: reader.state.name == "waiting")
    assert "frames that are no pictures" in reader.state.reason
    camera.pixels = None
    assert reader.read(10).pixels.shape == (6, 8, 3)


def test_planes_are_handed_out_as_they_are(camera, start):
    camera.pixels = Planes(np.zeros((5, 7), np.uint8), np.zeros((3, 4), np.uint8), np.zeros((3, 4), np.uint8))
    frame = start().read(10)
    assert frame.pixels is camera.pixels
    assert frame_size(frame.pixels) == (7, 5)


@pytest.mark.parametrize("error", [cv2.error("(-215) assertion failed"), OSError("no such device"), StorageError("x")])
def test_what_the_outside_world_does_is_recovered_from(camera, start, hurry, error):
    camera.error = error
    reader = start()
    wait_until(lambda: reader.state.name == "waiting")
    camera.error = None
    assert reader.read(10)


@pytest.mark.parametrize("error", [ZeroDivisionError("a mistake"), ConfigError("pixel_format is wrong")])
def test_a_mistake_of_the_program_or_its_settings_comes_out_where_frames_are_taken(camera, start, error):
    camera.error = error
    reader = start()
    with pytest.raises(type(error), match=str(error)):
        reader.read(10)
    assert reader.state == ("failed", str(error))
    wait_until(lambda: threads() == 0)
    assert camera.closed == 1


def test_a_mistake_in_the_watching_thread_comes_out_too(camera, start):
    def clock():
        if threading.current_thread().name == "camera 7 watcher" and not camera.plugged:
            raise KeyError("a mistake")
        return time.monotonic()

    reader = start(clock=clock)
    assert reader.read(10)
    camera.plugged = False
    wait_until(lambda: reader.state.name == "failed")
    with pytest.raises(KeyError, match="a mistake"):
        reader.read(10)


def test_closing_closes_the_camera_and_ends_the_threads(camera, start):
    reader = start()
    assert reader.read(10)
    reader.close()
    assert threads() == 0
    assert camera.closed == 1
    assert reader.read(10) is None
    reader.close()


@pytest.mark.slow
def test_closing_wakes_who_waits_for_a_frame(camera, start):
    camera.stalled = True
    reader = start()
    got = []
    waiting = threading.Thread(target=lambda: got.append(reader.read(60)))
    waiting.start()
    reader.close()
    waiting.join(10)
    assert got == [None]


@pytest.mark.slow
def test_closing_takes_less_than_a_second_though_the_driver_hangs(camera, start):
    reader = start()
    assert reader.read(10)
    camera.stalled = True
    before = time.monotonic()
    reader.close()
    assert time.monotonic() - before < 1
    camera.stalled = False
    wait_until(lambda: threads() == 0)
    assert camera.closed == 1


def test_closing_takes_less_than_a_second_during_a_pause(camera, start):
    camera.plugged = False
    reader = start()
    wait_until(lambda: reader.state.name == "waiting")
    before = time.monotonic()
    reader.close()
    assert time.monotonic() - before < 1
    assert threads() == 0


def test_a_close_that_hangs_does_not_keep_the_camera_from_returning(camera, start, hurry, monkeypatch):
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.1)
    release = threading.Event()

    def opener():
        source = camera.open()
        if camera.opened == 1:
            source.close = release.wait
        return source

    reader = start(opener)
    assert reader.read(10)
    camera.last = 0
    wait_until(lambda: camera.opened >= 3)
    camera.last = None
    assert reader.read(10)
    release.set()
    wait_until(lambda: threads() == 2)


@pytest.mark.slow
def test_two_hundred_restarts_leave_neither_threads_nor_files_behind(camera, start, hurry, video):
    camera.last = 2

    class WithFile:
        """A fake camera that holds a real file open, as a driver does."""

        def __init__(self):
            self.file, self.source = video.open("rb"), camera.open()
            self.fps, self.description = 200.0, ""

        def read(self, due=0.0):
            return self.source.read()

        def close(self):
            self.file.close()
            self.source.close()

    camera.fps = 5000.0
    files = open_files()
    reader = start(WithFile)
    most = restarts = 0

    def enough():
        nonlocal most, restarts
        most = max(most, threads())
        restarts += len(reader.take_events().restarts)
        return restarts >= 200

    wait_until(enough, 60)
    reader.close()
    assert most <= 3
    wait_until(lambda: threads() == 0)
    assert open_files() <= files
    assert camera.closed == camera.opened >= 200


def test_a_wall_clock_that_jumps_changes_nothing(camera, start, monkeypatch):
    reader = start(stall_seconds=5.0)
    assert reader.read(10)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    for _ in range(20):
        assert reader.read(10)
    assert reader.last_frame_age < 5
    assert camera.opened == 1


class StreamServer:
    """A network camera: MJPEG over HTTP on loopback, which can stall and be switched off and on."""

    def __init__(self, port=0):
        self.stalled = threading.Event()
        self.off = threading.Event()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                value = 0
                try:
                    while not server.off.wait(0.02):
                        if server.stalled.is_set():
                            continue
                        value += 1
                        picture = np.full((48, 64, 3), value % 256, np.uint8)
                        jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
                        self.wfile.write(
                            b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n"
                            % (len(jpeg), jpeg)
                        )
                except OSError:
                    pass

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = False
        self.port = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def stop(self):
        self.off.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.mark.slow
def test_a_network_camera_that_stalls_and_is_switched_off_and_on_is_read_on(start, hurry, monkeypatch):
    monkeypatch.setattr(module, "OPEN_SECONDS", 20.0)
    server = StreamServer()
    try:
        camera = CameraConfig(source=f"http://127.0.0.1:{server.port}/stream.mjpg", stall_seconds=1.0)
        restarts = []

        def restarted(times):
            restarts.extend(reader.take_events().restarts)
            return len(restarts) >= times

        reader = start(lambda: open_source(camera), stall_seconds=1.0)
        assert frame_size(reader.read(20).pixels) == (64, 48)
        server.stalled.set()
        wait_until(lambda: restarted(1))
        server.stalled.clear()
        wait_until(lambda: reader.state.name == "running")
        assert reader.read(20)
    finally:
        server.stop()
    wait_until(lambda: restarted(2) and "can't be opened" in reader.state.reason)
    server = StreamServer(server.port)
    try:
        assert reader.read(20)
        reader.close()
    finally:
        server.stop()


@pytest.mark.slow
def test_a_video_file_played_as_a_camera_goes_on_for_ever(start, video):
    camera = CameraConfig(source=str(video), live=True)
    reader = start(lambda: open_source(camera))
    frames = [reader.read(10) for _ in range(20)]
    assert all(frames), "more than the file has"
    # twenty frames at 25 a second
    assert frames[-1].monotonic - frames[0].monotonic >= 0.7
