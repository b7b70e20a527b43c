"""Frames to the server over HTTP: real sockets, and servers that misbehave in every way."""

import contextlib
import http.server
import itertools
import json
import re
import socketserver
import ssl
import subprocess
import threading
import time

import pytest

from device.config import DeliveryConfig
from device.delivery import http_sender, open_sender
from device.delivery.http_sender import HttpSender
from device.delivery.sender import (
    BaseMissingError,
    FaultError,
    RefusedError,
    RejectedError,
    RetryLaterError,
    UnreachableError,
)
from device.frames import OutgoingFrame
from rjpeg.errors import ConfigError, DeliveryError


@pytest.fixture
def frame(moment):
    return OutgoingFrame("cam-1", 7, moment, b"jpeg")


@pytest.fixture
def open_http():
    with contextlib.ExitStack() as stack:

        def start(server, token=None, **options) -> HttpSender:
            sender = HttpSender(server, token, **({"timeout": 5.0} | options))
            stack.callback(sender.close)
            return sender

        yield start


class Talker(socketserver.ThreadingTCPServer):
    """Hands each connection, once the head of a request is there, to `talk`; counts the connections."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, talk, read_first=True):
        self.connections = 0
        talker = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                talker.connections += 1
                with contextlib.suppress(OSError):
                    if read_first:
                        self.request.recv(65536)
                    talk(self.request)

        super().__init__(("127.0.0.1", 0), Handler)
        self.port = self.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


def words(status, body, kind="application/json", more=""):
    """A whole answer."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


# of the frame that `frame` is
RECORD = {"camera": "cam-1", "sequence": 7, "capture_time": "2026-03-04T05:06:07.000089Z", "results": None}
YES = words("201 Created", json.dumps(RECORD).encode())


