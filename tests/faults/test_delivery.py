"""What stands between a device and its server answers in the server's place."""

import datetime
import http.server
import itertools
import json
import random
import threading
import urllib.request
from collections.abc import Iterator

import numpy as np
import pytest

import rjpeg
from device.delivery import RecordOutbox
from device.delivery.http_sender import HttpSender
from device.delivery.outbox import Link
from device.frames import OutgoingFrame
from device.spool import Spool
from tests.device.outcomes import Outcomes
from tests.service import Service
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.faults]

MOMENT = datetime.datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=datetime.UTC)
PAGE = b"<!DOCTYPE html><title>Welcome to the hotel</title><p>Accept the terms."
HTML = {"Content-Type": "text/html; charset=utf-8"}
OTHER = json.dumps({"camera": "other", "sequence": 0, "capture_time": "2026-03-04T05:06:07.000089Z"}).encode()
# what the portal says: status, headers, body
WORDS = [
    (200, HTML, PAGE),
    (201, HTML, PAGE),
    (200, {"Content-Type": "application/json"}, OTHER),
    (200, {"Content-Type": "application/json"}, OTHER[:40]),
    (204, {}, b""),
    (302, {"Location": "http://login.example/"}, b""),
    (400, HTML, PAGE),
    (403, HTML, PAGE),
    (404, HTML, PAGE),
    (413, HTML, PAGE),
    (422, HTML, PAGE),
    (500, HTML, PAGE),
    (503, HTML, PAGE),
    (511, HTML, PAGE),
]


class Portal:
    """Answers in its own words while it has any; else it hands on to the server, and back what that answers."""

    def __init__(self, server: str) -> None:
        self.words: tuple[int, dict[str, str], bytes] | None = None
        self.answered = 0
        portal = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                words = portal.words
                if words is None:
                    request = urllib.request.Request(server + self.path, body, dict(self.headers))
                    with urllib.request.urlopen(request, timeout=30) as answer:
                        words = answer.status, {"Content-Type": "application/json"}, answer.read()
                else:
                    portal.answered += 1
                status, headers, content = words
                self.send_response(status)
                for name, value in (headers | {"Content-Length": str(len(content))}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service("--workers", "1")
    yield service
    service.stop()


@pytest.fixture
def portal(service: Service) -> Iterator[Portal]:
    portal = Portal(service.url)
    yield portal
    portal.close()


@pytest.mark.timeout(10_800)
def test_a_portal_in_front_takes_no_recorded_frame_for_the_server(faults, service, portal, tmp_path, monkeypatch):
    # so that frames are doubted at once which somebody in front keeps out
    monkeypatch.setattr("device.delivery.record.FAULT_SECONDS", 0.5)
    number, chance = faults.count(7, 200), random.Random(16)
    jpegs = [rjpeg.Encoder().encode(np.full((16, 16, 3), level, np.uint8), quality=50) for level in (0, 120)]
    put: list[bytes] = []
    spool = Spool(tmp_path / "spool", 50_000_000)
    outbox, outcomes = RecordOutbox(Link(HttpSender(portal.url, timeout=10)), "cam", spool), Outcomes()
    outcomes.of(outbox)

    def record(frames: int) -> None:
        for _ in range(frames):
            put.append(jpegs[chance.randrange(2)])
            outbox.put(OutgoingFrame("cam", 0, MOMENT, put[-1]))

    portal.words = WORDS[0]
    record(200)
    for words in itertools.islice(itertools.cycle(WORDS[::2] + WORDS[1::2]), number):
        portal.words, before = words, portal.answered
        record(3)
        until(lambda before=before: portal.answered >= before + chance.choice((1, 2)), 60)
        portal.words = None
        assert outbox.flush(120)
    outbox.close()
    left = spool.count
    spool.close()
    kept = {record["sequence"]: record for record in service.frames()}
    wrong = [n for n, jpeg in enumerate(put) if n not in kept or service.jpeg(kept[n]) != jpeg]
    faults.record(
        "a portal or proxy in front answers for the server: pages with 200 to 511, redirections, others' records",
        tried=number,
        lost=len(wrong),
        ended=f"{len(put)} recorded frames, all delivered once the server was reached",
    )
    assert (wrong, outcomes.dropped, left) == ([], [], 0)
    assert sorted(outcomes.sent) == list(range(len(put))), "each is reported once"


def test_a_portal_that_stays_for_long_makes_no_frame_given_up(portal, tmp_path, monkeypatch):
    monkeypatch.setattr("device.delivery.record.FAULT_SECONDS", 0.0)
    spool = Spool(tmp_path / "spool", 10_000_000)
    outbox, outcomes = RecordOutbox(Link(HttpSender(portal.url, timeout=10)), "cam", spool), Outcomes()
    outcomes.of(outbox)
    portal.words = (413, HTML, PAGE)
    for _ in range(5):
        outbox.put(OutgoingFrame("cam", 0, MOMENT, b"jpeg"))
    until(lambda: portal.answered >= 6, 60)
    outbox.close()
    assert (spool.count, outcomes.dropped) == (5, [])
    spool.close()
