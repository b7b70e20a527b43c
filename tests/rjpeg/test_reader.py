"""VideoReader: folders, films and streams of files, and what is wrong with them."""

import contextlib
import http.server
import os
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rjpeg
from rjpeg import _files
from rjpeg._films import Splitter
from rjpeg.errors import ConfigError
from tests.rjpeg.streams import coded_film

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def decoder():
    return rjpeg.Decoder()


@pytest.fixture(scope="module")
def jpegs():
    """Region JPEGs of odd sizes, and an ordinary one whose Exif segment holds a whole JPEG as thumbnail."""
    photograph = cv2.imread(str(ROOT / "calibration_data" / "chelsea.jpg"))
    encoder = rjpeg.Encoder()
    files = [
        encoder.encode(np.ascontiguousarray(photograph[:height, :width]), quality=quality)
        for height, width, quality in ((75, 101, 40), (33, 17, 90), (8, 8, 10), (150, 201, 30))
    ]
    parameters = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2]
    ordinary = cv2.imencode(".jpg", photograph[:40, :60], parameters)[1].tobytes()
    thumbnail = cv2.imencode(".jpg", photograph[:16, :16])[1].tobytes()
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    return [*files, ordinary[:2] + segment + ordinary[2:]]


@pytest.fixture(scope="module")
def pictures(jpegs, decoder):
    """What the decoder makes of them, one by one."""
    return [decoder.decode(jpeg) for jpeg in jpegs]


