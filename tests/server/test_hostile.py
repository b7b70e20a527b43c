"""A real service under attack: it refuses in words, keeps its memory, and serves an honest camera meanwhile.

What tokens may do is in test_access.py, what single malformed requests get in test_receiving.py.
"""

import concurrent.futures
import contextlib
import dataclasses
import datetime
import json
import re
import shutil
import socket
import sqlite3
import threading
import time
import urllib.parse
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import requests

from server.events.bus import Event, EventBus
from server.store import FrameRow
from tests.service import Service, make_token

MAX_PIXELS, MAX_BYTES, CONNECTIONS, PENDING = 2**22, 2**20, 64, 8
LIMITS = {
    "max_pixels": MAX_PIXELS,
    "max_bytes": MAX_BYTES,
    "body_seconds": 2,
    "connections": CONNECTIONS,
    "pending": PENDING,
    "pending_of_camera": 4,
    "frames_per_second": 1000,
    "streams": 8,
    "views": 2,
}
# Of a frame that is decoded at most so many bytes a pixel are taken, by two workers; those that wait to be stored are
# held as files and as pictures; readers have a cache. The rest is for what Python and malloc do not give back.
MAX_MEMORY = 2 * 24 * MAX_PIXELS + PENDING * (MAX_BYTES + 3 * MAX_PIXELS) + 2**26 + 2**26
HEAD = b"POST /v1/cameras/hostile/frames HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
SCRIPT = '<script>alert("&\u2028")</script><img src=x onerror=alert(1)>'
SQL = ["' OR '1'='1", "1; DROP TABLE frames;--", "' UNION SELECT sha256 FROM tokens--", '"', "\\", "%27%20OR%201%3D1"]


class Target:
    """The service, and an honest camera that sends it frames and keeps what it was answered."""

    def __init__(self, service: Service, jpeg: bytes) -> None:
        self.service, self.jpeg = service, jpeg
        host = urllib.parse.urlsplit(service.url)
        self.address = (str(host.hostname), int(host.port or 0))
        self.started_with = self.memory("VmRSS")

    def memory(self, what: str) -> int:
        """Bytes of the service's process: VmRSS now, or VmHWM at most."""
        status = Path(f"/proc/{self.service.process.pid}/status").read_text()
        return 1024 * int(re.search(rf"{what}:\s+(\d+)", status)[1])

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, 30)

    def say(self, request: bytes, seconds: float = 5) -> bytes:
        """All that the service answers to some bytes, until it closes or says nothing for a while."""
        with self.connect() as connection:
            connection.settimeout(seconds)
            with contextlib.suppress(OSError):
                connection.sendall(request)
            answer = b""
            with contextlib.suppress(OSError):
                while part := connection.recv(65536):
                    answer += part
            return answer

    def post(self, body: bytes, camera: str = "hostile", **headers: str) -> requests.Response:
        return requests.post(
            self.service.post_url(camera), data=body, headers={"Content-Type": "image/jpeg"} | headers, timeout=60
        )

    @contextlib.contextmanager
    def serving(self):
        """An honest camera sends meanwhile; all it sends is stored, soon. And the memory stays what it may be."""
        answers: list[tuple[int, float]] = []
        over = threading.Event()

        def send() -> None:
            while True:
                started = time.monotonic()
                status = self.post(self.jpeg, "honest").status_code
                answers.append((status, time.monotonic() - started))
                if over.wait(0.1):
                    return

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            sender = pool.submit(send)
            try:
                yield
            finally:
                over.set()
                sender.result(90)
        assert {status for status, _ in answers} == {201}
        assert max(seconds for _, seconds in answers) < 10
        assert self.memory("VmHWM") - self.started_with < MAX_MEMORY


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d\d\d) ", answer)]


