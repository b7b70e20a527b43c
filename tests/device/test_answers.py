"""What network cameras answer: odd parts, errors, pages, questions for a password. `VideoReader` reads them, too."""

import contextlib
import hashlib
import http.server
import itertools
import re
import threading
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from device.sources import video
from device.sources.video import StreamSource
from rjpeg import VideoReader
from rjpeg.errors import CameraError
from tests.device.films import moving

SIZE = (64, 48)
FRAMES = 4
PAGE = b"<!DOCTYPE html>\n<html><body><form action='login.cgi'></form></body></html>"
SECRET = "p\N{LATIN SMALL LETTER E WITH ACUTE}ss"


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """Whatever a slow machine takes for opening, no picture is left out as one of before."""
    monkeypatch.setattr(video, "FRESH_SECONDS", 60)


@pytest.fixture(scope="module")
def jpegs():
    chelsea = cv2.imread("calibration_data/chelsea.jpg")
    return [cv2.imencode(".jpg", picture)[1].tobytes() for picture in moving(chelsea, SIZE, FRAMES)]


class Answer(NamedTuple):
    """What a camera answers. `headers` may name one several times; without a length, the connection ends with it."""

    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    status: int = 200
    has_length: bool = True


@contextlib.contextmanager
def camera(answer: Callable[[http.server.BaseHTTPRequestHandler], Answer]):
    """A camera that answers every request so; gives host and port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body, headers, status, has_length = answer(self)
            self.send_response_only(status, "Made up")
            for name, value in headers:
                self.send_header(name, value)
            if has_length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def shown(address: str, count: int = FRAMES) -> list[np.ndarray]:
    """Frames as a device's source reads them."""
    with contextlib.closing(StreamSource(f"http://{address}/x", 5.0, 50)) as source:
        return [source.read().pixels for _ in range(count)]


def refusal(address: str) -> tuple[str, str]:
    """Why the device doesn't open it, and why `VideoReader` doesn't read it."""
    with pytest.raises(CameraError) as device:
        StreamSource(f"http://{address}/x", 2.0)
    with pytest.raises(CameraError) as reader, VideoReader(f"http://{address}/x", timeout=2) as frames:
        frames.read()
    texts = str(device.value), str(reader.value)
    assert all("\n" not in text for text in texts)
    return texts


def are(frames, jpegs) -> bool:
    pairs = zip(frames, (cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) for jpeg in jpegs), strict=True)
    return all(frame.shape == other.shape and np.abs(frame.astype(int) - other).max() <= 1 for frame, other in pairs)


def part(jpeg: bytes, *, newline: bytes = b"\r\n", boundary: bytes = b"--frame", length: bool = True) -> bytes:
    counted = b"Content-Length: %d%s" % (len(jpeg), newline) if length else b""
    return boundary + newline + b"Content-Type: image/jpeg" + newline + counted + newline + jpeg + newline


# --- parts ---------------------------------------------------------------------------------------------------------

COMMENT = b"--frame\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\nkeep-alive\r\n"
STREAMS = {
    "quoted": ('multipart/x-mixed-replace; boundary="frame"', part),
    "quoted with dashes": ('multipart/x-mixed-replace; boundary="--frame"', part),
    "four dashes": ("multipart/x-mixed-replace;boundary=--frame", lambda jpeg: part(jpeg, boundary=b"----frame")),
    "capitals": ("MULTIPART/X-Mixed-Replace;Boundary=frame", part),
    "line feeds": ("multipart/x-mixed-replace;boundary=frame", lambda jpeg: part(jpeg, newline=b"\n", length=False)),
    "preamble": ("multipart/x-mixed-replace;boundary=frame", lambda jpeg: b"a comment: of a kind\r\n\r\n" + part(jpeg)),
    "comments": ("multipart/x-mixed-replace;boundary=frame", lambda jpeg: part(jpeg) + COMMENT),
    "no line before the boundary": (
        "multipart/x-mixed-replace;boundary=frame",
        lambda jpeg: part(jpeg, length=False).removesuffix(b"\r\n"),
    ),
    "length too short": (
        "multipart/x-mixed-replace;boundary=frame",
        lambda jpeg: part(jpeg).replace(b": %d" % len(jpeg), b": %d" % (len(jpeg) - 2)),
    ),
    "length of nothing": (
        "multipart/x-mixed-replace;boundary=frame",
        lambda jpeg: part(jpeg).replace(b": %d" % len(jpeg), b": 0"),
    ),
    "one picture after another": ("image/jpeg", bytes),
}


@pytest.mark.parametrize("name", STREAMS)
def test_all_frames_are_read_however_a_camera_parts_them(jpegs, name):
    kind, parted = STREAMS[name]
    answer = Answer(b"".join(map(parted, jpegs)), (("Content-Type", kind),), has_length=False)
    with camera(lambda _: answer) as address:
        assert are(shown(address), jpegs)
        with VideoReader(f"http://{address}/x") as reader:
            assert are(list(reader), jpegs)


def test_a_picture_without_a_length_is_one_of_a_snapshot_camera(jpegs):
    numbers = itertools.cycle(jpegs)
    kind = (("Content-Type", "image/jpeg"),)
    with camera(lambda _: Answer(next(numbers), kind, has_length=False)) as address:
        assert are(shown(address), jpegs)