@pytest.fixture
def folder(jpegs, tmp_path):
    """The files as 8.jpg, 9.jpg, ..., among others."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, jpeg in enumerate(jpegs):
        (folder / f"{number + 8}.jpg").write_bytes(jpeg)
    (folder / "notes.txt").write_text("no frame")
    return folder


def same(frames, expected):
    return len(frames) == len(expected) and all(map(np.array_equal, frames, expected))


def test_a_folder_is_read_in_natural_order_as_videocapture_reads_a_video(folder, decoder, pictures):
    capture = rjpeg.VideoReader(folder, decoder=decoder)
    assert capture.isOpened()
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == len(pictures)
    for number, picture in enumerate(pictures):
        assert capture.get(cv2.CAP_PROP_POS_FRAMES) == number
        ok, frame = capture.read()
        assert ok is True
        np.testing.assert_array_equal(frame, picture)
        assert (capture.get(cv2.CAP_PROP_FRAME_HEIGHT), capture.get(cv2.CAP_PROP_FRAME_WIDTH)) == picture.shape[:2]
    assert capture.read() == (False, None)
    assert capture.isOpened(), "as OpenCV has it at the end of a video"
    capture.release()
    capture.release()
    assert not capture.isOpened()
    assert capture.read() == (False, None)


def test_sizes_are_known_before_the_first_frame_and_nothing_is_lost_by_asking(folder, decoder, pictures):
    with rjpeg.VideoReader(folder, decoder=decoder) as capture:
        assert (capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (101, 75)
        assert capture.get(cv2.CAP_PROP_FPS) == 0
        assert same(list(capture), pictures)


def test_grabbed_frames_are_decoded_only_if_asked_for(folder, decoder, jpegs, pictures):
    with rjpeg.VideoReader(str(folder), decoder=decoder) as capture:
        assert capture.retrieve() == (False, None)
        for _ in range(3):
            assert capture.grab()
        assert capture.jpeg == jpegs[2]
        np.testing.assert_array_equal(capture.retrieve()[1], pictures[2])


def test_a_film_is_files_one_after_another_whatever_is_between_them(jpegs, pictures, decoder, tmp_path):
    (tmp_path / "film.mjpeg").write_bytes(b"".join(jpegs))
    assert same(list(rjpeg.VideoReader(tmp_path / "film.mjpeg", decoder=decoder)), pictures)
    (tmp_path / "film.mjpeg").write_bytes(b"begin\xff\xd8 " + b"\r\n--frame\r\n\xff\r\n".join(jpegs) + b"\xff\xd8end")
    with rjpeg.VideoReader(tmp_path / "film.mjpeg", decoder=decoder) as capture:
        assert same(list(capture), pictures)


def test_one_file_is_a_film_of_one_frame(jpegs, pictures, decoder, tmp_path):
    (tmp_path / "one.jpg").write_bytes(jpegs[3])
    assert same(list(rjpeg.VideoReader(tmp_path / "one.jpg", decoder=decoder)), pictures[3:4])


@given(st.lists(st.integers(1, 700), min_size=1, max_size=200))
def test_files_are_the_same_in_whatever_pieces_they_come(jpegs, lengths):
    whole = b"x\xff".join(jpegs)
    splitter, found = Splitter(2**20), []
    at, turn = 0, 0
    while at < len(whole):
        found += splitter.feed(whole[at : at + lengths[turn % len(lengths)]])
        at, turn = at + lengths[turn % len(lengths)], turn + 1
    assert found == jpegs
    assert splitter.finish() == []


def test_a_damaged_frame_is_named_and_the_others_are_read(jpegs, pictures, decoder, tmp_path):
    cut = jpegs[3][:-400]
    (tmp_path / "film.mjpeg").write_bytes(jpegs[0] + cut + jpegs[1] + cut)
    capture = rjpeg.VideoReader(tmp_path / "film.mjpeg", decoder=decoder)
    assert capture.read()[0]
    with pytest.raises(rjpeg.JpegError, match=r"frame 1 of .*film\.mjpeg: "):
        capture.read()
    np.testing.assert_array_equal(capture.read()[1], pictures[1])
    with pytest.raises(rjpeg.JpegError, match="frame 3 of "):
        capture.read()
    assert capture.read() == (False, None)


def test_a_frame_of_another_model_is_an_error_of_its_marker(jpegs, decoder, tmp_path):
    at = jpegs[0].index(b"RJ") + 3
    (tmp_path / "a.jpg").write_bytes(jpegs[0][:at] + b"\0\0" + jpegs[0][at + 2 :])
    with (
        rjpeg.VideoReader(tmp_path / "a.jpg", decoder=decoder) as capture,
        pytest.raises(rjpeg.MarkerError, match=r"frame 0 of .*made with model 0000"),
    ):
        capture.read()


@pytest.mark.parametrize("place", ["film", "folder"])
def test_a_file_that_is_too_large_is_passed_over_with_an_error(jpegs, decoder, pictures, folder, tmp_path, place):
    (tmp_path / "film").write_bytes(b"".join(jpegs))
    limit = sorted(map(len, jpegs))[-2]
    capture = rjpeg.VideoReader(folder if place == "folder" else tmp_path / "film", decoder=decoder, max_bytes=limit)
    frames = []
    for jpeg in jpegs:
        if len(jpeg) > limit:
            with pytest.raises(rjpeg.JpegError, match=f"larger than {limit} bytes"):
                capture.read()
        else:
            frames.append(capture.read()[1])
    assert capture.read() == (False, None)
    assert same(frames, [picture for picture, jpeg in zip(pictures, jpegs, strict=True) if len(jpeg) <= limit])


def test_a_file_without_an_end_takes_no_more_memory_than_the_limit(jpegs):
    splitter = Splitter(5000)
    endless = b"\xff\xd8\xff\xe0" + b"\0\x10" + bytes(14)
    assert splitter.feed(endless) == []
    errors = [error for _ in range(100) for error in splitter.feed(b"\x55" * 3000)]
    assert [type(error) for error in errors] == [rjpeg.JpegError]
    assert len(splitter._buffer) <= 5000
    assert splitter.feed(b"\xff\xd9" + jpegs[2]) == [jpegs[2]]


def test_a_file_that_vanishes_is_an_error_and_the_others_are_read(folder, decoder, pictures):
    capture = rjpeg.VideoReader(folder, decoder=decoder)
    (folder / "9.jpg").unlink()
    capture.read()
    with pytest.raises(rjpeg.StorageError, match=r"9\.jpg"):
        capture.read()
    assert same(list(capture), pictures[2:])


def test_what_is_not_there_or_holds_no_frame_is_named(tmp_path, decoder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no frame")
    for source, error, said in (
        (tmp_path / "nowhere", rjpeg.StorageError, "can't read .*nowhere"),
        (tmp_path / "empty", rjpeg.StorageError, "holds no picture"),
        ("rtsp://127.0.0.1/", rjpeg.InputError, "rtsp://127.0.0.1/.*http"),
        ("http://127.0.0.1:1/", rjpeg.CameraError, "can't be opened: .*refused"),
    ):
        with pytest.raises(error, match=said):
            rjpeg.VideoReader(source, decoder=decoder)
    with pytest.raises(rjpeg.CameraError, match="text holds no JPEG file"):
        rjpeg.VideoReader(tmp_path / "text", decoder=decoder).read()


class Streamer(http.server.BaseHTTPRequestHandler):
    """A stream of multipart/x-mixed-replace, for whoever has the token."""

    files: list[bytes]
    cut = 0
    stall: threading.Event | None = None

    def do_GET(self):
        if self.path == "/elsewhere":
            self.send_response(302)
            self.send_header("Location", "/stream")
            self.end_headers()
            return
        if self.headers["Authorization"] != "Bearer s3cret":
            self.send_error(401)
            return
        body = b"".join(b"--b\r\nContent-Type: image/jpeg\r\n\r\n" + jpeg + b"\r\n" for jpeg in self.files) + b"--b--"
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=b")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) - self.cut])
        if self.stall is not None:
            self.stall.wait(20)

    def log_message(self, *_):
        pass


@pytest.fixture
def stream(jpegs):
    """(handler class, URL)"""
    handler = type("Handler", (Streamer,), {"files": jpegs})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield handler, f"http://127.0.0.1:{server.server_port}/stream"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_stream_is_read_as_it_comes(stream, decoder, pictures):
    _, url = stream
    with rjpeg.VideoReader(url, decoder=decoder, token="s3cret") as capture:
        assert same(list(capture), pictures)


def test_a_token_is_needed_and_goes_to_nobody_else(stream, decoder):
    _, url = stream
    for place, token in ((url, None), (url, "wrong"), (url.replace("stream", "elsewhere"), "s3cret")):
        with pytest.raises(rjpeg.CameraError, match="it answered 401"):
            rjpeg.VideoReader(place, decoder=decoder, token=token)


def test_a_stream_that_breaks_off_gives_what_came_whole_and_an_error(stream, decoder, jpegs, pictures):
    handler, url = stream
    handler.cut = len(jpegs[-1]) + 200
    capture = rjpeg.VideoReader(url, decoder=decoder, token="s3cret")
    assert same([capture.read()[1] for _ in range(3)], pictures[:3])
    with pytest.raises(rjpeg.JpegError, match=r"frame 3 of http://.*: damaged"):
        capture.read()
    assert capture.read() == (False, None)


@pytest.mark.slow
def test_a_stream_that_falls_silent_is_an_error_in_time(stream, decoder, jpegs, pictures):
    handler, url = stream
    handler.cut, handler.stall = len(jpegs[-1]), threading.Event()
    with rjpeg.VideoReader(url, decoder=decoder, token="s3cret", timeout=0.5) as capture:
        for picture in pictures[:-1]:
            np.testing.assert_array_equal(capture.read()[1], picture)
        with pytest.raises(rjpeg.CameraError, match="gives no more frames: timed out"):
            capture.read()
        assert capture.read() == (False, None)
    handler.stall.set()


def test_an_answer_that_is_no_http_is_an_error(decoder):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer():
            with contextlib.suppress(OSError):
                connection, _ = listening.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"what?\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(rjpeg.CameraError, match="can't be opened"):
            rjpeg.VideoReader(f"http://127.0.0.1:{listening.getsockname()[1]}/", decoder=decoder)
        thread.join()


def test_a_proxy_of_the_environment_is_not_for_this_machine(stream, decoder, pictures, monkeypatch):
    _, url = stream
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with rjpeg.VideoReader(url, decoder=decoder, token="s3cret") as capture:
        assert same(list(capture), pictures)
    with pytest.raises(rjpeg.CameraError, match=r"can't be opened: .*refused"):
        rjpeg.VideoReader("http://camera.example/", decoder=decoder)


def test_an_authority_of_ones_own_is_trusted_and_no_other(stream, decoder, pictures, tmp_path):
    handler, _ = stream
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "ca.pem"]
    subprocess.run([*command.split(), *names], cwd=tmp_path, check=True, capture_output=True, timeout=30)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ca.pem", tmp_path / "key.pem")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    url = f"https://127.0.0.1:{server.server_port}/stream"
    try:
        with rjpeg.VideoReader(url, decoder=decoder, token="s3cret", ca_file=str(tmp_path / "ca.pem")) as capture:
            assert same(list(capture), pictures)
        with pytest.raises(rjpeg.CameraError, match="CERTIFICATE_VERIFY_FAILED"):
            rjpeg.VideoReader(url, decoder=decoder, token="s3cret")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    with pytest.raises(ConfigError, match="can't read ca_file nowhere"):
        rjpeg.VideoReader(url, decoder=decoder, ca_file="nowhere")


def test_parts_that_hold_two_pictures_are_one_frame(stream, decoder, jpegs, pictures):
    handler, url = stream
    handler.files = [jpeg + jpegs[-1] for jpeg in jpegs]
    with rjpeg.VideoReader(url, decoder=decoder, token="s3cret") as capture:
        assert same(list(capture), pictures)


def test_a_source_may_be_opened_later_and_another_after_it(folder, decoder, jpegs, pictures, tmp_path):
    capture = rjpeg.VideoReader(decoder=decoder)
    assert not capture.isOpened()
    assert capture.read() == (False, None)
    assert capture.open(folder) is True
    assert same(list(capture), pictures)
    (tmp_path / "one.jpg").write_bytes(jpegs[2])
    assert capture.open(tmp_path / "one.jpg")
    assert capture.get(cv2.CAP_PROP_POS_FRAMES) == 0
    assert same(list(capture), pictures[2:3])
    with pytest.raises(rjpeg.StorageError, match="nowhere"):
        capture.open(tmp_path / "nowhere")
    assert not capture.isOpened()


@pytest.mark.parametrize("place", ["film", "folder"])
def test_a_frame_is_gone_to_by_its_number(folder, decoder, jpegs, pictures, tmp_path, place):
    (tmp_path / "film").write_bytes(b"".join(jpegs))
    with rjpeg.VideoReader(folder if place == "folder" else tmp_path / "film", decoder=decoder) as capture:
        for number in (3, 0, 4, 4, 1):
            assert capture.set(cv2.CAP_PROP_POS_FRAMES, number)
            assert capture.get(cv2.CAP_PROP_POS_FRAMES) == number
            np.testing.assert_array_equal(capture.read()[1], pictures[number])
        assert capture.set(cv2.CAP_PROP_POS_FRAMES, 99)
        assert capture.read() == (False, None)
        assert not capture.set(cv2.CAP_PROP_POS_FRAMES, -1)
        assert not capture.set(cv2.CAP_PROP_FPS, 5)


def test_a_frame_of_a_stream_is_not_gone_to(stream, decoder):
    with rjpeg.VideoReader(stream[1], decoder=decoder, token="s3cret") as capture:
        assert not capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
        assert capture.read()[0]


def test_a_pipe_is_read_while_somebody_writes_and_given_up_when_nobody_does(
    jpegs, decoder, pictures, tmp_path, monkeypatch
):
    monkeypatch.setattr(_files, "PIPE_SECONDS", 0.2)
    os.mkfifo(tmp_path / "pipe")
    capture = rjpeg.VideoReader(tmp_path / "pipe", decoder=decoder)
    assert not capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
    with pytest.raises(rjpeg.CameraError, match=r"nobody wrote to this pipe for 0\.2 s"):
        capture.read()
    capture.release()
    with pytest.raises(rjpeg.StorageError, match=r"can't read .*pipe: nobody wrote"):
        _files.read_whole(tmp_path / "pipe")
    capture.open(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(b"".join(jpegs)))
    writer.start()
    assert same(list(capture), pictures)
    writer.join()


# Streams of keys, patches and followers


@pytest.fixture(scope="module")
def coded():
    """A key, followers and patches."""
    return coded_film(50, 75, 9)


@pytest.fixture(scope="module")
def shown(coded, decoder):
    stream = rjpeg.StreamDecoder(decoder)
    return [stream.decode(each.jpeg) for each in coded]


def film_of(coded, tmp_path):
    path = tmp_path / "film.mjpeg"
    path.write_bytes(b"".join(each.jpeg for each in coded))
    return path


def test_followers_are_decoded_with_the_keys_before_them(coded, shown, decoder, tmp_path):
    with rjpeg.VideoReader(film_of(coded, tmp_path), decoder=decoder) as capture:
        assert same(list(capture), shown)
        assert capture.skipped == 0


def test_a_follower_is_decoded_though_its_key_and_patch_were_only_grabbed(coded, shown, decoder, tmp_path):
    with rjpeg.VideoReader(film_of(coded, tmp_path), decoder=decoder) as capture:
        for _ in coded:
            assert capture.grab()
        assert coded[-1].base_id != coded[-1].key_id
        assert (capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (75, 50)
        np.testing.assert_array_equal(capture.retrieve()[1], shown[-1])


def test_a_source_joined_midway_begins_with_its_next_key(coded, shown, decoder, tmp_path, caplog):
    with rjpeg.VideoReader(film_of(coded[1:3] + coded, tmp_path), decoder=decoder) as capture:
        assert capture.get(cv2.CAP_PROP_FRAME_WIDTH) == 0
        assert same(list(capture), shown)
        assert capture.skipped == 2
    assert caplog.text.count("is skipped") == 1
    assert coded[0].id in caplog.text


def test_followers_without_any_key_are_an_error_at_the_end(coded, decoder, tmp_path):
    with rjpeg.VideoReader(film_of(coded[1:3], tmp_path), decoder=decoder) as capture:
        with pytest.raises(rjpeg.KeyMissingError, match=coded[0].id):
            capture.read()
        assert capture.skipped == 2
        assert capture.read() == (False, None)


def test_a_damaged_key_is_one_error_and_its_followers_are_skipped(coded, shown, decoder, tmp_path):
    damaged = coded[0].jpeg[:-60]
    (tmp_path / "film").write_bytes(damaged + coded[1].jpeg + b"".join(each.jpeg for each in coded))
    with rjpeg.VideoReader(tmp_path / "film", decoder=decoder) as capture:
        with pytest.raises(rjpeg.JpegError, match="frame 0 of"):
            capture.read()
        assert same(list(capture), shown)
        assert capture.skipped == 1


def test_a_file_that_refers_to_itself_is_skipped_like_others(coded, decoder, tmp_path):
    patch = next(each.jpeg for each in coded if each.kind == "patch")
    at = patch.index(b"RJ") + 3
    itself = patch[:at] + patch[at + 3 : at + 6] * 2 + patch[at + 6 :]
    (tmp_path / "film").write_bytes(itself * 2)
    with (
        rjpeg.VideoReader(tmp_path / "film", decoder=decoder) as capture,
        pytest.raises(rjpeg.KeyMissingError),
    ):
        capture.read()
