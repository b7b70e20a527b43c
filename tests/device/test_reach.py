"""A server that was away is noticed within a second, and what is sent to it then is new."""

import contextlib
import datetime
import http.server
import socket
import threading
import time

import numpy as np
import pytest

import rjpeg
from device.delivery import LiveOutbox, reach
from device.delivery.http_sender import HttpSender
from device.delivery.mqtt_sender import MqttSender
from device.delivery.outbox import SERVER_AWAY, Link
from device.delivery.reach import Reach
from device.delivery.sender import UnheardError, UnreachableError
from device.frames import OutgoingFrame
from tests.brokers import needs_broker
from tests.device.conftest import acknowledgment
from tests.device.fakes import Clock
from tests.device.outcomes import Outcomes
from tests.waiting import until

MOMENT = datetime.datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=datetime.UTC)


@pytest.fixture(scope="module")
def jpeg():
    return rjpeg.Encoder().encode(np.full((16, 16, 3), 120, np.uint8), quality=50)


@pytest.fixture
def server():
    """A socket that listens, but takes nobody; its queue has room for one."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        yield listening


@pytest.fixture
def known(server):
    """A reach that knows the way to the server, from a connection that is over."""
    found = Reach()
    with socket.create_connection(server.getsockname()) as connection, server.accept()[0]:
        found.remember("localhost", server.getsockname()[1], connection)
    yield found
    found.close()


def test_as_long_as_nobody_knows_where_the_server_is_it_is_tried_at_once():
    assert Reach().ask(60)


def test_a_server_that_refuses_connections_is_found_when_it_listens_again(server, known):
    assert known.ask(5)
    port = server.getsockname()[1]
    server.close()
    assert not known.ask(0.02)
    with socket.create_server(("127.0.0.1", port)):
        assert known.ask(5)


def test_a_link_that_swallowed_what_was_asked_before_is_found_by_what_is_asked_now(server, known):
    with socket.create_connection(server.getsockname()):
        # the queue is full: the system drops what asks for a connection, as a link does that is cut
        assert not known.ask(0.2)
        assert known._pending, "a long way may still answer"
        server.accept()[0].close()
        began = time.monotonic()
        # what was asked first asks again a second after it began
        assert known.ask(0.6)
        assert time.monotonic() - began < 0.6
    assert known._pending == []


def test_connections_that_are_being_made_are_few(server, known):
    with socket.create_connection(server.getsockname()):
        for _ in range(3 * reach.MAX_PENDING):
            assert not known.ask(0.001)
        assert len(known._pending) == reach.MAX_PENDING


def test_a_server_that_moved_is_found_by_its_name(server, known, monkeypatch):
    filler = socket.create_connection(server.getsockname())
    with filler, socket.create_server(("127.0.0.1", 0)) as other:
        asked = threading.Event()

        def look_up(host, port, **_options):
            assert (host, port) == ("localhost", server.getsockname()[1])
            asked.set()
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", other.getsockname())]

        monkeypatch.setattr(reach.socket, "getaddrinfo", look_up)
        known.ask(0.01)
        assert asked.wait(5)
        until(lambda: known.ask(0.05))


class Cut:
    """A sender without a way to its server, until a test says so."""

    name = "server"

    def __init__(self):
        self.back, self.asked, self.taken = threading.Event(), 0, []

    def send(self, frame):
        if not self.back.is_set():
            raise UnreachableError("server can't be reached")
        self.taken.append(frame.sequence)
        return "there"

    def reach(self, seconds):
        self.asked += 1
        return self.back.wait(min(seconds, 0.01))

    def overhead(self, size, *, is_base=False):
        return 0

    def cut(self):
        pass

    def close(self):
        pass


def test_live_wants_no_frame_until_there_is_a_way_and_sends_none_that_waited():
    def frame(number):
        return OutgoingFrame("cam", number, MOMENT, b"jpeg")

    clock, sender, outcomes = Clock(), Cut(), Outcomes()
    outbox = LiveOutbox(Link(sender, clock=clock))
    with contextlib.closing(outcomes.of(outbox)):
        outbox.put(frame(0))
        until(lambda: sender.asked > 2)
        # encoded while the first one was under way
        outbox.put(frame(1))
        until(lambda: outcomes.dropped == [(0, SERVER_AWAY), (1, SERVER_AWAY)])
        clock.now += 600
        assert not outbox.ready, "a frame of now would be old when there is a way"
        sender.back.set()
        until(lambda: outbox.ready)
        outbox.put(frame(2))
        until(lambda: outcomes.sent == [2])
    assert sender.taken == [2]


@contextlib.contextmanager
def acknowledging(port=0):
    """A server that takes every frame, each over a connection of its own; gives its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            answer = acknowledgment(self.path, self.headers)
            self.send_response(201)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_http_reaches_a_server_that_is_back(jpeg):
    with acknowledging() as port:
        sender = HttpSender(f"http://localhost:{port}", timeout=5)
        sender.send(OutgoingFrame("cam", 0, MOMENT, jpeg))
    with pytest.raises(UnreachableError):
        sender.send(OutgoingFrame("cam", 1, MOMENT, jpeg))
    assert not sender.reach(0.02)
    with acknowledging(port):
        assert sender.reach(5)
        sender.send(OutgoingFrame("cam", 2, MOMENT, jpeg))
    sender.close()


@needs_broker
@pytest.mark.slow
def test_mqtt_reaches_a_broker_that_is_back(broker, jpeg):
    sender = MqttSender(broker.url, "cam", timeout=5)
    with pytest.raises(UnheardError):
        sender.send(OutgoingFrame("cam", 0, MOMENT, jpeg))
    broker.stop()
    with pytest.raises(UnreachableError):
        sender.send(OutgoingFrame("cam", 1, MOMENT, jpeg))
    assert not sender.reach(0.02)
    broker.start()
    assert sender.reach(5)
    with pytest.raises(UnheardError):
        sender.send(OutgoingFrame("cam", 2, MOMENT, jpeg))
    sender.close()
