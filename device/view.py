"""The local page: what is sent, as pictures and numbers, for a browser near the device.

A request takes one of a bounded number of threads, may last and hold only so much, and never makes the pipeline
wait: `show` puts down a reference to the newest file, and a viewer that is too slow misses files.

What the network says is hostile. On loopback the Host header must name this machine, or a web page from elsewhere
could read the pictures by letting its own name lead here (DNS rebinding); elsewhere a password is needed.
"""

import base64
import binascii
import contextlib
import hmac
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
from collections import OrderedDict, deque
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from device.metrics import CONTENT_TYPE, Metrics
from rjpeg._protocol import CAMERA_ID
from rjpeg.errors import ConfigError

__all__ = ["View", "parse_address"]

logger = logging.getLogger(__name__)

USER = "rjpeg"
SHORTEST_PASSWORD = 8
MAX_CONNECTIONS = 16
MAX_STREAMS = 8
MAX_REQUEST_BYTES = 16_384
REQUEST_SECONDS = 5.0
# for one answer, or one picture of a stream, to leave
SEND_SECONDS = 10.0
# an unchanged picture is sent again after so long: a camera may have nothing new to say for a minute
REPEAT_SECONDS = 5.0
# wrong passwords from one address, in so many seconds, before it has to wait
MAX_FAILURES, FAILURE_SECONDS = 10, 60.0
BOUNDARY = "rjpeg-frame"
PART_HEAD = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\n\r\n".encode()

_PAGE = Path(__file__).with_name("page")
_ASSETS = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_PICTURE_PATH = re.compile(rf"/cameras/({CAMERA_ID})/(stream|frame\.jpg)")
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


