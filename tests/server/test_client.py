"""`rjpeg.client` against the service, and against servers that are none, busy, or go away."""

import datetime
import functools
import http.server
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import requests

import rjpeg
import rjpeg.client
from rjpeg import errors
from rjpeg._maps import quality_factors
from rjpeg.client import Client
from tests import waiting

ROOT = Path(__file__).resolve().parents[2]
MOMENT = datetime.datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=datetime.UTC)

wait_for = functools.partial(waiting.until, seconds=30)


class Server:
    """`python -m server` as its own process."""

    def __init__(self, data, *arguments, listen="127.0.0.1:0"):
        self.log = data.with_suffix(".log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "server", "--listen", listen, "--data", str(data), *arguments],
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=os.environ,
            )
        deadline = time.monotonic() + 60
        while not (found := re.search(r"^listening on (\S+)$", self.log.read_text(), re.MULTILINE)):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        self.url = found[1]
        self.address = self.url.rpartition("/")[2]

    def stop(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(tmp_path_factory.mktemp("client") / "data")
    yield running
    running.stop()


@pytest.fixture
def client(server):
    with Client(server.url) as client:
        yield client


@pytest.fixture(scope="module")
def decoder():
    return rjpeg.Decoder()


@pytest.fixture(scope="module")
def jpegs(encoder, photograph):
    """Five different frames."""
    return [encoder.encode(np.roll(photograph, 7 * number, axis=1), quality=40) for number in range(5)]


@pytest.mark.slow
def test_a_frame_that_is_sent_is_there_with_all_that_is_known_of_it(client, jpegs, decoder):
    sent = client.send("one", jpegs[0], sequence=7, capture_time=MOMENT, metrics={"celsius": 41.5})
    expected = decoder.decode_with_details(jpegs[0])
    assert (sent.camera, sent.sequence, sent.capture_time, sent.metrics) == ("one", 7, MOMENT, {"celsius": 41.5})
    assert (sent.height, sent.width) == expected.frame.shape[:2]
    assert (sent.coding_height, sent.coding_width) == expected.coding_size
    assert sent.bytes == len(jpegs[0])
    assert sent.bpp == pytest.approx(8 * len(jpegs[0]) / (sent.width * sent.height), abs=1e-4)
    assert sent.mean_level_luma == pytest.approx(expected.quality_map[..., 0].mean(), abs=1e-3)
    assert not sent.duplicate
    assert sent.received_time <= sent.stored_time <= datetime.datetime.now(datetime.UTC)
    assert client.frame("one") == client.frame("one", sent.id) == sent
    assert client.jpeg("one") == client.jpeg("one", sent.id) == jpegs[0]
    again = client.send("one", jpegs[0], sequence=7, capture_time=MOMENT)
    assert (again.id, again.duplicate) == (sent.id, True)


@pytest.mark.slow
def test_the_picture_is_what_the_decoder_makes_of_the_file(client, jpegs, decoder, photograph):
    region = client.send("picture", jpegs[1])
    restored = rjpeg.Decoder(restore=True)
    np.testing.assert_array_equal(client.picture("picture", region.id), decoder.decode(jpegs[1]))
    np.testing.assert_array_equal(client.picture("picture", restore=True), restored.decode(jpegs[1]))
    ordinary = cv2.imencode(".jpg", photograph)[1].tobytes()
    client.send("picture", ordinary)
    np.testing.assert_array_equal(client.picture("picture"), cv2.imdecode(np.frombuffer(ordinary, np.uint8), 1))
    np.testing.assert_array_equal(client.picture("picture", region.id, restore=False), decoder.decode(jpegs[1]))


def test_the_map_is_that_of_the_file(client, jpegs, decoder, photograph):
    client.send("map", jpegs[2])
    found, expected = client.map("map"), decoder.decode_with_details(jpegs[2])
    assert (found.levels.dtype, found.quality.dtype) == (np.uint8, np.float64)
    np.testing.assert_array_equal(found.levels, expected.quality_map)
    np.testing.assert_array_equal(found.predictor, expected.predictor_map)
    assert found.refined == np.count_nonzero(found.levels != found.predictor)
    model = decoder.model
    factors = quality_factors(expected.quality_map, model.map_quantizer.scales, expected.tables, model.base_tables)
    np.testing.assert_allclose(found.quality, factors, atol=0.01)
    if found.bits is not None:
        assert found.bits.shape == found.levels.shape[:2]
        assert 0 < found.bits.sum() <= 8 * len(jpegs[2])
    client.send("map", cv2.imencode(".jpg", photograph)[1].tobytes())
    ordinary = client.map("map")
    assert ordinary.levels is ordinary.quality is ordinary.predictor is None


def test_frames_come_newest_first_over_as_many_pages_as_there_are(client, jpegs, monkeypatch):
    sent = [
        client.send(
            "pages", jpegs[number % 5], sequence=number, capture_time=MOMENT + datetime.timedelta(seconds=number)
        )
        for number in range(11)
    ]
    monkeypatch.setattr("rjpeg.client.PAGE_FRAMES", 3)
    asked = []
    monkeypatch.setattr(requests.Session, "request", spy(requests.Session.request, asked))
    assert list(client.frames("pages")) == sent[::-1]
    assert len(asked) == 4
    since, until = (MOMENT + datetime.timedelta(seconds=number) for number in (2, 9))
    assert [frame.sequence for frame in client.frames("pages", since=since, until=until)] == [8, 7, 6, 5, 4, 3, 2]
    asked.clear()
    assert [frame.sequence for frame in itertools.islice(client.frames("pages"), 2)] == [10, 9]
    assert len(asked) == 1, "pages are asked for as they are used up"


def spy(function, calls):
    def called(*arguments, **options):
        calls.append(arguments)
        return function(*arguments, **options)

    return called


def test_cameras_are_told_with_their_last_minute(client, jpegs):
    for number in range(3):
        last = client.send("counted", jpegs[number], sequence=number, capture_time=MOMENT)
    camera = client.camera("counted")
    assert (camera.frames, camera.bytes, camera.last_frame) == (3, sum(map(len, jpegs[:3])), last.id)
    assert (camera.first_capture_time, camera.last_capture_time) == (MOMENT, MOMENT)
    assert camera.fps > 0
    assert camera.bitrate > 0
    names = [camera.camera for camera in client.cameras()]
    assert "counted" in names
    assert names == sorted(names)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda c: c.send("a", b"no picture"), rjpeg.JpegError, "answered 422 to POST /v1/cameras/a/frames: "),
        (lambda c: c.send("a", "text"), rjpeg.InputError, "jpeg is a str, expected bytes"),
        (lambda c: c.send("../a", b""), rjpeg.InputError, r"camera '\.\./a', expected 1 to 64 of A-Z"),
        (lambda c: c.send("a", b"", sequence=-1), rjpeg.InputError, "answered 400"),
        (lambda c: c.send("a", b"", capture_time=datetime.datetime(2026, 3, 4)), rjpeg.InputError, "a time zone"),
        (lambda c: c.send("a", bytes(2**23 + 1)), rjpeg.InputError, "answered 413"),
        (lambda c: c.send("a", b"", metrics={"a": "x" * 9000}), rjpeg.InputError, "metrics must be a JSON object"),
        (lambda c: c.camera("nobody"), rjpeg.InputError, "answered 404 to GET /v1/cameras/nobody: no such camera"),
        (lambda c: list(c.frames("nobody")), rjpeg.InputError, "no such camera"),
        (lambda c: c.frames("a", since=datetime.datetime(2026, 3, 4)), rjpeg.InputError, "since .*a time zone"),
        (lambda c: c.frame("a", 0), rjpeg.InputError, "frame 0, expected an id from 1 on"),
        (lambda c: c.jpeg("a", 10**18), rjpeg.InputError, "no such frame"),
        (lambda c: c.picture("nobody"), rjpeg.InputError, "no such frame"),
        (lambda c: next(c.stream("nobody")), rjpeg.InputError, "no such camera"),
        (lambda c: next(c.stream("one", fps=1000)), rjpeg.InputError, "answered 400"),
        (lambda c: c.events("no/body"), rjpeg.InputError, "camera 'no/body'"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(client, call, error, said):
    with pytest.raises(error, match=said):
        call(client)


@pytest.mark.parametrize("url", ["ftp://host", "host:8000", "http://", "http://[1", "http://host/?a=b"])
def test_a_url_that_is_none_is_named(url):
    with pytest.raises(errors.ConfigError, match=re.escape(repr(url))):
        Client(url)


def test_a_missing_certificate_authority_is_named():
    with pytest.raises(errors.ConfigError, match=r"nowhere\.pem"):
        Client("https://localhost:1", ca_file="nowhere.pem")


def test_a_server_that_is_not_there_is_an_error_at_once():
    client = Client("http://127.0.0.1:1")
    for call in (client.cameras, lambda: next(client.events()), lambda: next(client.stream("a"))):
        with pytest.raises(errors.DeliveryError, match=r"http://127\.0\.0\.1:1 can't be reached: Connection refused"):
            call()


def collect(iterator, count, found):
    """Take things from an iterator in a thread, which has ended when they are there."""

    def take():
        for thing in itertools.islice(iterator, count):
            found.append(thing)
        iterator.close()

    thread = threading.Thread(target=take)
    thread.start()
    return thread


def streams_of(url):
    text = requests.get(f"{url}/metrics", timeout=10).text
    return float(re.search(r"^rjpeg_streams (\S+)$", text, re.MULTILINE)[1])


def test_events_tell_of_every_frame_and_of_those_of_one_camera(server, client, jpegs):
    all_of_them, of_one = [], []
    with Client(server.url) as first, Client(server.url) as second:
        threads = [collect(first.events(), 4, all_of_them), collect(second.events("eve"), 2, of_one)]
        wait_for(lambda: streams_of(server.url) == 2)
        sent = [client.send(camera, jpegs[0]) for camera in ("adam", "eve", "adam", "eve")]
        for thread in threads:
            thread.join(30)
        assert all_of_them == sent
        assert of_one == sent[1::2]
    wait_for(lambda: streams_of(server.url) == 0)


def test_a_stream_gives_the_very_pictures_where_they_are_decoded_here(server, client, jpegs, decoder):
    client.send("live", jpegs[0])
    exact, shown = [], []
    with Client(server.url) as first, Client(server.url) as second:
        threads = [
            collect(first.stream("live", fps=50, decoder=decoder), 3, exact),
            collect(second.stream("live", fps=50), 3, shown),
        ]
        for count in (1, 2):
            wait_for(lambda count=count: len(exact) == len(shown) == count)
            client.send("live", jpegs[count])
        for thread in threads:
            thread.join(30)
    for jpeg, here, there in zip(jpegs[:3], exact, shown, strict=True):
        picture = decoder.decode(jpeg)
        np.testing.assert_array_equal(here, picture)
        assert there.shape == picture.shape
        assert cv2.PSNR(there, picture) > 30


@pytest.mark.slow
def test_events_and_streams_go_on_when_the_server_comes_back(tmp_path, jpegs, decoder, caplog):
    server = Server(tmp_path / "data")
    events, pictures = [], []
    with Client(server.url) as sender, Client(server.url) as first, Client(server.url) as second:
        sent = [sender.send("cam", jpegs[0])]
        threads = [collect(first.events(), 2, events), collect(second.stream("cam", decoder=decoder), 4, pictures)]
        wait_for(lambda: streams_of(server.url) == 2 and pictures)
        sent.append(sender.send("cam", jpegs[1]))
        wait_for(lambda: len(events) == 1 and len(pictures) == 2)
        server.stop(signal.SIGKILL)
        again = Server(tmp_path / "data", listen=server.address)
        try:
            wait_for(lambda: streams_of(again.url) == 2)
            sent.append(sender.send("cam", jpegs[2]))
            for thread in threads:
                thread.join(30)
                assert not thread.is_alive()
        finally:
            again.stop()
    assert events == sent[1:]
    # a stream begins with the latest
    for jpeg, picture in zip([jpegs[0], jpegs[1], jpegs[1], jpegs[2]], pictures, strict=True):
        np.testing.assert_array_equal(picture, decoder.decode(jpeg))
    assert "what happens until it is there again is missed" in caplog.text


@pytest.mark.slow
def test_events_end_with_an_error_where_the_server_stays_away(tmp_path, jpegs):
    server = Server(tmp_path / "data")
    with Client(server.url, patience=1.0) as client:
        events = client.events()
        threading.Timer(1, server.stop).start()
        began = time.monotonic()
        with pytest.raises(errors.DeliveryError, match="can't be reached: Connection refused"):
            next(events)
        assert time.monotonic() - began < 20


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
@pytest.mark.release
def test_tokens_and_certificates_of_ones_own(tmp_path, jpegs):
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-keyout",
            tmp_path / "key.pem",
            "-out",
            tmp_path / "cert.pem",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
        ],
        check=True,
        capture_output=True,
    )
    tls = ["--tls-certificate", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem")]
    server = Server(tmp_path / "data", "--auth", "on", *tls)

    def token(*role):
        command = [sys.executable, "-m", "server", "tokens", "add", *role, "--data", tmp_path / "data"]
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    trusted = {"ca_file": str(tmp_path / "cert.pem")}
    try:
        with Client(server.url, token("--camera", "yard"), **trusted) as camera:
            sent = camera.send("yard", jpegs[0])
            with pytest.raises(errors.DeliveryError, match="answered 403"):
                camera.send("gate", jpegs[0])
            with pytest.raises(errors.DeliveryError, match="answered 403"):
                camera.cameras()
        with Client(server.url, token("--reader"), **trusted) as reader:
            assert reader.frame("yard") == sent
        with Client(server.url, **trusted) as nobody, pytest.raises(errors.DeliveryError, match="answered 401"):
            nobody.cameras()
        with Client(server.url) as strange, pytest.raises(errors.DeliveryError, match="certificate verify failed"):
            strange.cameras()
    finally:
        server.stop()


class Other(http.server.BaseHTTPRequestHandler):
    """Prepared answers (status, headers, body), the last one for ever."""

    answers: list
    asked: list

    def do_GET(self):
        self.asked.append((self.path, time.monotonic()))
        status, headers, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def other():
    """A function that starts a server of prepared answers; (URL, what was asked of it)"""
    running = []

    def start(*answers):
        handler = type("Handler", (Other,), {"answers": list(answers), "asked": []})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}", handler.asked

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


