"""Frames over HTTP: POST /v1/cameras/{camera}/frames, answered once the picture is written.

What comes from the network is hostile: sizes and times are limited before anything is taken in, work is limited
by refusing (429) rather than queueing, and nothing of a request but a checked camera id, number and time gets
into a file's name.
"""

import asyncio
import datetime
import hmac
import ipaddress
import json
import logging
import re
import signal
import socket
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from rjpeg.errors import ConfigError, RjpegError, StorageError
from server.decoding import FrameDecoder, is_written

__all__ = ["Limits", "Received", "Receiver", "open_socket", "parse_address", "serve"]

logger = logging.getLogger(__name__)

CAMERA_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
SEQUENCE = re.compile(r"[0-9]{1,15}")
HEADER_SECONDS = 10
MAX_CONNECTIONS = 512
METRICS_BYTES = 8192
# frames, of one camera and of all; a quarter of a kilobyte each
REMEMBERED, REMEMBERED_IN_ALL = 10_000, 1_000_000

# camera, sequence, capture time
Identity = tuple[str, int, datetime.datetime]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request and all together may take.

    Attributes:
        max_bytes: of a body.
        body_seconds: for a body to arrive.
        workers: frames decoded at a time.
        pending: frames received or decoded at a time; one more is answered with 429.
    """

    max_bytes: int
    body_seconds: float
    workers: int
    pending: int


class Receiver:
    """The ASGI application and its pool of decoding threads.

    A frame that comes again, by its camera, number and capture time, is acknowledged and no more than that: also while
    the first is being decoded, when the second waits for its end. Senders may so send a frame until they have an
    answer. After a restart the files in `out` tell; without `out`, a frame may be decoded twice then.

    Args:
        make_decoder: called once in each thread of the pool.
        out: folder; pictures go to {out}/{camera}/{capture time}-{sequence}. None: they are not written.
        emit: called with the record of every frame, whole or failed; from any thread.
        token: expected as `Authorization: Bearer`; None: anyone may send.
        limits: see Limits.
    """

    def __init__(
        self,
        make_decoder: Callable[[], FrameDecoder],
        out: Path | None,
        emit: Callable[[dict[str, Any]], None],
        token: str | None,
        limits: Limits,
    ) -> None:
        self._make_decoder = make_decoder
        self._local = threading.local()
        self._out = out
        self._emit = emit
        self._token = token
        self._limits = limits
        self._pending = 0
        self._last_receipt = 0
        self._received = Received(REMEMBERED, REMEMBERED_IN_ALL)
        self._under_way: dict[Identity, asyncio.Event] = {}
        self._pool = ThreadPoolExecutor(limits.workers, thread_name_prefix="decode")
        self.app = Starlette(
            routes=[
                Route("/v1/cameras/{camera}/frames", self._post_frame, methods=["POST"]),
                Route("/healthz", self._healthz, methods=["GET"]),
            ],
            exception_handlers={HTTPException: self._answer_error, Exception: self._answer_failure},
        )

    def close(self) -> None:
        """Wait for the frames that are being decoded."""
        self._pool.shutdown()

    async def _healthz(self, request: Request) -> Response:  # noqa: ARG002
        return JSONResponse({"status": "ok", "pending": self._pending})

    async def _post_frame(self, request: Request) -> Response:
        self._check_token(request)
        camera = request.path_params["camera"]
        if not CAMERA_ID.fullmatch(camera):
            raise HTTPException(400, "camera id must be 1 to 64 of A-Z a-z 0-9 _ -")
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "image/jpeg":
            # also keeps web pages that a browser on this machine shows from posting here
            raise HTTPException(415, "Content-Type must be image/jpeg")
        receipt = self._receipt_time()
        sequence, taken = frame_identity(request, receipt)
        metrics = frame_metrics(request)
        # without a number and a time of its own every frame is another one
        identity = None if sequence is None or taken == receipt else (camera, sequence, taken)
        if self._pending >= self._limits.pending:
            raise HTTPException(429, f"busy with {self._pending} frames", {"Retry-After": "1"})
        self._pending += 1
        try:
            body = await self._body(request)
            record = await self._once(identity, body, camera, sequence, taken, metrics)
        finally:
            self._pending -= 1
        return JSONResponse(record, 200 if record.get("duplicate") else 201)

    async def _once(
        self,
        identity: Identity | None,
        body: bytes,
        camera: str,
        sequence: int | None,
        taken: datetime.datetime,
        metrics: dict[str, Any] | None,
    ) -> dict[str, Any]:
        """Process a frame, unless that is done, or being done and ends well."""
        loop = asyncio.get_running_loop()

        async def process() -> dict[str, Any]:
            known = identity is not None
            return await loop.run_in_executor(self._pool, self._process, body, camera, sequence, taken, metrics, known)

        if identity is None:
            return await process()
        while (first := self._under_way.get(identity)) is not None:
            await first.wait()
        if identity in self._received:
            return frame_name(camera, sequence, taken) | {"duplicate": True}
        done = self._under_way[identity] = asyncio.Event()
        try:
            record = await process()
            self._received.add(identity)
        finally:
            del self._under_way[identity]
            done.set()
        return record

    def _check_token(self, request: Request) -> None:
        if self._token is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode(), self._token.encode())
        if scheme.lower() != "bearer" or not right:
            raise HTTPException(401, "wrong or missing token", {"WWW-Authenticate": "Bearer"})

    def _receipt_time(self) -> datetime.datetime:
        """Now in UTC, and never the same twice."""
        self._last_receipt = max(time.time_ns() // 1000, self._last_receipt + 1)
        return datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(microseconds=self._last_receipt)

    async def _body(self, request: Request) -> bytes:
        limit = self._limits.max_bytes
        too_large = HTTPException(413, f"body is larger than {limit} bytes")
        length = request.headers.get("content-length")
        if length is not None and int(length) > limit:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                async for chunk in request.stream():
                    if len(body) + len(chunk) > limit:
                        raise too_large
                    body += chunk
        except TimeoutError:
            raise HTTPException(
                408, f"body took longer than {self._limits.body_seconds:g} s", {"Connection": "close"}
            ) from None
        except ClientDisconnect:
            raise HTTPException(400, "connection closed before the body ended") from None
        return bytes(body)

    def _process(
        self,
        jpeg: bytes,
        camera: str,
        sequence: int | None,
        taken: datetime.datetime,
        metrics: dict[str, Any] | None,
        identified: bool,
    ) -> dict[str, Any]:
        """In a thread of the pool."""
        if not hasattr(self._local, "decoder"):
            self._local.decoder = self._make_decoder()
        record = frame_name(camera, sequence, taken)
        stem = None
        if self._out is not None:
            name = record["capture_time"].replace("-", "").replace(":", "")
            stem = self._out / camera / (name if sequence is None else f"{name}-{sequence:08d}")
            if identified and is_written(stem):
                return record | {"duplicate": True}
        if metrics is not None:
            record["metrics"] = metrics
        try:
            record |= self._local.decoder.process(jpeg, stem)
        except RjpegError as error:
            self._emit(record | {"bytes": len(jpeg), "error": str(error)})
            if isinstance(error, StorageError):
                # which folder it was is not for the sender to know
                logger.error("%s", error)
                raise HTTPException(507, "the server can't write the picture", {"Retry-After": "10"}) from error
            raise HTTPException(422, str(error)) from error
        self._emit(record)
        return record

    async def _answer_error(self, request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        logger.warning("%s %s: %d %s", request.method, quoted(request.url.path), error.status_code, error.detail)
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    async def _answer_failure(self, request: Request, error: Exception) -> Response:
        logger.error("%s %s failed", request.method, quoted(request.url.path), exc_info=error)
        return JSONResponse({"error": "internal error"}, 500)


class Received:
    """The frames that were received last.

    Args:
        of_camera: most that are remembered of one camera.
        of_all: most in all; beyond, the camera that was longest unheard of loses its oldest.
    """

    def __init__(self, of_camera: int, of_all: int) -> None:
        self._of_camera = of_camera
        self._of_all = of_all
        self._total = 0
        self._cameras: OrderedDict[str, OrderedDict[tuple[int, datetime.datetime], None]] = OrderedDict()

    def __contains__(self, identity: Identity) -> bool:
        camera, *frame = identity
        return tuple(frame) in self._cameras.get(camera, ())

    def add(self, identity: Identity) -> None:
        """Remember a frame."""
        camera, sequence, taken = identity
        frames = self._cameras.setdefault(camera, OrderedDict())
        self._cameras.move_to_end(camera)
        self._total += (sequence, taken) not in frames
        frames[(sequence, taken)] = None
        if len(frames) > self._of_camera:
            self._forget(camera)
        if self._total > self._of_all:
            self._forget(next(iter(self._cameras)))

    def _forget(self, camera: str) -> None:
        frames = self._cameras[camera]
        frames.popitem(last=False)
        self._total -= 1
        if not frames:
            del self._cameras[camera]


class TimedProtocol(H11Protocol):
    """uvicorn's HTTP with a time limit on a request's headers, and on a body that nobody reads any more."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._set_deadline()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._deadline is not None:
            self._deadline.cancel()

    def _set_deadline(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEADER_SECONDS, self._close)

    def _close(self) -> None:
        self.transport.close()


