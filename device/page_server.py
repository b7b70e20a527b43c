"""An HTTP server for the local page, with limits on all that a visitor may take.

A connection has one request, and takes one of MAX_CONNECTIONS threads. A visitor who sends too much, or
sends or reads too slowly, is cut off.

Why not Starlette and uvicorn, as in the server? Measured with 8 visitors who watch 50 pictures of 50 kB a second
(x86-64, Python 3.11):

|                               | this module | Starlette 1.10, uvicorn 0.54 |
|-------------------------------|------------:|-----------------------------:|
| time to import                |        0 ms |                        60 ms |
| memory, without a visitor     |      0.2 MB |                       3.8 MB |
| memory, 8 visitors            |      1.4 MB |                       5.6 MB |
| CPU time, a visitor's picture |     0.08 ms |                      0.11 ms |
| packages on the device        |           0 |                            6 |

The import is free because prometheus-client needs `http.server` anyway. uvicorn limits neither the time that a
request's head takes, nor idle connections, nor readers that take nothing. Its end waits for answers under way. A
protocol class of our own, on uvicorn's internals, would have to do all that. It would be as long as this module.
"""

import contextlib
import http.server
import io
import ipaddress
import json
import logging
import re
import select
import socket
import socketserver
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from device.page_access import Access
from rjpeg.errors import ConfigError

__all__ = ["Answer", "PageServer", "Stream", "parse_address", "text_answer"]

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 16
MAX_STREAMS = 8
MAX_REQUEST_BYTES = 16_384
REQUEST_SECONDS = 5.0
# for one answer, or one part of a stream, to leave
SEND_SECONDS = 10.0
# for threads to end after their connections were cut
CLOSE_SECONDS = 0.5
# connections that were answered with _BUSY, and are closed a little later
MAX_TURNED_AWAY, TURNED_AWAY_SECONDS = 64, 1.0

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; connect-src 'self'; style-src 'self'; "
    "script-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_BUSY = b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 21\r\n\r\ntoo many connections\n"
_WANTS_PASSWORD = {"WWW-Authenticate": 'Basic realm="rjpeg device", charset="UTF-8"'}


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    body: bytes
    content_type: str
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stream:
    """An answer without an end.

    Attributes:
        parts: bytes to send. Between two parts the server looks whether the visitor is still there, so an empty one
            has to come about once a second.
        content_type: of the whole.
    """

    parts: Iterator[bytes]
    content_type: str


def text_answer(status: HTTPStatus, text: str = "", headers: Mapping[str, str] | None = None) -> Answer:
    """Make an answer of one line; "": the status's own words."""
    return Answer(f"{text or status.phrase.lower()}\n".encode(), "text/plain; charset=utf-8", status, headers or {})


