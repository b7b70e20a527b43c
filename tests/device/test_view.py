"""The local page, and what the network may do to it."""

import base64
import contextlib
import fcntl
import json
import logging
import os
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

import rjpeg
from device import page_access, page_server
from device import view as view_module
from device.metrics import Metrics
from device.page_server import MAX_CONNECTIONS, MAX_STREAMS, parse_address
from device.view import View
from rjpeg.errors import ConfigError
from tests.device.linked import follower
from tests.device.scenes import scene
from tests.waiting import until

ATTACK = "<img src=x onerror=\"document.title='owned'\"></script><script>document.title='owned'</script>"


def jpeg(gray):
    return cv2.imencode(".jpg", np.full((48, 64, 3), gray, np.uint8))[1].tobytes()


@pytest.fixture
def metrics():
    return Metrics(["yard"])


@pytest.fixture
def view(metrics):
    view = View("127.0.0.1:0", None, metrics, lambda: {"cameras": {"yard": {"error": ATTACK}}, "rate": float("nan")})
    view.start()
    yield view
    view.close()


@pytest.fixture
def guarded(metrics):
    """As if it could be reached from elsewhere; with a password."""
    view = View("0.0.0.0:0", "open sesame", metrics, dict)
    view.start()
    yield f"http://127.0.0.1:{port_of(view)}"
    view.close()


def port_of(view):
    return int(view.address.rpartition(":")[2])


def connect(view):
    connection = socket.create_connection(("127.0.0.1", port_of(view)), timeout=10)
    connection.settimeout(10)
    return connection


def ask(view, request):
    """Everything that is answered to some bytes."""
    with connect(view) as connection:
        connection.sendall(request)
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except ConnectionResetError:
            pass
        return answer


def read_until(connection, wanted, answer=b""):
    while wanted not in answer:
        part = connection.recv(65536)
        assert part, answer[:500]
        answer += part
    return answer


