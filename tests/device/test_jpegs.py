"""Films and streams of JPEG files: in a file, in the parts of a stream, asked one by one."""

import contextlib
import hashlib
import http.server
import itertools
import os
import threading
import time

import cv2
import numpy as np
import pytest

from device.config import CameraConfig
from device.sources import PictureSource, RepeatedVideoSource, VideoSource, open_source, video
from device.sources.jpegs import open_jpegs
from device.sources.video import StreamSource
from rjpeg.errors import CameraError
from tests.device.films import moving
from tests.device.streams import http_stream, until

SIZE = (64, 48)


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """Whatever a slow machine takes for opening, no picture is left out as one of before."""
    monkeypatch.setattr(video, "FRESH_SECONDS", 60)


@pytest.fixture(scope="module")
def jpegs(chelsea):
    return [cv2.imencode(".jpg", picture)[1].tobytes() for picture in moving(chelsea, SIZE, 6)]


@pytest.fixture(scope="module")
def chelsea():
    return cv2.imread("calibration_data/chelsea.jpg")


def decoded(jpeg):
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


def are(frames, jpegs):
    """Whether frames are what OpenCV makes of files, whose libjpeg-turbo may be of another release."""
    pairs = list(zip(frames, map(decoded, jpegs), strict=True))
    return all(frame.shape == other.shape and np.abs(frame.astype(int) - other).max() <= 1 for frame, other in pairs)


def read_all(source):
    frames = []
    while (frame := source.read()) is not None:
        frames.append(frame.pixels)
    source.close()
    return frames


@pytest.mark.parametrize("name", ["film.mjpeg", "film.mjpg", "film.jpg", "film"])
def test_a_film_of_bare_jpegs_gives_all_frames_whatever_its_name(jpegs, tmp_path, name):
    (tmp_path / name).write_bytes(b"".join(jpegs))
    source = open_source(CameraConfig(source=str(tmp_path / name)))
    assert isinstance(source, VideoSource)
    assert "64x48, 25 fps, mjpeg" in source.description
    assert are(read_all(source), jpegs)


def test_a_picture_with_a_preview_behind_it_is_one_picture(jpegs, tmp_path):
    preview = cv2.imencode(".jpg", cv2.resize(decoded(jpegs[0]), (16, 12)))[1].tobytes()
    (tmp_path / "photo.jpg").write_bytes(jpegs[0] + preview)
    source = open_source(CameraConfig(source=str(tmp_path / "photo.jpg")))
    assert isinstance(source, PictureSource)
    assert are(read_all(source), jpegs[:1])


def test_a_film_plays_as_a_camera_and_begins_again(jpegs, tmp_path):
    (tmp_path / "film.mjpeg").write_bytes(b"".join(jpegs[:2]))
    source = open_source(CameraConfig(source=str(tmp_path / "film.mjpeg"), live=True))
    assert isinstance(source, RepeatedVideoSource)
    frames = [source.read().pixels for _ in range(4)]
    source.close()
    assert are(frames[:2], jpegs[:2]) or are(frames[1:3], jpegs[:2])


def test_damaged_pictures_of_a_film_are_passed_over_and_counted(jpegs, tmp_path, caplog):
    (tmp_path / "film.mjpeg").write_bytes(jpegs[0] + jpegs[1][:-300] + jpegs[2] + jpegs[3][:-300])
    source = open_source(CameraConfig(source=str(tmp_path / "film.mjpeg")))
    assert are(read_all(source), [jpegs[0], jpegs[2]])
    assert source.unreadable == 2
    assert "2 frames can't be decoded" in caplog.text


class Camera(http.server.BaseHTTPRequestHandler):
    """Answers each request with the next of some pictures, to who has the password."""

    protocol_version = "HTTP/1.1"
    pictures = None
    password = None
    content_type = "image/jpeg"
    requests: list[float]

    def do_GET(self):
        if self.password is not None and not self.is_allowed():
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Digest realm="camera", nonce="n", qop="auth"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.requests.append(time.monotonic())
        picture = next(self.pictures)
        self.send_response(200)
        self.send_header("Content-Type", self.content_type)
        self.send_header("Content-Length", str(len(picture)))
        self.end_headers()
        self.wfile.write(picture)

    def is_allowed(self):
        """RFC 2617."""
        shown = self.headers.get("Authorization", "")
        if not shown.startswith("Digest "):
            return False
        fields = dict(each.strip().split("=", 1) for each in shown.removeprefix("Digest ").split(", "))
        fields = {name: value.strip('"') for name, value in fields.items()}

        def digest(*texts):
            return hashlib.md5(":".join(texts).encode()).hexdigest()

        ours = digest(
            digest("me", "camera", self.password),
            "n",
            fields["nc"],
            fields["cnonce"],
            "auth",
            digest("GET", fields["uri"]),
        )
        return (fields["username"], fields["response"]) == ("me", ours)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def snapshot_camera(pictures, **settings):
    handler = type("Handler", (Camera,), {"pictures": iter(pictures), "requests": [], **settings})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}/shot", handler
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("content_type", ["image/jpeg", "application/octet-stream"])
def test_a_camera_that_answers_with_one_picture_is_asked_at_its_rate(jpegs, content_type):
    with snapshot_camera(itertools.cycle(jpegs), content_type=content_type) as (address, camera):
        source = open_source(CameraConfig(source=f"http://{address}", fps=20))
        frames = [source.read() for _ in range(5)]
        source.close()
    numbers = [next(n for n, jpeg in enumerate(jpegs) if are([frame.pixels], [jpeg])) for frame in frames]
    assert numbers == [(numbers[0] + step) % 6 for step in range(5)]
    # as seen here, where the first may come late
    assert camera.requests[-1] - camera.requests[0] > 0.1
    assert source.fps == 20
    assert "64x48, 20 fps" in source.description