@pytest.fixture(scope="module")
def target(tmp_path_factory, jpeg):
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "looks.py").write_text(f"def look(frame, meta):\n    return {{'label': {SCRIPT!r}, 'meta': meta}}\n")
    config = {"limits": LIMITS, "task": {"kind": "python", "function": "looks:look"}}
    (folder / "config.yaml").write_text(json.dumps(config))
    service = Service(
        "--config",
        folder / "config.yaml",
        "--workers",
        "2",
        data=folder / "data",
        environment={"PYTHONPATH": str(folder)},
    )
    target = Target(service, jpeg)
    assert target.post(jpeg).status_code == 201
    target.started_with = target.memory("VmRSS")
    yield target
    assert service.process.poll() is None
    service.stop()
    said = "".join(service.messages)
    assert "Traceback" not in said, said[-4000:]
    assert SCRIPT not in said


@pytest.fixture(scope="module")
def bombs():
    if shutil.which("jpegtran") is None:
        pytest.skip("jpegtran (Debian: libjpeg-turbo-progs) is not installed")
    # only here: the seeds of mutants are made with it
    from tests.fuzz.bombs import make

    return {name: jpeg for name, jpeg in make(MAX_PIXELS).items() if len(jpeg) <= MAX_BYTES}


@pytest.mark.slow
def test_bombs_are_answered_and_take_no_more_than_their_pixels(target, bombs):
    assert len(bombs) > 25
    with target.serving(), concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = dict(zip(bombs, pool.map(target.post, bombs.values()), strict=True))
    assert {answer.status_code for answer in answers.values()} == {201, 422}
    refused = {name: answer.json()["error"] for name, answer in answers.items() if answer.status_code == 422}
    assert "65500x65500 pixels is larger than the limit" in refused["65500x65500"]
    assert "65500x65500 pixels is larger than the limit" in refused["region, 65500x65500 4:2:0"]
    assert "arithmetic coded" in refused["arithmetic coding, progressive"]
    assert "application segments" not in refused["as large as allowed, cut short"]


@pytest.mark.slow
def test_maps_and_pictures_of_the_largest_frames_are_bounded_too(target, bombs):
    for name in ("region, as large as allowed 4:4:4", "gray picture 4:2:0"):
        assert target.post(bombs[name], "large").status_code == 201
        with target.serving(), concurrent.futures.ThreadPoolExecutor(4) as pool:
            paths = ["map", "map.png?of=bits", "picture?format=png", "picture?format=npy", "picture?format=jpeg"]
            got = pool.map(
                lambda path: target.service.get(f"/v1/cameras/large/frames/latest/{path}").status_code, paths
            )
            assert set(got) <= {200, 429}, name


@pytest.mark.slow
def test_a_frame_that_is_sent_over_and_over_is_stored_once(target):
    headers = {"Rjpeg-Sequence": "7", "Rjpeg-Capture-Time": "2026-01-02T03:04:05Z"}
    with target.serving(), concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: target.post(target.jpeg, "replayed", **headers), range(100)))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 200: 99}
    assert len({answer.json()["id"] for answer in answers}) == 1
    other = bytearray(target.jpeg)
    other += b"other bytes behind the end"
    assert target.post(bytes(other), "replayed", **headers).json()["duplicate"]
    assert [target.service.jpeg(record) for record in target.service.frames("replayed")] == [target.jpeg]


# --- connections ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_more_slow_heads_than_connections_keep_nobody_out(target):
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(target.connect()) for _ in range(2 * CONNECTIONS)]
        with target.serving():
            for _ in range(4):
                for connection in slow:
                    with contextlib.suppress(OSError):
                        connection.sendall(b"P")
                time.sleep(0.5)
        # who was idle longest had to go
        slow[0].settimeout(10)
        with contextlib.suppress(ConnectionError):
            assert slow[0].recv(100) == b""


@pytest.mark.slow
def test_slow_bodies_are_ended_and_hold_few_places(target):
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(target.connect()) for _ in range(20)]
        started = time.monotonic()
        with target.serving():
            for connection in slow:
                connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\nx")
            answers = []
            for connection in slow:
                connection.settimeout(15)
                answers.append(connection.recv(4096))
        assert time.monotonic() - started < 15
    counted = Counter(status for answer in answers for status in statuses(answer)[:1])
    assert counted == {408: LIMITS["pending_of_camera"], 429: 20 - LIMITS["pending_of_camera"]}