class View:
    """The server; it listens from here on and answers from `start` on.

    Args:
        listen: HOST:PORT; port 0: any.
        password: of the user "rjpeg"; None: anyone on this machine may look.
        metrics: shown at /metrics, and camera by camera at /status.
        status: called for each request of /status, from any thread. Its dict is shown as it is; what it has under
            "cameras", by id, is shown with the camera's metrics; "ok": False makes /healthz answer 503.

    Raises:
        ConfigError: the address can't be listened on; or isn't on loopback, and there is no password or a short one.
    """

    def __init__(
        self, listen: str, password: str | None, metrics: Metrics, status: Callable[[], dict[str, Any]]
    ) -> None:
        self._metrics = metrics
        self._status = status
        self._pictures: dict[str, _Picture] = {}
        self._lock = threading.Lock()
        self._assets = {path: ((_PAGE / name).read_bytes(), kind) for path, (name, kind) in _ASSETS.items()}
        self._server = _open_server(listen, password, self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="view", daemon=True
        )
        host, port = self._server.server_address[:2]
        self.address = f"http://{_bracketed(str(host))}:{port}"

    def start(self) -> None:
        """Answer requests, in threads of its own."""
        self._thread.start()
        logger.info("local page at %s", self.address)
        if not self._server.loopback:
            logger.warning("the local page's password and pictures travel unencrypted")

    def show(self, camera: str, jpeg: bytes) -> None:
        """The newest file of a camera. Never waits."""
        picture = self._picture(camera)
        with picture.changed:
            picture.jpeg = jpeg
            picture.number += 1
            picture.changed.notify_all()

    def close(self) -> None:
        """Stop at once, in the middle of answers too; takes less than a second."""
        self._server.closing.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        with self._lock:
            pictures = list(self._pictures.values())
        for picture in pictures:
            with picture.changed:
                picture.changed.notify_all()
        self._server.end_connections(0.5)

    def status(self) -> dict[str, Any]:
        """What /status answers."""
        said = self._status()
        own = said.get("cameras", {})
        with self._lock:
            shown = list(self._pictures)
        counted = {camera.camera: camera.values() for camera in self._metrics.cameras}
        ids = dict.fromkeys([*counted, *own, *shown])
        return (
            self._metrics.process()
            | said
            | {"cameras": {name: counted.get(name, {}) | own.get(name, {}) for name in ids}}
        )

    def healthy(self) -> bool:
        """What /healthz answers."""
        return bool(self._status().get("ok", True))

    def exposition(self) -> bytes:
        """What /metrics answers."""
        return self._metrics.exposition()

    def asset(self, path: str) -> tuple[bytes, str] | None:
        """Content and type of a part of the page."""
        return self._assets.get(path)

    def known_picture(self, camera: str) -> "_Picture | None":
        """The newest picture of a camera that there is."""
        if camera in self._pictures or any(camera == known.camera for known in self._metrics.cameras):
            return self._picture(camera)
        return None

    def _picture(self, camera: str) -> "_Picture":
        with self._lock:
            return self._pictures.setdefault(camera, _Picture())


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`, `[IPV6]:PORT`. Raises ConfigError."""
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ConfigError(f"view.listen is {text!r}, expected HOST:PORT with a port from 0 (any) to 65535")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _check_password(loopback: bool, listen: str, password: str | None) -> None:
    """Raises ConfigError where an address that others reach has no password, or one that is soon guessed."""
    advice = "make one with: (umask 077; openssl rand -hex 16 > password)"
    if loopback:
        return
    if password is None:
        raise ConfigError(
            f"view.listen {listen} can be reached from other machines and needs view.password_file; {advice}"
        )
    if len(password) < SHORTEST_PASSWORD:
        raise ConfigError(
            f"view.password_file: the password has {len(password)} characters, "
            f"expected at least {SHORTEST_PASSWORD} where other machines reach it; {advice}"
        )


class _Picture:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.jpeg: bytes | None = None
        self.number = 0


class _Failures:
    """Wrong passwords by address, of the last so many addresses."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def add(self, address: str) -> None:
        with self._lock:
            self._times.setdefault(_network(address), deque(maxlen=MAX_FAILURES)).append(time.monotonic())
            self._times.move_to_end(_network(address))
            if len(self._times) > 1024:
                self._times.popitem(last=False)

    def wait(self, address: str) -> float:
        """Seconds for which this address may not try again."""
        with self._lock:
            times = self._times.get(_network(address))
            if times is None or len(times) < MAX_FAILURES:
                return 0.0
            return times[0] + FAILURE_SECONDS - time.monotonic()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    # a port that was in use a moment ago is no reason not to start
    allow_reuse_address = True
    request_queue_size = 32

    def __init__(
        self, family: socket.AddressFamily, address: tuple[str, int], loopback: bool, password: str | None, view: View
    ) -> None:
        self.address_family = family
        self.loopback = loopback
        self.password = password
        self.view = view
        self.closing = threading.Event()
        self.streams = threading.BoundedSemaphore(MAX_STREAMS)
        self.failures = _Failures()
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._turned_away: deque[tuple[float, socket.socket]] = deque()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # the base class would ask the DNS for this machine's name
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
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
        while self._turned_away and self._turned_away[0][0] < time.monotonic():
            self._turned_away.popleft()[1].close()

    def server_close(self) -> None:
        super().server_close()
        for _, connection in self._turned_away:
            connection.close()
        self._turned_away.clear()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        logger.exception("the local page failed")

    def end_connections(self, seconds: float) -> None:
        """Cut what is still being answered, and wait a little for its threads."""
        with self._lock:
            connections = dict(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        end = time.monotonic() + seconds
        for thread in connections.values():
            thread.join(max(0.0, end - time.monotonic()))

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
        self._turned_away.append((time.monotonic() + 1.0, request))
        if len(self._turned_away) > 64:
            self._turned_away.popleft()[1].close()


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection with one request."""

    server: _Server

    def setup(self) -> None:
        self.connection = self.request
        # what a slow viewer has not read is not worth much memory
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 131_072)
        # the end of a picture is not to wait for an answer to its beginning
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rfile = io.BufferedReader(_Limited(self.connection))

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
        if self.request_version == "HTTP/0.9":
            return
        if self.command not in ("GET", "HEAD"):
            self._answer(HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": "GET, HEAD"})
        elif self.server.loopback and not _is_this_machine(self.headers.get("Host", "")):
            self._answer(HTTPStatus.MISDIRECTED_REQUEST, "ask for localhost or 127.0.0.1")
        elif self.path == "/healthz":
            self._answer_health()
        elif self._may_look():
            self._answer_request(self.path.partition("?")[0])

    def _answer_health(self) -> None:
        if self._try(self.server.view.healthy):
            self._answer(HTTPStatus.OK, "ok")
        else:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "not healthy; /status says why")

    def _answer_request(self, path: str) -> None:
        view = self.server.view
        asset = view.asset(path)
        picture_path = _PICTURE_PATH.fullmatch(path)
        if asset is not None:
            self._send(HTTPStatus.OK, *asset)
        elif path == "/status":
            status = self._try(view.status)
            if status is not None:
                # NaN and the like are no JSON; what can't be shown as it is, is shown as text
                self._send(HTTPStatus.OK, json.dumps(_finite(status), default=str).encode(), "application/json")
            else:
                self._answer(HTTPStatus.INTERNAL_SERVER_ERROR)
        elif path == "/metrics":
            self._send(HTTPStatus.OK, view.exposition(), CONTENT_TYPE)
        elif picture_path is not None and (picture := view.known_picture(picture_path[1])) is not None:
            if picture_path[2] == "stream":
                self._answer_stream(picture)
            elif picture.jpeg is not None:
                self._send(HTTPStatus.OK, picture.jpeg, "image/jpeg")
            else:
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "no picture yet", {"Retry-After": "1"})
        else:
            self._answer(HTTPStatus.NOT_FOUND)

    def _answer_stream(self, picture: _Picture) -> None:
        if not self.server.streams.acquire(blocking=False):
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "too many streams", {"Retry-After": "5"})
            return
        try:
            head = self._head(HTTPStatus.OK, f"multipart/x-mixed-replace; boundary={BOUNDARY}", {})
            if self.command == "HEAD":
                self.connection.sendall(head)
                return
            self.connection.sendall(head + PART_HEAD)
            seen, sent_at = -1, 0.0
            while not self.server.closing.is_set() and not self._gone():
                with picture.changed:
                    if picture.number == seen:
                        picture.changed.wait(1.0)
                    jpeg, number = picture.jpeg, picture.number
                now = time.monotonic()
                if jpeg is None or (number == seen and now - sent_at < REPEAT_SECONDS):
                    seen = number
                    continue
                # Chromium shows a picture once it has the next one's headers, so these come with it; the length,
                # which is not known by then, can't be among them
                self.connection.sendall(jpeg + b"\r\n" + PART_HEAD)
                seen, sent_at = number, now
        finally:
            self.server.streams.release()

    def _may_look(self) -> bool:
        """Whether the password is right; if not, that is answered."""
        server, address = self.server, str(self.client_address[0])
        if server.password is None:
            return True
        given = self.headers.get("Authorization")
        if given is not None:
            wait = server.failures.wait(address)
            if wait > 0:
                self._answer(
                    HTTPStatus.TOO_MANY_REQUESTS, "too many wrong passwords", {"Retry-After": str(int(wait) + 1)}
                )
                return False
            if _is_right(given, server.password):
                return True
            server.failures.add(address)
            logger.warning("wrong password for the local page from %s", address)
        self._answer(
            HTTPStatus.UNAUTHORIZED, headers={"WWW-Authenticate": 'Basic realm="rjpeg device", charset="UTF-8"'}
        )
        return False

    def _gone(self) -> bool:
        """Whether the viewer has closed the connection; it has nothing more to say."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        if not readable:
            return False
        return self.connection.recv(4096) == b""

    def _try(self, function: Callable[[], Any]) -> Any:
        """What a function of the program gives; None, with a line in the log, where it fails."""
        try:
            return function()
        except Exception:
            logger.exception("the local page can't tell the state")
            return None

    def _answer(self, status: HTTPStatus, text: str = "", headers: dict[str, str] | None = None) -> None:
        self._send(status, f"{text or status.phrase.lower()}\n".encode(), "text/plain; charset=utf-8", headers)

    def _send(self, status: HTTPStatus, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        head = self._head(status, kind, {"Content-Length": str(len(body))} | (headers or {}))
        self.connection.sendall(head if self.command == "HEAD" else head + body)

    def _head(self, status: HTTPStatus, kind: str, headers: dict[str, str]) -> bytes:
        self.log_request(status)
        lines = [f"HTTP/1.0 {status.value} {status.phrase}"]
        lines += [f"{name}: {value}" for name, value in (_HEADERS | {"Content-Type": kind} | headers).items()]
        return "\r\n".join([*lines, "", ""]).encode()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """What the base class answers to a request that is no HTTP; nothing of it is repeated."""
        self.connection.settimeout(SEND_SECONDS)
        self.request_version = "HTTP/1.0"
        self._answer(HTTPStatus(code))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        logger.debug("%s %s", self.client_address[0], json.dumps(format % args)[:300])


class _TooLargeError(Exception):
    pass


class _Limited(io.RawIOBase):
    """What a connection sends, for REQUEST_SECONDS and up to MAX_REQUEST_BYTES in all."""

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


def _open_server(listen: str, password: str | None, view: View) -> _Server:
    host, port = parse_address(listen)
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        loopback = ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback
        _check_password(loopback, listen, password)
        return _Server(family, (str(address[0]), port), loopback, password, view)
    except OSError as error:
        raise ConfigError(f"view.listen: can't listen on {listen}: {error.strerror or error}") from error


def _is_this_machine(host: str) -> bool:
    """Whether a Host header names the loopback interface; the port may be that of a tunnel's other end."""
    name = re.sub(r":[0-9]{0,5}$", "", host)
    if name.lower().removesuffix(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def _is_right(authorization: str, password: str) -> bool:
    scheme, _, encoded = authorization.partition(" ")
    try:
        given = base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        return False
    return scheme.lower() == "basic" and hmac.compare_digest(given, f"{USER}:{password}".encode())


def _network(address: str) -> str:
    """Who is taken for one: an IPv4 address, or the 64 bits that one IPv6 machine has to itself."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is None:
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _finite(value: Any) -> Any:
    """The same for JSON, with None in place of NaN and infinity."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and (value != value or abs(value) == float("inf")) else value


def _end(connection: socket.socket) -> None:
    """Close the sending half and read on for a little: closing with unread bytes would cancel the answer."""
    end = time.monotonic() + 1.0
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        for _ in range(16):
            connection.settimeout(max(0.01, end - time.monotonic()))
            if not connection.recv(65536):
                break