def read_request(connection):
    """Take in a whole request; its size in bytes."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += received_part(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    size = len(head) + 4 + int(re.search(rb"(?i)content-length: (\d+)", head)[1])
    got = len(head) + 4 + len(body)
    while got < size:
        got += len(received_part(connection))
    return size


def received_part(connection):
    part = connection.recv(2**20)
    if not part:
        raise ConnectionError
    return part


def test_a_frame_travels_with_its_camera_number_time_and_metrics(recorder, open_http, frame):
    sender = open_http(recorder.url + "/", "s3cret")
    assert sender.send(frame) == f"{recorder.url}/v1/cameras/cam-1/frames"
    sender.send(frame._replace(metrics='{"temperature":48}'))
    (path, headers, body), (_, with_metrics, _) = recorder.requests
    assert (path, body) == ("/v1/cameras/cam-1/frames", b"jpeg")
    assert headers["Content-Type"] == "image/jpeg"
    assert headers["Rjpeg-Sequence"] == "7"
    assert headers["Rjpeg-Capture-Time"] == "2026-03-04T05:06:07.000089Z"
    assert headers["Authorization"] == "Bearer s3cret"
    assert "Rjpeg-Metrics" not in headers
    assert with_metrics["Rjpeg-Metrics"] == '{"temperature":48}'


@pytest.mark.parametrize("metrics", ['{"a":"\xe9"}', '{\n"a":1}', '{"a":"' + "x" * 8192 + '"}'])
def test_metrics_that_fit_no_header_are_left_out_and_the_frame_is_sent(recorder, open_http, frame, metrics, caplog):
    open_http(recorder.url).send(frame._replace(metrics=metrics))
    assert "Rjpeg-Metrics" not in recorder.requests[0][1]
    assert "left out" in caplog.text


def test_no_proxy_or_netrc_comes_between_this_machine_and_itself(recorder, open_http, frame, monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    open_http(recorder.url, "s3cret").send(frame)
    assert recorder.requests[0][1]["Authorization"] == "Bearer s3cret"


@pytest.mark.slow
def test_a_proxy_is_used_where_the_environment_names_one(open_http, frame, monkeypatch):
    seen = []

    def talk(connection):
        seen.append(True)
        connection.sendall(YES)

    with Talker(talk) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        open_http("http://server.example").send(frame)
    assert seen


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (429, DeliveryError),
        (503, DeliveryError),
        (507, DeliveryError),
        (422, RejectedError),
        (413, RejectedError),
        (400, RejectedError),
        (523, DeliveryError),
        (500, FaultError),
        (401, RefusedError),
        (404, RefusedError),
        (409, RefusedError),
        (302, DeliveryError),
        (202, DeliveryError),
        (204, DeliveryError),
    ],
)
def test_answers_of_the_server_are_told_apart(recorder, open_http, frame, status, error):
    recorder.answers = [(status, {"Location": "http://127.0.0.1:1/"})]
    with pytest.raises(DeliveryError, match=str(status)) as caught:
        open_http(recorder.url).send(frame)
    assert type(caught.value) is error


def test_a_server_that_lacks_the_key_names_it(recorder, open_http, frame):
    recorder.answers = [(409, {}, b'{"error": "key missing", "id": "3fa2c1", "kind": "patch"}')]
    with pytest.raises(BaseMissingError, match=r"answered 409: key missing \(3fa2c1\)") as caught:
        open_http(recorder.url).send(frame)
    assert caught.value.id == "3fa2c1"


@pytest.mark.parametrize("name", ['"3FA2C1"', '"3fa2c"', '"3fa2c1 "', "4170433", "null", '"../../x"'])
def test_a_key_that_is_named_as_none_can_be_is_not_looked_for(recorder, open_http, frame, name):
    recorder.answers = [(409, {}, b'{"error": "key missing", "id": %b}' % name.encode())]
    with pytest.raises(RefusedError):
        open_http(recorder.url).send(frame)


PAGE = b"<!DOCTYPE html><title>Welcome to the hotel</title>"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (200, DeliveryError),
        (201, DeliveryError),
        (203, DeliveryError),
        (302, DeliveryError),
        (307, DeliveryError),
        (400, FaultError),
        (401, DeliveryError),
        (403, DeliveryError),
        (404, DeliveryError),
        (407, DeliveryError),
        (409, DeliveryError),
        (413, FaultError),
        (422, FaultError),
        (500, FaultError),
        (502, DeliveryError),
        (511, DeliveryError),
    ],
)
@pytest.mark.parametrize("body", [PAGE, b"", b'{"message": "log in"}', b'{"error": 5}', b'["error"]', b"[" * 60_000])
def test_what_a_portal_or_proxy_answers_neither_delivers_a_frame_nor_rejects_one_nor_ends_the_program(
    recorder, open_http, frame, status, error, body
):
    recorder.answers = [(status, {"Location": "http://login.example/", "Content-Type": "text/html; charset=x"}, body)]
    with pytest.raises(DeliveryError, match=f"answered {status}") as caught:
        open_http(recorder.url).send(frame)
    assert type(caught.value) is error


def test_what_came_in_place_of_an_acknowledgment_is_told(recorder, open_http, frame):
    recorder.answers = [(200, {"Content-Type": "text/html; charset=utf-8"}, PAGE), (302, {"Location": "/login"}, b"")]
    sender = open_http(recorder.url)
    with pytest.raises(DeliveryError, match=r"answered 200 with no acknowledgment \(text/html\): is there a portal"):
        sender.send(frame)
    with pytest.raises(DeliveryError, match=r"answered 302, a redirection to '/login': is there a portal"):
        sender.send(frame)


@pytest.mark.parametrize(
    "change",
    [
        {"camera": "cam-2"},
        {"camera": "CAM-1"},
        {"sequence": 8},
        {"sequence": None},
        {"sequence": "7"},
        {"camera": 1},
        {"capture_time": "2026-03-04T05:06:07.000088Z"},
        {"capture_time": "2026-03-04T05:06:07.000089+01:00"},
        {"capture_time": "2026-03-04T05:06:07.000089"},
        {"capture_time": "now"},
    ],
)
def test_an_acknowledgment_of_another_frame_is_none_of_this_one(recorder, open_http, frame, change):
    recorder.answers = [(201, {}, json.dumps(RECORD | change).encode())]
    with pytest.raises(DeliveryError, match=r"answered 201 with (no|an) acknowledgment") as caught:
        open_http(recorder.url).send(frame)
    assert type(caught.value) is DeliveryError


@pytest.mark.parametrize(
    "change", [{"capture_time": "2026-03-04T07:06:07.000089+02:00"}, {"results": ["x" * 1000] * 2000}, {"id": 9}]
)
def test_an_acknowledgment_may_say_more_and_the_time_in_its_own_way(recorder, open_http, frame, change):
    recorder.answers = [(200, {}, json.dumps(RECORD | change).encode())]
    open_http(recorder.url).send(frame)


@pytest.mark.slow
def test_half_an_acknowledgment_is_none_wherever_it_is_cut(recorder, open_http, frame):
    whole = json.dumps(RECORD).encode()
    sender = open_http(recorder.url)
    for length in range(len(whole)):
        recorder.answers = [(201, {}, whole[:length])]
        with pytest.raises(DeliveryError, match="no acknowledgment"):
            sender.send(frame)
    recorder.answers = [(201, {}, whole)]
    sender.send(frame)


def test_an_answer_in_chunks_is_read_to_its_end(open_http, frame):
    def chunked(body, size):
        parts = [body[at : at + size] for at in range(0, len(body), size)]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in [*parts, b""])
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + chunks

    answers = iter([chunked(json.dumps(RECORD).encode(), 11), chunked(PAGE, 7)])
    with Talker(lambda connection: connection.sendall(next(answers))) as server:
        sender = open_http(server.url)
        sender.send(frame)
        with pytest.raises(DeliveryError, match="no acknowledgment"):
            sender.send(frame)


def test_a_server_that_asks_for_a_pause_is_heard(recorder, open_http, frame):
    recorder.answers = [(503, {"Retry-After": "7"}), (503, {"Retry-After": "soon"})]
    sender = open_http(recorder.url)
    with pytest.raises(RetryLaterError, match="503") as caught:
        sender.send(frame)
    assert caught.value.retry_after == 7
    with pytest.raises(DeliveryError, match="503") as caught:
        sender.send(frame)
    assert type(caught.value) is DeliveryError


def test_connections_are_used_again_also_after_an_error(open_http, frame):
    def talk(connection):
        no = b'{"error":"why"}'
        for answer in itertools.cycle([YES, words("422 No", no), words("503 Later", no)]):
            read_request(connection)
            connection.sendall(answer)

    with Talker(talk, read_first=False) as server:
        sender = open_http(server.url)
        for _ in range(3):
            sender.send(frame)
            with pytest.raises(RejectedError, match="422: why"):
                sender.send(frame)
            with pytest.raises(DeliveryError, match="503: why"):
                sender.send(frame)
        assert server.connections == 1


def hang(connection):
    time.sleep(20)


def trickle(start, rest=b"x"):
    def talk(connection):
        connection.sendall(start)
        while True:
            connection.sendall(rest)
            time.sleep(0.05)

    return talk


@pytest.mark.slow
@pytest.mark.parametrize(
    "talk",
    [
        hang,
        trickle(b"HTTP/1.1 20"),
        trickle(b"HTTP/1.1 201 Created\r\nX-Long: "),
        trickle(b"HTTP/1.1 201 Created\r\n", b"X-A: b\r\n"),
        trickle(b"HTTP/1.1 201 Created\r\nContent-Length: 100000\r\n\r\n"),
        trickle(b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        trickle(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
)
def test_a_server_that_hangs_or_answers_byte_by_byte_is_given_up_in_time(open_http, frame, talk):
    with Talker(talk) as server:
        sender = open_http(server.url, timeout=0.6)
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises(DeliveryError, match="can't be reached") as caught:
                sender.send(frame)
            assert type(caught.value) is UnreachableError
            assert 0.3 < time.monotonic() - started < 1.5


@pytest.mark.slow
def test_a_server_that_takes_in_nothing_is_given_up_in_time(open_http, frame):
    with Talker(hang, read_first=False) as server:
        sender = open_http(server.url, timeout=0.6)
        started = time.monotonic()
        with pytest.raises(DeliveryError, match="no answer in time"):
            sender.send(frame._replace(jpeg=bytes(50_000_000)))
        assert time.monotonic() - started < 1.5


@pytest.mark.slow
@pytest.mark.parametrize("words", [b"", b"\x16\x03\x03"])
def test_a_tls_handshake_that_hangs_is_given_up_in_time(open_http, frame, words):
    with Talker(trickle(b"", words)) as server:
        sender = open_http(server.url.replace("http:", "https:"), timeout=0.6)
        started = time.monotonic()
        with pytest.raises(DeliveryError, match="can't be reached"):
            sender.send(frame)
        assert time.monotonic() - started < 1.5


@pytest.mark.slow
def test_a_frame_that_took_long_does_not_cut_off_the_next(open_http, frame):
    def talk(connection):
        while True:
            read_request(connection)
            time.sleep(0.4)
            connection.sendall(YES)

    with Talker(talk, read_first=False) as server:
        sender = open_http(server.url, timeout=0.7)
        for _ in range(4):
            sender.send(frame)
        assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 201 Cre",
        b"HTTP/1.1 201 Created\r\nContent-Length: 10\r\n\r\nxx",
        b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 201 Created\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 201 Created\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    ],
)
def test_an_answer_that_breaks_off_or_is_none_is_no_acknowledgment(open_http, frame, answer):
    with Talker(lambda connection: connection.sendall(answer)) as server:
        with pytest.raises(DeliveryError, match="can't be reached") as caught:
            open_http(server.url).send(frame)
        assert type(caught.value) is UnreachableError


@pytest.mark.parametrize("status", [200, 422])
def test_of_a_long_answer_only_the_beginning_is_read(open_http, frame, status):
    sent = []

    def talk(connection):
        connection.sendall(b"HTTP/1.1 %d No\r\nContent-Length: 1000000000\r\n\r\n" % status)
        with contextlib.suppress(OSError):
            for _ in range(10_000):
                connection.sendall(bytes(100_000))
                sent.append(100_000)

    with Talker(talk) as server, pytest.raises(DeliveryError, match=f"answered {status} with no"):
        open_http(server.url).send(frame)
    assert sum(sent) < 50_000_000


@pytest.mark.slow
def test_a_reason_that_is_no_json_is_no_traceback(open_http, frame):
    for body in (b"[" * 60_000, b"\xff", b'{"error": {}}', b"[]", b"null"):
        head = b"HTTP/1.1 422 No\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        with (
            Talker(lambda connection, answer=head + body: connection.sendall(answer)) as server,
            pytest.raises(FaultError, match="422"),
        ):
            open_http(server.url).send(frame)


def test_addresses_that_are_none_are_errors_and_no_tracebacks(open_http, frame):
    with pytest.raises(ConfigError, match=r"delivery\.server: 'http://\[::1' is no URL"):
        open_http("http://[::1")
    for server in ("http://a..b", "http://a:99999", "http://a b", "http://\u2603."):
        with pytest.raises(DeliveryError):
            open_http(server).send(frame)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("own", "other"):
        subprocess.run(
            [
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=localhost",
                "-addext",
                "subjectAltName=DNS:localhost",
                "-keyout",
                f"{name}.key",
                "-out",
                f"{name}.pem",
            ],
            cwd=folder,
            capture_output=True,
            check=True,
        )
    return folder


@pytest.fixture
def tls_server(certificates):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.wfile.write(YES)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "own.pem", certificates / "own.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"https://localhost:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
def test_a_server_with_a_certificate_of_your_own_is_trusted_by_ca_file_alone(
    tls_server, certificates, open_http, frame, monkeypatch
):
    own, other = str(certificates / "own.pem"), str(certificates / "other.pem")
    # what the environment says of certificates doesn't count against the configuration
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", other)
    sender = open_sender(DeliveryConfig(server=tls_server, ca_file=own, timeout_seconds=5), "cam-1")
    for _ in range(2):
        assert sender.send(frame).startswith(tls_server)
    sender.close()
    for ca_file in (other, None):
        with pytest.raises(DeliveryError, match="its certificate is not trusted"):
            open_http(tls_server, ca_file=ca_file).send(frame)
    with pytest.raises(ConfigError, match="can't read ca_file"):
        open_http(tls_server, ca_file="missing.pem")


def test_without_ca_file_the_authorities_are_the_systems(tls_server, certificates, open_http, frame, monkeypatch):
    # so OpenSSL is told of another file than the system's
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "own.pem"))
    sender = open_http(tls_server)
    for _ in range(2):
        assert sender.send(frame).startswith(tls_server)
    with pytest.raises(DeliveryError, match="its certificate is not trusted"):
        open_http(tls_server, ca_file=str(certificates / "other.pem")).send(frame)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "other.pem"))
    with pytest.raises(DeliveryError, match=f"server {tls_server} can't be reached: its certificate is not trusted"):
        open_http(tls_server).send(frame)


def test_authorities_that_the_environment_names_for_requests_do_not_count(
    tls_server, certificates, open_http, frame, monkeypatch
):
    # requests looks at the environment, as it does for a server elsewhere; and there is no proxy
    monkeypatch.setattr(http_sender, "is_loopback", lambda _host: False)
    monkeypatch.setenv("NO_PROXY", "localhost")
    monkeypatch.setenv("no_proxy", "localhost")
    own, other = str(certificates / "own.pem"), str(certificates / "other.pem")
    for said in (other, str(certificates / "missing.pem")):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", said)
        assert open_http(tls_server, ca_file=own).send(frame).startswith(tls_server)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", own)
    for ca_file in (other, None):
        with pytest.raises(DeliveryError, match="its certificate is not trusted"):
            open_http(tls_server, ca_file=ca_file).send(frame)


def test_a_token_that_others_can_read_is_warned_of(open_http, caplog):
    open_http("http://127.0.0.1", "s3cret")
    open_http("https://server.example", "s3cret")
    assert not caplog.records
    open_http("http://server.example", "s3cret")
    assert "the token goes to http://server.example unencrypted" in caplog.text
    assert "s3cret" not in caplog.text


def test_the_overhead_is_an_estimate_that_is_rather_too_high(open_http, frame):
    received = []

    def talk(connection):
        while True:
            received.append(read_request(connection))
            connection.sendall(YES)

    with Talker(talk, read_first=False) as server:
        sender = open_http(server.url, "t" * 64)
        for size in (300_000, 40_000, 3_000, 3_000):
            estimate = sender.overhead(size)
            sender.send(frame._replace(jpeg=bytes(size)))
            packets = 72 * (size // 1220 + 1)
            assert received[-1] - size + packets <= estimate, size
            assert estimate <= 2 * packets + 1500