def open_stream(view, camera="yard"):
    connection = connect(view)
    connection.sendall(f"GET /cameras/{camera}/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return connection


def test_the_page_holds_everything_it_needs(view):
    answer = requests.get(view.address, timeout=10)
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    for part in ("page.css", "page.js"):
        assert part in answer.text
        assert requests.get(f"{view.address}/{part}", timeout=10).ok
    assert "//" not in answer.text.replace("</", "")  # no other host


def test_every_answer_keeps_the_browser_on_a_short_leash(view):
    for path in ("/", "/status", "/metrics", "/nothing", "/cameras/yard/frame.jpg"):
        headers = requests.get(view.address + path, timeout=10).headers
        assert headers["Content-Security-Policy"].startswith("default-src 'none';")
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_the_status_joins_what_is_counted_with_what_the_program_says(view, metrics):
    metrics.camera("yard").captured()
    view.show("door", jpeg(0))
    answer = requests.get(view.address + "/status", timeout=10)
    assert answer.headers["Content-Type"] == "application/json"
    status = answer.json()
    assert status["cameras"]["yard"]["captured"] == 1
    assert status["cameras"]["yard"]["error"] == ATTACK
    assert "door" in status["cameras"]
    assert status["uptime_seconds"] >= 0
    assert status["rate"] is None


def test_prometheus_reads_the_metrics(view, metrics):
    metrics.camera("yard").captured()
    answer = requests.get(view.address + "/metrics", timeout=10)
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert families["rjpeg_frames_captured"].samples[0].value == 1


def test_the_newest_picture_is_there_as_it_was_sent(view):
    url = view.address + "/cameras/yard/frame.jpg"
    assert requests.get(url, timeout=10).status_code == 503
    view.show("yard", jpeg(10))
    view.show("yard", jpeg(20))
    answer = requests.get(url, timeout=10)
    assert (answer.content, answer.headers["Content-Type"]) == (jpeg(20), "image/jpeg")
    assert requests.head(url, timeout=10).headers["Content-Length"] == str(len(jpeg(20)))
    assert requests.head(url, timeout=10).content == b""


def test_a_stream_gives_every_new_picture_and_with_it_the_headers_of_the_next(view):
    head_of_part = b"\r\n--rjpeg-frame\r\nContent-Type: image/jpeg\r\n\r\n"
    pictures = [jpeg(gray) for gray in (0, 50, 100)]
    answer = b""
    with open_stream(view) as stream:
        for picture in pictures:
            view.show("yard", picture)
            answer = read_until(stream, picture + head_of_part, answer)
    head, *parts = answer.split(head_of_part)
    assert b"multipart/x-mixed-replace; boundary=rjpeg-frame" in head
    assert parts == [*pictures, b""]


def test_a_follower_is_shown_as_the_picture_that_it_stands_for(view):
    stream = rjpeg.StreamEncoder()
    frames = [scene(number, width=160, height=128) for number in range(6)]
    url = view.address + "/cameras/yard/frame.jpg"
    for frame in frames:
        coded = stream.encode(frame, quality=60)
        view.show("yard", coded.jpeg)
    assert coded.kind != "key"
    assert requests.get(url + "?sent").content == coded.jpeg
    shown = cv2.imdecode(np.frombuffer(requests.get(url + "?3").content, np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == frames[-1].shape
    assert cv2.PSNR(shown, frames[-1]) > 28
    assert cv2.PSNR(shown, frames[-1]) > cv2.PSNR(shown, frames[0])


def test_a_follower_whose_key_nobody_saw_is_shown_as_it_is(view):
    view.show("yard", follower("aaaaaa"))
    assert requests.get(view.address + "/cameras/yard/frame.jpg").content == follower("aaaaaa")


def test_opencv_plays_the_stream(view):
    stop = threading.Event()

    def play():
        while not stop.is_set():
            view.show("yard", jpeg(100))
            stop.wait(0.02)

    thread = threading.Thread(target=play)
    thread.start()
    try:
        player = cv2.VideoCapture(f"{view.address}/cameras/yard/stream", cv2.CAP_FFMPEG)
        frames = [player.read() for _ in range(3)]
        player.release()
    finally:
        stop.set()
        thread.join()
    assert all(read and abs(int(frame.mean()) - 100) < 3 for read, frame in frames)


@pytest.mark.slow
def test_an_unchanged_picture_comes_again(view, monkeypatch):
    monkeypatch.setattr(view_module, "REPEAT_SECONDS", 0.0)
    view.show("yard", jpeg(7))
    with open_stream(view) as stream:
        answer = b""
        while answer.count(jpeg(7)) < 2:
            answer += stream.recv(65536)


def test_a_slow_viewer_misses_pictures_and_holds_nothing_up(view):
    large = bytes(300_000)
    with open_stream(view) as stream:
        read_until(stream, b"\r\n\r\n")
        started = time.monotonic()
        for _ in range(500):
            view.show("yard", large)
        assert time.monotonic() - started < 2
        view.show("yard", b"the last")
        # of 150 MB only what fits into the connection has been kept for it
        received = len(read_until(stream, b"the last"))
        assert received < 10_000_000


@pytest.mark.slow
def test_at_most_eight_streams_and_a_place_is_free_again_once_a_viewer_leaves(view):
    streams = [open_stream(view) for _ in range(MAX_STREAMS)]
    for stream in streams:
        read_until(stream, b"200 OK")
    url = view.address + "/cameras/yard/stream"
    assert requests.get(url, timeout=10).status_code == 503
    assert requests.get(view.address + "/status", timeout=10).ok
    for stream in streams:
        stream.close()
    until(lambda: requests.head(url, timeout=10).status_code == 200)


@pytest.mark.slow
def test_a_hundred_connections_are_turned_away_beyond_sixteen(view):
    connections = [connect(view) for _ in range(100)]
    try:
        answers = []
        for connection in connections[MAX_CONNECTIONS:]:
            try:
                answers.append(connection.recv(100)[:12])
            except ConnectionResetError:
                answers.append(b"")
        assert answers.count(b"HTTP/1.0 503") >= 60
        assert view.connections == MAX_CONNECTIONS
    finally:
        for connection in connections:
            connection.close()
    until(lambda: requests.get(view.address + "/status", timeout=10).ok)


@pytest.mark.slow
def test_a_request_that_trickles_in_is_given_up(view, monkeypatch):
    monkeypatch.setattr(page_server, "REQUEST_SECONDS", 0.5)
    with connect(view) as connection:
        started = time.monotonic()
        answer = b""
        connection.settimeout(0.05)
        while time.monotonic() - started < 10:
            try:
                connection.sendall(b"G")
                answer += (part := connection.recv(4096))
                if not part:
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        assert time.monotonic() - started < 3
        assert answer.startswith(b"HTTP/1.0 408")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 200 + b"\r\n", b"431"),
        (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", b"505"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"<script>alert(1)</script> / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"405"),
        (b"POST /status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello", b"405"),
        (b"DELETE /cameras/yard/frame.jpg HTTP/1.1\r\nHost: localhost\r\n\r\n", b"405"),
        (b"GET / HTTP/1.1\r\n\r\n", b"421"),
        (b"GET /status HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"421"),
        (b"GET /status HTTP/1.1\r\nHost: 127.0.0.1.evil.example:80\r\n\r\n", b"421"),
        (b"GET /status HTTP/1.1\r\nHost: localhost:evil\r\n\r\n", b"421"),
        (b"GET /status HTTP/1.1\r\nHost: LOCALHOST:1\r\n\r\n", b"200"),
        (b"GET /status HTTP/1.1\r\nHost: [::1]:1\r\n\r\n", b"200"),
        (b"GET /../view.py HTTP/1.1\r\nHost: localhost\r\n\r\n", b"404"),
        (b"GET /page/../../config.yaml HTTP/1.1\r\nHost: localhost\r\n\r\n", b"404"),
        (b"GET /%2e%2e/view.py HTTP/1.1\r\nHost: localhost\r\n\r\n", b"404"),
        (b"GET //evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n", b"404"),
        (b"GET http://evil.example/status HTTP/1.1\r\nHost: localhost\r\n\r\n", b"404"),
        (b"GET /cameras/../frame.jpg HTTP/1.1\r\nHost: localhost\r\n\r\n", b"404"),
        (b"GET /cameras/nobody/stream HTTP/1.1\r\nHost: localhost\r\n\r\n", b"404"),
        (b"GET /cameras/yard%00/frame.jpg HTTP/1.1\r\nHost: localhost\r\n\r\n", b"404"),
        (b"GET /cameras/<script>alert(1)</script>/frame.jpg HTTP/1.1\r\nHost: localhost\r\n\r\n", b"404"),
    ],
    ids=lambda value: None if len(value) > 3 else value.decode(),
)
def test_odd_requests_get_a_short_answer_that_repeats_nothing(view, request_bytes, status):
    answer = ask(view, request_bytes)
    assert answer.startswith(b"HTTP/1.0 " + status + b" ")
    assert b"alert" not in answer
    assert b"evil" not in answer
    assert requests.get(view.address + "/healthz", timeout=10).text == "ok\n"


def test_a_viewer_that_goes_away_leaves_no_trace(view):
    for request in (b"", b"GET", b"GET / HTTP/1.1\r\nHost: loc"):
        with connect(view) as connection:
            connection.sendall(request)
    until(lambda: view.connections == 0)


def test_the_password_is_needed_for_everything_but_the_health(guarded):
    for path in ("/", "/page.js", "/status", "/metrics", "/cameras/yard/frame.jpg", "/cameras/yard/stream"):
        answer = requests.get(guarded + path, timeout=10)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith('Basic realm="rjpeg')
    assert requests.get(guarded + "/healthz", timeout=10).ok
    for wrong in [("rjpeg", "open"), ("rjpeg", ""), ("admin", "open sesame"), ("", "open sesame")]:
        assert requests.get(guarded + "/status", auth=wrong, timeout=10).status_code == 401
    for wrong in ("Basic !!!", "Basic", "Bearer open sesame", "Basic ö", "\x00"):
        headers = {"Authorization": wrong.encode("latin-1")}
        assert requests.get(guarded + "/status", headers=headers, timeout=10).status_code in (400, 401)
    assert requests.get(guarded + "/status", auth=("rjpeg", "open sesame"), timeout=10).ok


def test_guessing_passwords_is_slow(guarded, monkeypatch, caplog):
    caplog.set_level(logging.ERROR)
    for _ in range(page_access.MAX_FAILURES):
        assert requests.get(guarded, auth=("rjpeg", "guess"), timeout=10).status_code == 401
    answer = requests.get(guarded, auth=("rjpeg", "open sesame"), timeout=10)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "60")
    monkeypatch.setattr(page_access, "FAILURE_SECONDS", 0.0)
    assert requests.get(guarded, auth=("rjpeg", "open sesame"), timeout=10).ok


