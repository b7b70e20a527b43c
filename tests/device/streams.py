"""Network cameras on loopback: HTTP with any body, and RTSP over TCP (RFC 2326, RFC 6184)."""

import base64
import contextlib
import http.server
import re
import socket
import socketserver
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable


def paced(parts: Iterable[bytes], seconds: float = 0.04) -> Iterable[bytes]:
    """The parts, each so long after the one before, as a camera sends them."""
    for part in parts:
        yield part
        time.sleep(seconds)


@contextlib.contextmanager
def http_stream(
    body: Callable[[], Iterable[bytes]], content_type: str = "video/mp2t", context: ssl.SSLContext | None = None
):
    """Serve what `body` gives anew for every request, with TLS if there is a context; gives the port."""
    off = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Connection", "close")
            self.end_headers()
            try:
                for part in body():
                    if off.is_set():
                        break
                    self.wfile.write(part)
            except OSError:
                pass

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_port
    finally:
        off.set()
        server.shutdown()
        thread.join()
        server.server_close()


def until(event: threading.Event) -> Iterable[bytes]:
    """Nothing, until the event or for a minute: the connection stays open."""
    event.wait(60)
    yield from ()


def units(h264: bytes) -> list[list[bytes]]:
    """The NAL units of a raw H.264 stream, those of one picture together."""
    pictures: list[list[bytes]] = [[]]
    for unit in re.split(rb"\x00\x00\x00?\x01", h264)[1:]:
        kind = unit[0] & 31
        # first_mb_in_slice 0, or parameters, after a slice: another picture begins
        starts = kind not in (1, 5) or unit[1] & 0x80
        if starts and any(part[0] & 31 in (1, 5) for part in pictures[-1]):
            pictures.append([])
        pictures[-1].append(unit)
    return pictures


SDP = b"""v=0\r
o=- 0 0 IN IP4 127.0.0.1\r
s=camera\r
c=IN IP4 0.0.0.0\r
t=0 0\r
m=video 0 RTP/AVP 96\r
a=rtpmap:96 H264/90000\r
a=fmtp:96 packetization-mode=1\r
a=control:track1\r
"""


@contextlib.contextmanager
def rtsp_stream(pictures: list[list[bytes]], user: str, password: str, fps: int = 25, sent: list[float] | None = None):
    """Serve pictures of H.264 again and again to who knows user and password, in their time; gives the port.

    `sent` gets the monotonic time of every picture.
    """
    allowed = b"Basic " + base64.b64encode(f"{user}:{password}".encode())
    off = threading.Event()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            with contextlib.suppress(OSError):
                while request := self.request_headers():
                    self.answer(*request)

        def request_headers(self):
            lines = []
            while (line := self.rfile.readline()).strip():
                lines.append(line.strip())
            if not lines:
                return None
            headers = dict(line.split(b": ", 1) for line in lines[1:])
            return lines[0].split()[0], headers

        def answer(self, method, headers):
            if headers.get(b"Authorization") != allowed:
                self.say(b"401 Unauthorized", headers, b'WWW-Authenticate: Basic realm="camera"\r\n')
            elif method == b"DESCRIBE":
                self.say(b"200 OK", headers, b"Content-Type: application/sdp\r\n", SDP)
            elif method == b"SETUP":
                self.say(b"200 OK", headers, b"Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n")
            elif method == b"PLAY":
                self.say(b"200 OK", headers, b"Session: 1\r\n")
                self.play()
            else:
                self.say(b"200 OK", headers, b"Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n")

        def say(self, status, headers, more=b"", body=b""):
            self.wfile.write(
                b"RTSP/1.0 %s\r\nCSeq: %s\r\n%sContent-Length: %d\r\n\r\n%s"
                % (status, headers[b"CSeq"], more, len(body), body)
            )

        def play(self):
            sequence = number = 0
            while True:
                for picture in pictures:
                    if sent is not None:
                        sent.append(time.monotonic())
                    for index, unit in enumerate(picture):
                        last = 0x80 if index == len(picture) - 1 else 0
                        head = struct.pack(">BBHII", 0x80, last | 96, sequence % 65536, number * 90000 // fps, 7)
                        self.wfile.write(struct.pack(">BBH", 0x24, 0, len(head + unit)) + head + unit)
                        sequence += 1
                    number += 1
                    if off.wait(1 / fps):
                        return

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        off.set()
        server.shutdown()
        thread.join()
        server.server_close()