BUSY = (429, {"Retry-After": "1"}, b'{"error": "busy with 32 frames"}')
MAP = b'{"levels": %b, "quality": null, "bits": null, "predictor": null, "refined": 0}'
NONE = (200, {}, b'{"cameras": []}')


@pytest.mark.slow
def test_a_busy_server_is_asked_again_when_it_says(other):
    url, asked = other(BUSY, BUSY, NONE)
    with Client(url) as client:
        assert client.cameras() == []
    times = [when for _, when in asked]
    assert len(times) == 3
    assert all(later - earlier >= 1 for earlier, later in itertools.pairwise(times))


@pytest.mark.slow
def test_a_server_that_stays_busy_is_an_error_in_time(other):
    url, asked = other(BUSY)
    with Client(url, patience=1.5) as client, pytest.raises(errors.DeliveryError, match=r"429 .*: busy with 32 frames"):
        client.cameras()
    assert len(asked) == 2
    url, asked = other((429, {"Retry-After": "3600"}, b""))
    with Client(url, patience=30) as client, pytest.raises(errors.DeliveryError, match="Too Many Requests"):
        client.cameras()
    assert len(asked) == 1, "an hour is more patience than there is"


@pytest.mark.parametrize("status", [401, 403, 500, 503, 507, 302, 204])
def test_other_answers_are_not_asked_for_again(other, status):
    url, asked = other((status, {"Location": "/elsewhere"}, b"" if status == 204 else b'{"error": "why"}'))
    with Client(url) as client, pytest.raises(errors.DeliveryError, match=f"answered {status} to GET /v1/cameras: "):
        client.cameras()
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("call", "body"),
    [
        (lambda c: c.cameras(), b"<html>"),
        (lambda c: c.cameras(), b'{"cameras": [{"camera": 5}]}'),
        (lambda c: c.cameras(), b"{}"),
        (lambda c: c.camera("a"), b"\xff\xfe"),
        (lambda c: c.picture("a"), b"no array"),
        (lambda c: c.picture("a"), b""),
        (lambda c: c.map("a"), MAP % b"[[[1, 2]], []]"),
        (lambda c: c.map("a"), MAP % b"[[[999]]]"),
        (lambda c: list(c.frames("a")), b'{"frames": [], "next": "http://elsewhere/v1/"}'),
        (lambda c: next(c.events()), b'event: frame\ndata: {"id": 1}\n\n'),
    ],
)
def test_a_server_of_another_kind_is_told_so(other, call, body):
    url, _ = other((200, {}, body))
    with Client(url) as client, pytest.raises(errors.DeliveryError, match=f"server {url} (doesn't answer|gives)"):
        call(client)