@pytest.mark.parametrize("listen", ["0.0.0.0:0", ":0", "[::]:0"])
@pytest.mark.parametrize(("password", "told"), [(None, "needs view.password_file"), ("short", "at least 8")])
def test_other_machines_need_a_password_that_is_not_soon_guessed(metrics, listen, password, told):
    if listen == "[::]:0" and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with pytest.raises(ConfigError, match=told):
        View(listen, password, metrics, dict)


@pytest.mark.parametrize("listen", ["localhost", "localhost:", "localhost:70000", "localhost:http", ""])
def test_an_address_that_is_none_is_an_error(listen):
    with pytest.raises(ConfigError, match=r"expected HOST:PORT"):
        parse_address(listen)


def test_an_address_that_is_taken_is_an_error(view, metrics):
    with pytest.raises(ConfigError, match=r"can't listen on .*Address already in use"):
        View(view.address.removeprefix("http://"), None, metrics, dict)


def test_a_name_that_leads_nowhere_is_an_error(metrics):
    with pytest.raises(ConfigError, match=r"can't listen on no-such-host\.invalid:80"):
        View("no-such-host.invalid:80", "open sesame", metrics, dict)


def test_a_program_that_cannot_tell_its_state_is_not_healthy(metrics, caplog):
    caplog.set_level(logging.CRITICAL)
    said = {"ok": False}
    view = View("127.0.0.1:0", None, metrics, lambda: said.get("state", said))
    view.start()
    try:
        assert requests.get(view.address + "/healthz", timeout=10).status_code == 503
        said["state"] = None
        assert requests.get(view.address + "/healthz", timeout=10).status_code == 503
        assert requests.get(view.address + "/status", timeout=10).status_code == 500
    finally:
        view.close()


