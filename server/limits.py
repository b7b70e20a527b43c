"""What one sender, and all of them together, may take: bytes, time, places, frames a second.

Work is limited by refusing (429) rather than by queueing, and everything is limited before it is taken in.
"""

import asyncio
import contextlib
import json
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import h11
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["HEADER_SECONDS", "Places", "Queue", "Rate", "TimedProtocol", "busy", "read_body"]

HEADER_SECONDS = 10
# of a reader that takes nothing of what it is sent
STALLED_SECONDS = 30
RATE_SECONDS = 2.0
# of a body: pieces that may be of any size, and bytes that the others must have on average
FREE_PIECES, PIECE_BYTES = 1000, 512


def busy(reason: str, seconds: float = 1.0) -> HTTPException:
    """The answer 429 that says when to come again, in whole seconds."""
    return HTTPException(429, reason, {"Retry-After": str(max(1, round(seconds + 0.5)))})


class Places:
    """Frames that are being received, decoded or stored. For the event loop's thread.

    Args:
        of_all: at a time.
        of_camera: at a time, of one camera.
    """

    def __init__(self, of_all: int, of_camera: int) -> None:
        self._of_all, self._of_camera = of_all, of_camera
        self._taken: Counter[str] = Counter()
        self.pending = 0

    @contextlib.contextmanager
    def take(self, camera: str) -> Iterator[None]:
        """Hold a place. Raises HTTPException 429 where there is none."""
        if self.pending >= self._of_all:
            raise busy(f"busy with {self.pending} frames")
        if self._taken[camera] >= self._of_camera:
            raise busy(f"busy with {self._taken[camera]} frames of this camera")
        self.pending += 1
        self._taken[camera] += 1
        try:
            yield
        finally:
            self.pending -= 1
            self._taken[camera] -= 1
            if not self._taken[camera]:
                del self._taken[camera]


class Queue:
    """Something that only so many do at a time, while as many again wait; one more is told to come later."""

    def __init__(self, places: int, waiting: int, what: str) -> None:
        self._semaphore = asyncio.Semaphore(places)
        self._most = places + waiting
        self._inside = 0
        self._what = what

    @contextlib.asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Hold a place, waiting for it if need be. Raises HTTPException 429 where too many wait."""
        if self._inside >= self._most:
            raise busy(f"busy with {self._inside} {self._what}")
        self._inside += 1
        try:
            async with self._semaphore:
                yield
        finally:
            self._inside -= 1


class Rate:
    """Frames a second of each camera, on average over RATE_SECONDS: a bucket of tokens each.

    Args:
        per_second: tokens that a bucket gets; it holds those of RATE_SECONDS, at least one.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._most = max(1.0, per_second * RATE_SECONDS)
        # camera: tokens left, and when that was
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, camera: str, now: float | None = None) -> None:
        """Count a frame. Raises HTTPException 429 where it is one too many."""
        if seconds := self.delay(camera, now):
            raise busy(f"more than {self._per_second:g} frames a second of this camera", seconds)

    def delay(self, camera: str, now: float | None = None) -> float:
        """Count a frame and return 0; or, if it is one too many, return the seconds until it may come."""
        now = time.monotonic() if now is None else now
        left, since = self._buckets.get(camera, (self._most, now))
        left = min(self._most, left + (now - since) * self._per_second)
        if left < 1:
            self._buckets[camera] = (left, now)
            return (1 - left) / self._per_second
        self._buckets[camera] = (left - 1, now)
        if len(self._buckets) > 10_000:
            # buckets that are full again say nothing
            full = self._most / self._per_second
            self._buckets = {name: bucket for name, bucket in self._buckets.items() if now - bucket[1] < full}
        return 0.0


async def read_body(request: Request, max_bytes: int, seconds: float) -> bytes:
    """The body of a request.

    Raises:
        HTTPException: 413 it is or says that it is larger than `max_bytes`, 408 it takes longer than `seconds`,
            400 the sender goes away.
    """
    too_large = HTTPException(413, f"body is larger than {max_bytes} bytes", {"Connection": "close"})
    length = request.headers.get("content-length")
    if length is not None and int(length) > max_bytes:
        await _drain(request, max_bytes, seconds)
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                if len(body) + len(chunk) > max_bytes:
                    raise too_large
                body += chunk
    except TimeoutError:
        raise HTTPException(408, f"body took longer than {seconds:g} s", {"Connection": "close"}) from None
    except ClientDisconnect:
        raise HTTPException(400, "connection closed before the body ended") from None
    return bytes(body)


async def _drain(request: Request, most: int, seconds: float) -> None:
    """Drop up to twice `most` bytes of a body, for a second at most: who still sends would see a reset, no answer."""
    dropped = 0
    with contextlib.suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(min(seconds, 1.0)):
            async for chunk in request.stream():
                dropped += len(chunk)
                if dropped > 2 * most:
                    return


class PiecesLimit(h11.Connection):
    """h11's connection that takes no body in tiny chunks, of which a megabyte would keep the event loop for seconds."""

    _pieces = _bytes = 0

    def next_event(self) -> Any:
        """As h11's. Raises h11.RemoteProtocolError."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._pieces = self._bytes = 0
        elif isinstance(event, h11.Data):
            self._pieces += 1
            self._bytes += len(event.data)
            if self._pieces > FREE_PIECES + self._bytes // PIECE_BYTES:
                raise h11.RemoteProtocolError("body in too small pieces")
        return event


class TimedProtocol(H11Protocol):
    """uvicorn's HTTP with limits.

    Of time: on a request's headers, on a body that nobody reads any more, and on a reader that takes nothing. Where
    there are as many connections as may be, a new one takes the place of that which has been idle longest.
    """

    _deadline: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn = PiecesLimit(h11.SERVER)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # asyncio does so for sockets made with a protocol number alone, which socket.create_server doesn't give: an
        # answer's body would wait for the acknowledgment of its head, 40 ms on Linux
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._set_deadline()
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            others = [other for other in self.connections if isinstance(other, TimedProtocol) and other is not self]
            idle = [(since, id(other), other) for other in others if (since := other.idle_until()) is not None]
            if idle:
                longest = min(idle)[-1]
                self.connections.discard(longest)
                longest._abort()

    def idle_until(self) -> float | None:
        """When the wait for the next request ends, by the loop's clock; None while there is one."""
        timer = self._deadline or self.timeout_keep_alive_task
        busy = self.cycle is not None and not self.cycle.response_complete
        return None if busy or timer is None else timer.when()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, as far as an answer can still be given, and close."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"error": msg}).encode()
            headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))),
                       ("Connection", "close"), ("X-Content-Type-Options", "nosniff")]  # fmt: skip
            answer = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
            for event in (answer, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self._deadline, self._stalled):
            if timer is not None:
                timer.cancel()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(STALLED_SECONDS, self._abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _set_deadline(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEADER_SECONDS, self._close)

    def _close(self) -> None:
        self.transport.close()

    def _abort(self) -> None:
        # closing would wait for the reader
        self.transport.abort()