@pytest.mark.parametrize("status", [200, 201, 302, 400, 404, 413, 415, 422, 500, 511])
def test_what_a_portal_says_is_neither_an_acknowledgment_nor_a_word_on_the_request(other, status):
    url, _ = other((status, {"Content-Type": "text/html"}, b"<title>Welcome to the hotel</title>"))
    with Client(url) as client, pytest.raises(errors.DeliveryError, match=r"portal or proxy|doesn't answer as"):
        client.send("a", b"jpeg", sequence=7, capture_time=MOMENT)


@pytest.mark.parametrize(
    "change",
    [{"camera": "b"}, {"sequence": 8}, {"sequence": None}, {"capture_time": "2026-03-04T05:06:08Z"}],
)
def test_an_acknowledgment_of_another_frame_is_an_error(other, client, jpegs, change):
    sent = client.send("a", jpegs[0], sequence=7, capture_time=MOMENT)
    record = msgspec.to_builtins(sent)
    url, _ = other((200, {}, json.dumps(record).encode()))
    with Client(url) as portal:
        assert portal.send("a", jpegs[0], sequence=7, capture_time=MOMENT) == sent
    url, _ = other((200, {}, json.dumps(record | change).encode()))
    with Client(url) as portal, pytest.raises(errors.DeliveryError, match="acknowledges another frame"):
        portal.send("a", jpegs[0], sequence=7, capture_time=MOMENT)


def test_a_token_goes_to_its_server_and_is_not_overridden_by_a_netrc(other, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    seen = []
    url, _ = other(NONE)
    monkeypatch.setattr(Other, "parse_request", spy(Other.parse_request, seen))
    with Client(url, "s3cret") as client:
        client.cameras()
    assert seen[0][0].headers["Authorization"] == "Bearer s3cret"


@pytest.mark.slow
def test_the_client_needs_nothing_of_the_service():
    code = "import sys, rjpeg.client; print(json.dumps(sorted({n.partition('.')[0] for n in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", "import json; " + code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not {"fastapi", "uvicorn", "sqlalchemy", "starlette", "pydantic"} & set(json.loads(done.stdout))


@pytest.mark.slow
def test_the_client_offers_what_reads_its_streams_and_the_short_name_of_a_frame():
    assert rjpeg.client.VideoReader is rjpeg.VideoReader
    assert rjpeg.client.Frame is rjpeg.client.StoredFrame