def test_closing_takes_less_than_a_second_whoever_is_still_watching(metrics):
    view = View("127.0.0.1:0", None, metrics, dict)
    view.start()
    view.show("yard", bytes(3_000_000))
    connections = [open_stream(view) for _ in range(4)] + [connect(view) for _ in range(4)]
    until(lambda: (view.streams, view.connections) == (4, 8))
    started = time.monotonic()
    view.close()
    assert time.monotonic() - started < 1
    assert view.connections == 0
    for connection in connections:
        connection.close()
    view.show("yard", b"more")  # whoever sends on after that is not disturbed


def test_a_view_that_was_never_started_closes(metrics):
    View("127.0.0.1:0", None, metrics, dict).close()


class Road:
    """Leads connections on to a port, until it breaks off."""

    def __init__(self, port):
        self._port = port
        self._connections = {}
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def break_off(self):
        """End all connections; later ones are led on again."""
        while self._connections:
            connection, thread = self._connections.popitem()
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            thread.join()

    def close(self):
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()
        self.break_off()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                self._connections[near] = threading.Thread(target=self._lead, args=[near])
                self._connections[near].start()

    def _lead(self, near):
        with near, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port)) as far:
            other = {near: far, far: near}
            while True:
                for source in select.select([near, far], [], [])[0]:
                    if not (data := source.recv(65536)):
                        return
                    other[source].sendall(data)


@pytest.fixture
def road(view):
    road = Road(port_of(view))
    yield road
    road.close()


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


