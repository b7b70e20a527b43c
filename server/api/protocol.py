"""uvicorn's HTTP/1.1 protocol with limits that neither uvicorn nor h11 has."""

import asyncio
import json
import socket
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["HEADER_SECONDS", "LimitedProtocol"]

HEADER_SECONDS = 10
"""For the head of a request, and for the next request of a connection that is kept."""
STALLED_SECONDS = 30
"""For a client that reads nothing of its answer."""
FREE_CHUNKS = 1000
"""Chunks of a body that may be of any size."""
MIN_CHUNK_BYTES = 512
"""Mean size of the chunks beyond FREE_CHUNKS."""


class LimitedConnection(h11.Connection):
    """An h11 connection that refuses a body in tiny chunks.

    A megabyte in chunks of one byte would keep the event loop busy for seconds.
    """

    _chunks = _bytes = 0

    def next_event(self) -> Any:
        """Return the next event, as h11 does.

        Raises:
            h11.RemoteProtocolError: it is no HTTP, or a body has too many chunks for its size.
        """
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = self._bytes = 0
        elif isinstance(event, h11.Data):
            self._chunks += 1
            self._bytes += len(event.data)
            if self._chunks > FREE_CHUNKS + self._bytes // MIN_CHUNK_BYTES:
                raise h11.RemoteProtocolError("body in too small pieces")
        return event


class LimitedProtocol(H11Protocol):
    """uvicorn's protocol with limits of time and of connections.

    Time is limited for the head of a request, for a body that nobody reads any more, and for a client that reads
    nothing. When there are as many connections as allowed, a new one replaces the one that has been idle longest.
    """

    _deadline: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn = LimitedConnection(h11.SERVER)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection, in place of an idle one if there are too many."""
        super().connection_made(transport)
        # asyncio sets this only for sockets made with a protocol number, which `socket.create_server` doesn't give.
        # Without it, the body of an answer waits for the acknowledgment of its head: 40 ms on Linux.
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._set_deadline()
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            self._end_longest_idle()

    def idle_until(self) -> float | None:
        """Return when the wait for the next request ends, by the loop's clock. None: a request is being answered."""
        timer = self._deadline or self.timeout_keep_alive_task
        return None if self._is_answering() or timer is None else timer.when()

    def send_400_response(self, msg: str) -> None:
        """Close a connection after an answer to what is no HTTP, if an answer can still be sent."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"error": msg}).encode()
            headers = {
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
                "Connection": "close",
                "X-Content-Type-Options": "nosniff",
            }
            answer = h11.Response(status_code=400, headers=list(headers.items()), reason=b"Bad Request")
            for event in (answer, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Take bytes of the client."""
        super().data_received(data)
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection."""
        super().connection_lost(exc)
        for timer in (self._deadline, self._stalled):
            if timer is not None:
                timer.cancel()

    def pause_writing(self) -> None:
        """Note that the client does not read."""
        super().pause_writing()
        self._stalled = self.loop.call_later(STALLED_SECONDS, self._abort)

    def resume_writing(self) -> None:
        """Note that the client reads again."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _set_deadline(self) -> None:
        if self._is_answering():
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEADER_SECONDS, self._close)

    def _end_longest_idle(self) -> None:
        others = [other for other in self.connections if isinstance(other, LimitedProtocol) and other is not self]
        idle = [(since, id(other), other) for other in others if (since := other.idle_until()) is not None]
        if idle:
            longest = min(idle)[-1]
            self.connections.discard(longest)
            longest._abort()

    def _close(self) -> None:
        self.transport.close()

    def _abort(self) -> None:
        # closing would wait for the client to read
        self.transport.abort()