def test_a_body_in_tiny_chunks_is_ended_before_it_keeps_others_waiting(target):
    flood = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 200_000
    with target.serving(), concurrent.futures.ThreadPoolExecutor(3) as pool:
        for answer in pool.map(target.say, [flood] * 12):
            assert statuses(answer)[:1] in ([], [400], [429]), "or the connection is reset, as more comes in"


@pytest.mark.slow
def test_chunks_beyond_the_limit_of_bytes_are_refused_while_they_come(target):
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    with target.serving():
        answer = target.say(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * (10 * MAX_BYTES // 0x10000))
    assert statuses(answer) in ([413], [])
    assert statuses(target.say(HEAD + b"Content-Length: %d\r\n\r\n" % (MAX_BYTES + 1))) == [413]


@pytest.mark.slow
def test_requests_that_stop_halfway_leave_nothing_behind(target):
    whole = HEAD + b"Content-Length: %d\r\n\r\n" % len(target.jpeg) + target.jpeg
    with target.serving():
        for length in np.linspace(1, len(whole) - 1, 60).astype(int):
            with target.connect() as connection:
                connection.sendall(whole[:length])
        time.sleep(1)
    deadline = time.monotonic() + 10
    while target.service.get("/healthz").json()["pending"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_a_reader_that_takes_nothing_does_not_stop_the_others(target):
    with contextlib.ExitStack() as stack:
        for path in (b"/v1/events", b"/v1/cameras/honest/stream", b"/v1/cameras/honest/stream?view=plain"):
            reader = stack.enter_context(target.connect())
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            reader.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with target.serving():
            time.sleep(3)


def test_pictures_do_not_wait_for_a_slow_reader_of_events():
    bus = EventBus()
    events, stream = bus.subscribe(None, 256), bus.subscribe("cam", 1)
    now = datetime.datetime.now(datetime.UTC)
    row = FrameRow(
        id=1,
        camera="cam",
        sequence=None,
        capture_time=now,
        received_time=now,
        stored_time=now,
        key="k",
        measures={"bytes": 1, "width": 1, "height": 1},
        results=None,
        metrics=None,
    )
    bus.publish(Event(row=row, jpeg=b"file", frame=np.zeros((1, 1, 3), np.uint8)))
    waiting, newest = events._events[0], stream._events[0]
    assert {field.name for field in dataclasses.fields(waiting)} == {"id", "record"}
    assert json.loads(waiting.record) == row.record()
    assert (newest.jpeg, newest.frame is None) == (b"file", False)


# --- shapes of requests -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("framing", "status"),
    [
        (b"Content-Length: -4\r\n\r\nabcd", 400),
        (b"Content-Length: +4\r\n\r\nabcd", 400),
        (b"Content-Length: 0x4\r\n\r\nabcd", 400),
        (b"Content-Length: 4, 5\r\n\r\nabcd", 400),
        (b"Content-Length: \r\n\r\nabcd", 400),
        (b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde", 400),
        (b"Content-Length: " + b"9" * 40 + b"\r\n\r\n", 400),
        (b"Content-Length: 99999999999999999999\r\n\r\n", 413),
        (b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HEALTH, 400),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + HEALTH, 400),
        (b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
        (b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
        (b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 30 + b"\r\nx\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n\r\n4 \r\nabcdX\r\n0\r\n\r\n", 400),
        (b"X: " + b"y" * 2_000_000 + b"\r\n\r\n", 400),
        (b"".join(b"X%d: y\r\n" % number for number in range(50_000)) + b"\r\n", 400),
        (b"Host: elsewhere\r\n\r\n", 400),
        (b"No colon\r\n\r\n", 400),
        (b"\0: y\r\n\r\n", 400),
    ],
)
def test_a_request_whose_end_is_in_doubt_is_refused_and_nothing_behind_it_is_heard(target, framing, status):
    answer = target.say(HEAD + framing, 3)
    # what is longer than may wait is cut off, maybe before the answer gets through
    assert statuses(answer) == [status] or (not answer and len(framing) > 60_000)
    assert b"pending" not in answer
    assert not answer or b'"error"' in answer


@pytest.mark.slow
def test_pipelined_requests_are_answered_each_and_in_order(target):
    frame = HEAD + b"Content-Length: 4\r\n\r\nabcd"
    answer = target.say((HEALTH + frame) * 20)
    assert statuses(answer) == [200, 422] * 20
    assert statuses(target.say(HEALTH * 5 + b"\x16\x03\x01garbage")) == [200] * 5 + [400]


@pytest.mark.parametrize(
    "request_",
    [
        bytes(range(256)) * 8,
        b"\x16\x03\x01\x02\x00\x01",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /healthz\r\n\r\n",
        b"GET  /healthz HTTP/1.1\r\n\r\n",
        b"\r\n" * 40_000,
    ],
)
def test_what_is_no_http_is_refused_or_cut_off(target, request_):
    assert set(statuses(target.say(request_, 2))) <= {400}
    assert target.service.get("/healthz").status_code == 200


# --- names, times and numbers ------------------------------------------------------------------------------

NAMES = [
    "..",
    "../..",
    "..%2f..%2fetc",
    "%2e%2e%2f%2e%2e",
    "..%5c",
    "a%00b",
    "%00",
    "a%0ab",
    "a" * 65,
    "a" * 5000,
    "caf\u00e9",
    "\u202ecam",
    "\U0001f4f7",
    "%ff%fe",
    "C:",
    "con.",
    "a.b",
    "~root",
    "$HOME",
    "-",
    "a;b",
    "{camera}",
    "%3Cscript%3E",
    *map(urllib.parse.quote, SQL),
]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_cameras_lead_nowhere(target, name):
    data = target.service.data
    before = {path for path in data.rglob("*") if path.parent.name != "honest" and "sqlite3" not in path.name}
    answer = requests.Request("POST", "http://x/", data=target.jpeg, headers={"Content-Type": "image/jpeg"}).prepare()
    answer.url = target.service.post_url(
        name.encode("ascii", "ignore").decode() if name.isascii() else urllib.parse.quote(name)
    )
    with requests.Session() as session:
        posted = session.send(answer, timeout=30)
    if name == "-":
        assert posted.status_code == 201, "it is one of the letters"
        return
    assert posted.status_code in (400, 404, 405)
    assert posted.json()["error"]
    assert {path for path in data.rglob("*") if path.parent.name != "honest" and "sqlite3" not in path.name} == before
    for path in ("", "/frames", "/frames/latest", "/frames/latest/jpeg", "/stream", "/timeline"):
        raw = b"GET /v1/cameras/" + urllib.parse.quote(name, safe="%/.").encode() + path.encode() + b" HTTP/1.1"
        assert statuses(target.say(raw + b"\r\nHost: localhost\r\nConnection: close\r\n\r\n")) in ([400], [404])


@pytest.mark.parametrize(
    "path",
    [
        "/page/../../README.md",
        "/page/..%2f..%2fREADME.md",
        "/page/%2e%2e/app.py",
        "/page//etc/passwd",
        "/page/..%5capp.py",
        "/page/%00",
        "/..%2f..%2fetc/passwd",
        "//etc/passwd",
        "/page/" + "../" * 30 + "etc/passwd",
        "/page/" + "a/" * 4000,
    ],
)
def test_paths_of_the_page_lead_to_no_other_file(target, path):
    answer = target.say(b"GET " + path.encode() + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert statuses(answer) in ([404], [400])
    assert b"root:" not in answer
    assert b"import " not in answer


@pytest.mark.parametrize("text", [*SQL, "-1", "0", "1e9", "9" * 400, "\u0661", "NaN", "1 OR 1=1", "0x10", SCRIPT])
def test_numbers_and_times_of_queries_are_checked(target, text):
    rows = len(target.service.frames("hostile"))
    base = "/v1/cameras/hostile"
    for path in (
        f"{base}/frames?before={{}}",
        f"{base}/frames?since={{}}",
        f"{base}/frames?until={{}}",
        f"{base}/frames?limit={{}}",
        f"{base}/frames/{{}}",
        f"{base}/timeline?bins={{}}&since={{}}",
        f"{base}/frames/latest/picture?format={{}}",
        f"{base}/frames/latest/map.png?of={{}}",
        f"{base}/stream?fps={{}}",
        f"{base}/stream?view={{}}",
        "/v1/events?camera={}",
    ):
        if path.endswith("camera={}") and re.fullmatch("[A-Za-z0-9_-]{1,64}", text):
            continue
        if path.endswith("fps={}") and text == "1e9":
            path = path.replace("{}", "1e9")
        quoted = urllib.parse.quote(text, safe="")
        answer = target.service.get(path.format(quoted, quoted), stream=True)
        assert answer.status_code in (400, 404), path
        assert answer.headers["Content-Type"] == "application/json", path
        answer.close()
    assert len(target.service.frames("hostile")) == rows
    for name in ("Rjpeg-Sequence", "Rjpeg-Capture-Time"):
        assert target.post(target.jpeg, **{name: text.encode("utf-8").decode("latin-1")}).status_code in (
            (201,) if (name, text) == ("Rjpeg-Sequence", "0") else (400,)
        )
    connection = sqlite3.connect(next(target.service.data.glob("*.sqlite3")))
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    connection.close()
    assert {"frames", "cameras", "tokens"} <= tables


# --- what is stored of strangers --------------------------------------------------------------------------


def test_scripts_in_results_and_metrics_stay_text(target):
    metrics = {"host": SCRIPT, SCRIPT: 1, "lines": "a\r\nevent: frame\r\ndata: {}\n\n"}
    with target.service.get("/v1/events?camera=scripts", stream=True) as events:
        lines = events.iter_lines(chunk_size=1, decode_unicode=True)
        assert next(lines) == "event: heartbeat"
        posted = target.post(target.jpeg, "scripts", **{"Rjpeg-Metrics": json.dumps(metrics)})
        assert posted.status_code == 201
        found = list(iter(lambda: next(lines), f"id: {posted.json()['id']}"))
        data = json.loads(next(lines).removeprefix("data: "))
    assert found.count("event: frame") == 1
    assert data["metrics"] == posted.json()["metrics"] == metrics
    assert data["results"]["label"] == SCRIPT
    for path in ("", "/frames", "/frames/latest", "/frames/latest/results", "/frames/latest/map"):
        answer = target.service.get("/v1/cameras/scripts" + path)
        assert answer.headers["Content-Type"] == "application/json"
        assert json.loads(answer.text) == answer.json()


def test_every_answer_forbids_to_be_taken_for_something_else(target):
    paths = [
        "/v1/cameras",
        "/v1/cameras/%3Cscript%3E",
        "/v1/cameras/hostile/frames/latest/jpeg",
        "/nowhere",
        "/metrics",
        "/v1/cameras/hostile/frames/latest/picture",
        "/openapi.json",
        "/v1/cameras/hostile/frames?before=x",
    ]
    for path in paths:
        answer = target.service.get(path)
        assert answer.headers["X-Content-Type-Options"] == "nosniff", path
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert "html" not in answer.headers["Content-Type"]
    assert b"nosniff" in target.say(b"rubbish\r\n\r\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    "metrics",
    [
        "[" * 8000,
        '{"a":' * 1500 + "1" + "}" * 1500,
        "{" + '"a":[' * 500,
        '{"a": ' + "9" * 5000 + "}",
        '{"a": 1e999}',
        '{"a": "\\ud800"}',
        "\x7f",
        "{" + ",".join(f'"{i}":{{}}' for i in range(3000)) + "}",
        json.dumps(SCRIPT),
    ],
)
def test_metrics_that_are_traps_are_refused_or_kept_harmless(target, metrics):
    answer = target.post(target.jpeg, "traps", **{"Rjpeg-Metrics": metrics})
    assert answer.status_code in (201, 400)
    if answer.status_code == 201:
        assert target.service.get("/v1/cameras/traps/frames/latest").json()["metrics"] == answer.json()["metrics"]
    # a list within lists that is short enough to be taken is not kept as deep as it is
    deep = '{"a": ' + "[" * 900 + "]" * 900 + "}"
    assert target.post(target.jpeg, "traps", **{"Rjpeg-Metrics": deep}).status_code in (201, 400)
    assert target.service.get("/v1/cameras/traps").status_code in (200, 404)
    assert target.service.get("/v1/cameras").status_code == 200


# --- tokens -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.release
def test_tokens_of_all_wrong_shapes_open_nothing(tmp_path, jpeg, start):
    own = make_token(tmp_path, "--camera", "own")
    revoked = make_token(tmp_path, "--camera", "gone")
    reader = make_token(tmp_path, "--reader")
    service = start("--auth", "on", data=tmp_path)
    target = Target(service, jpeg)
    wrong = [
        None,
        "",
        "Bearer",
        f"Bearer {own[:-1]}",
        f"Bearer {own} x",
        f"Basic {own}",
        f"Bearer {'x' * 8000}",
        "Bearer rjpeg_1_",
        "Bearer rjpeg_-1_x",
        "Bearer rjpeg_99999999999999999999_x",
        f"bearer\t{own[::-1]}",
        *[f"Bearer rjpeg_{urllib.parse.quote(text)}_{own[-43:]}" for text in SQL],
    ]
    for header in wrong:
        headers = {} if header is None else {"Authorization": header}
        for camera in ("own", "gone", "new"):
            assert target.post(jpeg, camera, **headers).status_code == 401, header
        assert service.get("/v1/cameras/own", headers=headers).status_code == 401, header
    assert target.post(jpeg, "own", Authorization=f"Bearer {own}").status_code == 201
    assert target.post(jpeg, "gone", Authorization=f"Bearer {revoked}").status_code == 201
    # a frame of one camera, replayed under the name of another, or by a reader
    for camera, token in (("gone", own), ("own", revoked), ("own", reader)):
        assert target.post(jpeg, camera, Authorization=f"Bearer {token}").status_code == 403
    for token in (own, revoked):
        for path in ("/v1/cameras", "/v1/cameras/own/frames/latest/jpeg", "/v1/events", "/metrics"):
            assert service.get(path, headers={"Authorization": f"Bearer {token}"}).status_code == 403
    # a cookie is for reading, and a header counts before it
    session = {"Cookie": f"rjpeg={own}"}
    assert service.get("/v1/cameras", headers=session).status_code == 403
    assert target.post(jpeg, "own", **session).status_code == 401
    assert target.post(jpeg, "own", Cookie=f"rjpeg={reader}").status_code == 401
    both = {"Authorization": "Bearer wrong", "Cookie": f"rjpeg={reader}"}
    assert service.get("/v1/cameras", headers=both).status_code == 401
    from server.cli import main

    assert main(["tokens", "revoke", revoked.split("_")[1], "--data", str(tmp_path)]) == 0
    deadline = time.monotonic() + 2.5
    while target.post(jpeg, "gone", Authorization=f"Bearer {revoked}").status_code != 401:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    # without a token no body is read, nor much of the processor's time taken
    started = time.monotonic()
    flood = [HEAD + b"Content-Length: 100000000\r\n\r\n" + bytes(2_000_000)] * 10
    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        for answer in pool.map(lambda request: target.say(request, 3), flood):
            assert statuses(answer)[:1] in ([401], [])
    assert time.monotonic() - started < 30
    assert target.post(jpeg, "own", Authorization=f"Bearer {own}").status_code == 201
    said = "".join(service.messages)
    assert not any(token.split("_", 2)[2] in said for token in (own, revoked, reader))