class Browser:
    """A headless Chromium, spoken to over its DevTools pipe."""

    def __init__(self, profile, url, width):
        to_browser, self._commands = os.pipe()
        self._answers, from_browser = os.pipe()
        # it reads from descriptor 3 and writes to 4, which the pipes' own ends must not be
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (to_browser, from_browser)]
        command = f'exec "$@" 3<&{ends[0]} 4>&{ends[1]} {ends[0]}<&- {ends[1]}>&- 2>/dev/null >/dev/null'
        self._process = subprocess.Popen(
            [
                "/bin/bash",
                "-c",
                command,
                "bash",
                CHROMIUM,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--remote-debugging-pipe",
                f"--user-data-dir={profile}",
                f"--window-size={width},1200",
            ],
            pass_fds=ends,
        )
        for end in (to_browser, from_browser, *ends):
            os.close(end)
        self._rest = b""
        self._number = 0
        self.complaints = []
        self._session = None
        target = self.do("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Log", "Runtime", "Page"):
            self.do(f"{domain}.enable")
        self.do("Page.navigate", url=url)

    def do(self, method, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                assert select.select([self._answers], [], [], 30)[0], f"Chromium doesn't answer {method}"
                part = os.read(self._answers, 1 << 20)
                assert part, "Chromium ended"
                self._rest += part
            text, _, self._rest = self._rest.partition(b"\0")
            answer = json.loads(text)
            if answer.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                self.complaints.append(answer["params"])
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def value(self, expression):
        return self.do("Runtime.evaluate", expression=expression)["result"].get("value")

    def picture(self):
        data = base64.b64decode(self.do("Page.captureScreenshot")["data"])
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)

    def close(self):
        os.close(self._commands)
        os.close(self._answers)
        self._process.terminate()
        self._process.wait(30)


@pytest.fixture
def browser(tmp_path):
    opened = []

    def open_browser(url, width):
        opened.append(Browser(tmp_path / "profile", url, width))
        return opened[-1]

    yield open_browser
    for browser in opened:
        browser.close()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_a_browser_shows_pictures_and_numbers_and_runs_nothing_that_the_status_says(
    view, road, browser, tmp_path, width, scheme
):
    def colored(color):
        return cv2.imencode(".jpg", np.full((240, 320, 3), color, np.uint8))[1].tobytes()

    def share(color):
        return (np.abs(page.picture().astype(int) - color).max(axis=2) < 12).mean()

    red, blue = (0, 0, 254), (254, 0, 0)
    view.show("yard", colored(red))
    page = browser(road.address, width)
    page.do("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    until(lambda: page.value("document.getElementById('connection').textContent") == "Connected", 30)
    until(lambda: share(red) > 0.04, 30)
    view.show("yard", colored(blue))
    until(lambda: share(blue) > 0.04, 3)
    assert ATTACK in page.value("document.getElementById('cameras').innerText")
    assert page.value("document.title") == "rjpeg device"
    assert page.value("document.documentElement.scrollWidth <= innerWidth")
    assert page.value("getComputedStyle(document.body).backgroundColor") == (
        "rgb(20, 23, 26)" if scheme == "dark" else "rgb(255, 255, 255)"
    )
    cv2.imwrite(str(tmp_path / "page.png"), page.picture())

    # a stream that broke off unnoticed is opened again
    road.break_off()
    until(lambda: view.streams == 0)
    page.value("Date.now = (now => () => now() + 60000)(Date.now)")
    until(lambda: view.streams == 1)

    # the keyboard alone reaches the button, and a paused page holds no stream
    for kind in ("keyDown", "keyUp"):
        page.do("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
    assert page.value("document.activeElement.id") == "pause"
    for kind in ("keyDown", "keyUp"):
        page.do("Input.dispatchKeyEvent", type=kind, key=" ", code="Space", text=" ", windowsVirtualKeyCode=32)
    until(lambda: view.streams == 0)
    assert page.value("document.getElementById('pause').getAttribute('aria-pressed')") == "true"
    assert page.complaints == []

    view.close()
    until(lambda: "No answer" in page.value("document.getElementById('connection').textContent"), 30)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_many_cameras_do_not_take_all_of_a_browsers_connections(view, browser):
    def loaded():
        return page.value("[...document.images].filter(i => i.complete && i.naturalWidth).length")

    for number in range(10):
        view.show(f"cam-{number}", jpeg(0))
    view.show("yard", jpeg(0))
    page = browser(view.address, 1280)
    until(lambda: loaded() == 11, 30)
    assert view.streams == 0
    first = page.value("document.images[0].src")
    until(lambda: page.value("document.images[0].src") != first)
    until(lambda: loaded() == 11)
    assert page.complaints == []


@pytest.mark.slow
def test_the_page_needs_nothing_but_the_standard_library_and_prometheus():
    code = "import device.view, sys; print([m for m in ('starlette', 'uvicorn', 'fastapi') if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path.cwd(), timeout=60)
    assert json.loads(ran.stdout) == []