def test_a_camera_that_shows_one_picture_for_ever_counts_as_stalled(jpegs):
    with snapshot_camera(itertools.repeat(jpegs[0])) as (address, _):
        source = StreamSource(f"http://{address}", 0.4, 50)
        source.read()
        with pytest.raises(CameraError, match=r"gave no new picture for 0\.36 s"):
            source.read()
        source.close()


def test_a_password_is_shown_by_digest_and_stays_out_of_messages(jpegs):
    with snapshot_camera(itertools.cycle(jpegs), password="p@ss/word") as (address, _):
        source = StreamSource(f"http://me:p%40ss%2Fword@{address}", 5.0, 50)
        assert source.read().pixels.shape == (48, 64, 3)
        source.close()
        with pytest.raises(CameraError, match="401 Unauthorized") as caught:
            StreamSource(f"http://me:mistaken@{address}", 5.0)
        assert "mistaken" not in str(caught.value)


@pytest.mark.parametrize("address", ["me:sec/ret@127.0.0.1/shot", "me:sec#ret@127.0.0.1/", "[::1/shot", "h:sec@ret:x/"])
def test_what_is_no_url_is_an_error_that_quotes_nothing_of_it(address):
    with pytest.raises(CameraError, match="it is no URL") as caught:
        open_jpegs(f"http://{address}", "camera", advice="check it", fps=None, seconds=(1.0, 1.0))
    assert "sec" not in str(caught.value).replace("percent", "")
    assert "ret" not in str(caught.value)


def part(jpeg):
    return b"--123456789000000000000987654321\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (
        len(jpeg),
        jpeg,
    )


def test_the_stream_of_an_esp32_cam_which_lacks_its_first_boundary_is_read(jpegs):
    stream = b"".join(map(part, jpegs)).partition(b"\r\n")[2]
    kind = "multipart/x-mixed-replace;boundary=123456789000000000000987654321"
    stop = threading.Event()
    with http_stream(lambda: itertools.chain([stream], until(stop)), kind) as port:
        source = StreamSource(f"http://127.0.0.1:{port}/stream", 5.0)
        assert are([source.read().pixels for _ in range(6)], jpegs)
        source.close()
        stop.set()


@pytest.mark.parametrize("kind", ["video/x-motion-jpeg", "application/octet-stream"])
def test_a_stream_of_bare_jpegs_is_read(jpegs, kind):
    stop = threading.Event()
    with http_stream(lambda: itertools.chain(jpegs, until(stop)), kind) as port:
        source = StreamSource(f"http://127.0.0.1:{port}/stream", 5.0)
        assert are([source.read().pixels for _ in range(6)], jpegs)
        source.close()
        stop.set()


def test_closing_a_stream_ends_a_read_in_another_thread(jpegs):
    stop, ended = threading.Event(), threading.Event()
    with http_stream(lambda: itertools.chain([part(jpegs[0])], until(stop)), "multipart/x-mixed-replace") as port:
        source = StreamSource(f"http://127.0.0.1:{port}/stream", 30.0)
        source.read()

        def read():
            with contextlib.suppress(CameraError):
                source.read()
            ended.set()

        threading.Thread(target=read, daemon=True).start()
        assert not ended.wait(0.1)
        source.close()
        assert ended.wait(5)
        stop.set()


@pytest.mark.parametrize("name", [b"bad\xff\xfe.jpg", b"with space", b"%d.jpg", b"concat:x.jpg"])
def test_a_picture_and_a_film_may_have_any_name(jpegs, tmp_path, name):
    for folder, content in (("picture", jpegs[:1]), ("film", jpegs)):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / os.fsdecode(name)
        path.write_bytes(b"".join(content))
        assert are(read_all(open_source(CameraConfig(source=str(path)))), content)