# --- what is no picture --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer(PAGE, (("Content-Type", "text/html"),)), "it answers with a web page, maybe one to log in"),
        (Answer(b"\n" + PAGE, (("Content-Type", "image/jpeg"),)), "it answers with a web page"),
        (Answer(b'<?xml version="1.0"?><html/>', (("Content-Type", "text/html"),)), "it answers with a web page"),
        (Answer(b'{"error": 1}', (("Content-Type", "application/json"),)), "it answers with JSON"),
        (Answer(), "it answers with nothing"),
        (Answer(status=204), "it answers with nothing"),
        (
            Answer(b"\x1f\x8b", (("Content-Type", "image/jpeg"), ("Content-Encoding", "gzip"))),
            r"is compressed \(gzip\)",
        ),
        (Answer(status=404), "404"),
        (Answer(PAGE, status=503), "503"),
        (Answer(status=520), "520"),
        (Answer(status=999), "999"),
        (Answer(status=302, headers=(("Location", "/x"),)), "302"),
        (Answer(status=302, headers=(("Location", "file:///etc/passwd"),)), "302"),
        (Answer(status=302, headers=(("Location", "ftp://127.0.0.1/x"),)), "it redirects to FTP, expected HTTP"),
    ],
)
def test_what_a_camera_answers_instead_of_pictures_is_said_in_a_line(answer, says):
    with camera(lambda _: answer) as address:
        for text in refusal(address):
            assert re.search(says, text), text


def test_a_snapshot_camera_that_wants_a_login_later_is_an_error_at_once(jpegs):
    bodies = itertools.chain([jpegs[0]], itertools.repeat(PAGE))
    with (
        camera(lambda _: Answer(next(bodies), (("Content-Type", "image/jpeg"),))) as address,
        contextlib.closing(StreamSource(f"http://{address}/x", 60.0, 50)) as source,
    ):
        source.read()
        with pytest.raises(CameraError, match="gives no picture: it answers with a web page"):
            source.read()


# --- passwords -----------------------------------------------------------------------------------------------------

HASHES = {"MD5": hashlib.md5, "md5": hashlib.md5, "SHA-256": hashlib.sha256, "": hashlib.md5}


def challenge(algorithm: str, qop: str | None = "auth") -> str:
    named = f", algorithm={algorithm}" if algorithm else ""
    return 'Digest realm="camera", nonce="n"' + named + (f', qop="{qop}"' if qop else "")


def allows(request: http.server.BaseHTTPRequestHandler, algorithm: str) -> bool:
    """RFC 7616, 3.4.1."""
    told = request.headers.get("Authorization", "")
    fields = {name: value.strip('"') for name, value in re.findall(r'(\w+)=("[^"]*"|[^,\s]*)', told)}
    if not told.startswith("Digest ") or fields.get("algorithm", "MD5").lower() != (algorithm or "MD5").lower():
        return False

    def digest(*texts: str) -> str:
        return HASHES[algorithm](":".join(texts).encode()).hexdigest()

    middle = [fields["nc"], fields["cnonce"], "auth"] if "qop" in fields else []
    ours = digest(digest("me", "camera", SECRET), "n", *middle, digest("GET", request.path))
    return fields["response"] == ours


@pytest.mark.parametrize(
    ("algorithm", "offers"),
    [
        ("MD5", [challenge("MD5")]),
        ("md5", [challenge("md5", "auth,auth-int")]),
        ("", [challenge("", None)]),
        ("SHA-256", [challenge("SHA-256")]),
        ("SHA-256", [challenge("MD5"), challenge("SHA-256")]),
        ("MD5", ['Basic realm="camera"', challenge("SHA-512-256"), challenge("MD5")]),
        ("MD5", ["Negotiate", challenge("MD5")]),
    ],
)
def test_a_password_is_shown_by_the_best_digest_that_is_offered(jpegs, algorithm, offers):
    numbers = itertools.cycle(jpegs)

    def answer(request):
        if not allows(request, algorithm):
            return Answer(b"no", tuple(("WWW-Authenticate", offer) for offer in offers), 401)
        return Answer(next(numbers), (("Content-Type", "image/jpeg"),))

    with camera(answer) as address:
        assert are(shown(f"me:p%C3%A9ss@{address}"), jpegs)
        with VideoReader(f"http://me:p%C3%A9ss@{address}/x") as reader:
            assert are(reader, jpegs[:1])
        for text in refusal(f"me:mistaken@{address}"):
            assert "401" in text
            assert "mistaken" not in text


def test_a_password_is_not_shown_to_whom_an_answer_redirects_to(jpegs):
    told = []

    def other(request):
        told.append(request.headers.get("Authorization"))
        return Answer(jpegs[0], (("Content-Type", "image/jpeg"),))

    with camera(other) as elsewhere:

        def answer(request):
            if request.headers.get("Authorization") is None:
                return Answer(status=401, headers=(("WWW-Authenticate", 'Basic realm="camera"'),))
            return Answer(status=302, headers=(("Location", f"http://{elsewhere}/y"),))

        with camera(answer) as address:
            assert are(shown(f"me:secret@{address}", 1), jpegs[:1])
            with VideoReader(f"http://me:secret@{address}/x") as reader:
                assert are(reader, jpegs[:1])
    assert told
    assert set(told) == {None}