class PageServer(http.server.ThreadingHTTPServer):
    """Listens from here on, and answers from `start` on.

    Args:
        listen: HOST:PORT; port 0: any.
        password: see `Access`.
        answer: called with the target of a GET or HEAD request (RFC 9112, 3.2), from any thread.
        open_targets: targets that need no password.

    Attributes:
        address: URL of the page.
        loopback: whether only this machine reaches it.

    Raises:
        ConfigError: the address can't be listened on, or `Access` refuses the password.
    """

    daemon_threads = True
    block_on_close = False
    # a port that was in use a moment ago is no reason not to start
    allow_reuse_address = True
    request_queue_size = 32

    def __init__(
        self,
        listen: str,
        password: str | None,
        answer: Callable[[str], Answer | Stream],
        *,
        open_targets: frozenset[str] = frozenset(),
    ) -> None:
        self.answer = answer
        self.open_targets = open_targets
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._streams = 0
        self._turned_away: deque[tuple[float, socket.socket]] = deque()
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.1}, name="view", daemon=True
        )
        name, port = parse_address(listen)
        try:
            self.address_family, host = _resolve(name, port)
            self.loopback = ipaddress.ip_address(host.partition("%")[0]).is_loopback
            self.access = Access(listen, loopback=self.loopback, password=password)
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise ConfigError(f"view.listen: can't listen on {listen}: {error.strerror or error}") from error
        self.address = f"http://{f'[{host}]' if ':' in host else host}:{self.server_address[1]}"

    @property
    def connections(self) -> int:
        """Connections that are being answered now."""
        with self._lock:
            return len(self._connections)

    @property
    def streams(self) -> int:
        """Streams that are being sent now."""
        with self._lock:
            return self._streams

    @property
    def closing(self) -> bool:
        """Whether `close` was called."""
        return self._closing.is_set()

    def start(self) -> None:
        """Answer requests, in threads of its own."""
        self._thread.start()

    def close(self) -> None:
        """Stop at once, in the middle of answers too. Takes less than a second."""
        self._closing.set()
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join()
        self.server_close()
        with self._lock:
            connections = dict(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        end = time.monotonic() + CLOSE_SECONDS
        for thread in connections.values():
            thread.join(max(0.0, end - time.monotonic()))

    @contextlib.contextmanager
    def stream_slot(self) -> Iterator[bool]:
        """Hold one of MAX_STREAMS slots. Yields whether one was free."""
        with self._lock:
            free = self._streams < MAX_STREAMS
            self._streams += free
        try:
            yield free
        finally:
            with self._lock:
                self._streams -= free

    def server_bind(self) -> None:
        """Bind the socket; the base class would ask the DNS for this machine's name besides."""
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection a thread, or turn it away."""
        with self._lock:
            if len(self._connections) < MAX_CONNECTIONS:
                thread = threading.Thread(
                    target=self._serve, args=(request, client_address), name="view-request", daemon=True
                )
                self._connections[request] = thread
                try:
                    thread.start()
                except RuntimeError:  # no more threads
                    del self._connections[request]
                else:
                    return
        self._turn_away(request)

    def service_actions(self) -> None:
        """Close connections that were turned away a little while ago."""
        while self._turned_away and self._turned_away[0][0] < time.monotonic():
            self._turned_away.popleft()[1].close()

    def server_close(self) -> None:
        """Stop listening."""
        super().server_close()
        for _, connection in self._turned_away:
            connection.close()
        self._turned_away.clear()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Log an error of our own."""
        logger.exception("the local page failed")

    def _serve(self, request: socket.socket, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:
            # the other side went away, was too slow, or `close` cut it off
            pass
        except Exception:  # noqa: BLE001
            self.handle_error(request, client_address)
        finally:
            _end(request)
            with self._lock:
                del self._connections[request]
            request.close()

    def _turn_away(self, request: socket.socket) -> None:
        # closed only a little later: closing while its request is unread would cancel the answer
        with contextlib.suppress(OSError):
            request.setblocking(False)
            request.send(_BUSY)
            request.shutdown(socket.SHUT_WR)
        self._turned_away.append((time.monotonic() + TURNED_AWAY_SECONDS, request))
        if len(self._turned_away) > MAX_TURNED_AWAY:
            self._turned_away.popleft()[1].close()


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection with one request."""

    server: PageServer

    def setup(self) -> None:
        self.connection = self.request
        # what a slow viewer has not read is not worth much memory
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 131_072)
        # the end of a picture is not to wait for an answer to its beginning
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rfile = io.BufferedReader(_LimitedReader(self.connection))

    def finish(self) -> None:
        self.rfile.close()

    def handle(self) -> None:
        self.close_connection = True
        self.requestline = self.request_version = self.command = ""
        try:
            self.raw_requestline = self.rfile.readline()
            if not self.raw_requestline.endswith(b"\n") or not self.parse_request():
                return
        except TimeoutError:
            self.send_error(HTTPStatus.REQUEST_TIMEOUT)
            return
        except _TooLargeError:
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return
        self.connection.settimeout(SEND_SECONDS)
        if self.request_version != "HTTP/0.9":
            answer = self._refusal() or self.server.answer(self.path)
            if isinstance(answer, Stream):
                self._send_stream(answer)
            else:
                self._send(answer)

    def _refusal(self) -> Answer | None:
        """Return what a request is answered that has no right to more."""
        access, address = self.server.access, str(self.client_address[0])
        if self.command not in ("GET", "HEAD"):
            return text_answer(HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": "GET, HEAD"})
        if not access.allows_host(self.headers.get("Host", "")):
            return text_answer(HTTPStatus.MISDIRECTED_REQUEST, "ask for localhost or 127.0.0.1")
        if self.path in self.server.open_targets or not access.needs_password:
            return None
        authorization = self.headers.get("Authorization")
        if authorization is not None:
            if (wait := access.wait(address)) > 0:
                headers = {"Retry-After": str(int(wait) + 1)}
                return text_answer(HTTPStatus.TOO_MANY_REQUESTS, "too many wrong passwords", headers)
            if access.accepts(authorization, address):
                return None
        return text_answer(HTTPStatus.UNAUTHORIZED, headers=_WANTS_PASSWORD)

    def _send_stream(self, stream: Stream) -> None:
        with self.server.stream_slot() as free:
            if not free:
                headers = {"Retry-After": "5"}
                self._send(text_answer(HTTPStatus.SERVICE_UNAVAILABLE, "too many streams", headers))
                return
            waiting = self._head(HTTPStatus.OK, {"Content-Type": stream.content_type})
            if self.command == "HEAD":
                self.connection.sendall(waiting)
                return
            for part in stream.parts:
                if self.server.closing or self._gone():
                    return
                if part:
                    self.connection.sendall(waiting + part)
                    waiting = b""

    def _gone(self) -> bool:
        """Return whether the visitor has closed the connection; it has nothing more to say."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        if not readable:
            return False
        return self.connection.recv(4096) == b""

    def _send(self, answer: Answer) -> None:
        headers = {"Content-Type": answer.content_type, "Content-Length": str(len(answer.body)), **answer.headers}
        head = self._head(answer.status, headers)
        self.connection.sendall(head if self.command == "HEAD" else head + answer.body)

    def _head(self, status: HTTPStatus, headers: Mapping[str, str]) -> bytes:
        self.log_request(status)
        lines = [f"HTTP/1.0 {status.value} {status.phrase}"]
        lines += [f"{name}: {value}" for name, value in {**_HEADERS, **headers}.items()]
        return "\r\n".join([*lines, "", ""]).encode()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Answer a request that is no HTTP; nothing of it is repeated. The base class calls this, too."""
        self.connection.settimeout(SEND_SECONDS)
        self.request_version = "HTTP/1.0"
        self._send(text_answer(HTTPStatus(code)))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        logger.debug("%s %s", self.client_address[0], json.dumps(format % args)[:300])


class _TooLargeError(Exception):
    pass


class _LimitedReader(io.RawIOBase):
    """Reads a connection for REQUEST_SECONDS, and MAX_REQUEST_BYTES in all. Raises TimeoutError, _TooLargeError."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._end = time.monotonic() + REQUEST_SECONDS
        self._room = MAX_REQUEST_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._end - time.monotonic()
        if self._room <= 0:
            raise _TooLargeError
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        number = self._connection.recv_into(memoryview(buffer)[: self._room])
        self._room -= number
        return number


def parse_address(text: str) -> tuple[str, int]:
    """Split `HOST:PORT` or `[IPV6]:PORT`.

    Returns:
        Host, without brackets, and port.

    Raises:
        ConfigError: the text is neither.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ConfigError(f"view.listen is {text!r}, expected HOST:PORT with a port from 0 (any) to 65535")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _resolve(name: str, port: int) -> tuple[socket.AddressFamily, str]:
    """Return the family and the address that a name stands for; "": all of this machine. Raises OSError."""
    family, _, _, _, address = socket.getaddrinfo(name or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
        0
    ]
    return family, str(address[0])


def _end(connection: socket.socket) -> None:
    """Close the sending half and read on for a little: closing with unread bytes would cancel the answer."""
    end = time.monotonic() + 1.0
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        for _ in range(16):
            connection.settimeout(max(0.01, end - time.monotonic()))
            if not connection.recv(65536):
                break