def frame_identity(request: Request, receipt: datetime.datetime) -> tuple[int | None, datetime.datetime]:
    """Number (None if not given) and time in UTC (`receipt` if not given) of a frame, from headers or query.

    Raises:
        HTTPException: 400, either is malformed.
    """
    number = request.headers.get("rjpeg-sequence", request.query_params.get("sequence"))
    if number is not None and not SEQUENCE.fullmatch(number):
        raise HTTPException(400, "sequence must be an integer of at most 15 digits")
    text = request.headers.get("rjpeg-capture-time", request.query_params.get("capture_time"))
    taken = receipt
    if text is not None:
        try:
            taken = datetime.datetime.fromisoformat(text)
            if taken.tzinfo is None:
                raise ValueError
            taken = taken.astimezone(datetime.UTC)
        except (ValueError, OverflowError):
            raise HTTPException(400, "capture time must be ISO 8601 with a time zone") from None
    return (None if number is None else int(number)), taken


def frame_name(camera: str, sequence: int | None, taken: datetime.datetime) -> dict[str, Any]:
    """What a frame's record begins with."""
    time_text = taken.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return {"camera": camera, "sequence": sequence, "capture_time": time_text}


def frame_metrics(request: Request) -> dict[str, Any] | None:
    """The JSON object in the header Rjpeg-Metrics, None if there is no such header.

    Raises:
        HTTPException: 400, it is too long, no JSON object, or holds what couldn't be written as JSON again.
    """
    text = request.headers.get("rjpeg-metrics")
    if text is None:
        return None
    try:
        metrics = json.loads(text) if len(text) <= METRICS_BYTES else None
        # no infinities and no lone surrogates, which would fail where the record is written
        json.dumps(metrics, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        metrics = None
    if not isinstance(metrics, dict):
        raise HTTPException(400, f"metrics must be a JSON object of at most {METRICS_BYTES} bytes")
    return metrics


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`, `[IPV6]:PORT`. Raises ConfigError."""
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ConfigError(f"listen address {text!r}, expected HOST:PORT with a port from 0 (any) to 65535")
    return host.removeprefix("[").removesuffix("]"), int(port)


def open_socket(host: str, port: int, *, token: str | None) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: the address can't be listened on, or isn't on loopback and there is no token.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        if token is None and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
            raise ConfigError(
                f"listening on {host or 'all addresses'} needs --token-file: anyone who reaches it could send frames. "
                "Make one with: (umask 077; openssl rand -hex 32 > token)"
            )
        return socket.create_server(address[:2], family=family, backlog=MAX_CONNECTIONS)
    except OSError as error:
        raise ConfigError(f"can't listen on {host}:{port}: {error.strerror or error}") from error


def serve(receiver: Receiver, listening: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM; requests that are being answered are finished first (10 s at most)."""
    config = uvicorn.Config(
        receiver.app,
        http=TimedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=HEADER_SECONDS,
        timeout_graceful_shutdown=10,
        limit_concurrency=MAX_CONNECTIONS,
    )
    server = uvicorn.Server(config)

    def stop(*_: object) -> None:
        # before uvicorn listens to signals itself; and after, when it raises them once more
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    host, port = listening.getsockname()[:2]
    print(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}", file=sys.stderr, flush=True)
    try:
        server.run(sockets=[listening])
    finally:
        receiver.close()


def quoted(path: str) -> str:
    """A path of the sender's choosing in a form that can't forge lines of a log."""
    return json.dumps(path[:200])
